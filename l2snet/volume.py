"""Voxels and their grid: the two types that carry geometry through the whole program.

Arrays, sizes, spacings and direction columns are in array order (z, y, x); the world is LPS in mm.
A voxel index ``i`` (array order) lies at ``origin_mm + direction @ (i * spacing_mm)``.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from l2snet.errors import InputError, OutputError, reason
from l2snet.files import whole
from l2snet.images import metaimage, nifti, nrrd

logger = logging.getLogger(__name__)

Array = NDArray[Any]

# Scanner files round their spacing to about six digits: over 1000 voxels that moves the far corner by 0.01 voxel.
SAME_GRID_VOXELS = 0.1
# A direction cosine rounded to three digits; above it an axis is oblique (0.06 degrees).
AXIS_ALIGNED_COSINE = 1e-3
# Columns of a direction: their products are to be those of the unit matrix, as closely as three digits tell.
ORTHONORMAL = 1e-3
# Beyond these float32 and scanners end: voxels of a metre, a kilometre from the table.
MAX_SPACING_MM = 1e3
MAX_ORIGIN_MM = 1e6
# World axes of the canonical order: array axes run to the Superior, Posterior and Left.
CANONICAL_WORLD_AXES = (2, 1, 0)
READABLE_SUFFIXES = (".mha", ".mhd", ".nii", ".nii.gz", ".nrrd")
# Not .mhd: its voxels lie in a second file, and two files cannot be renamed at once.
WRITABLE_SUFFIXES = (".mha", ".nii", ".nii.gz", ".nrrd")
INTEGER_PIXELS = (
    *(sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkUInt32, sitk.sitkUInt64),
    *(sitk.sitkInt8, sitk.sitkInt16, sitk.sitkInt32, sitk.sitkInt64),
)
METAIMAGE_SUFFIXES = (".mha", ".mhd")


@dataclass(frozen=True)
class Geometry:
    """A grid without voxels.

    Attributes
    ----------
    size : (z, y, x) voxels.
    spacing_mm : (z, y, x), all positive.
    origin_mm : world (L, P, S) of the first voxel's centre.
    direction : 3 x 3 tuple of rows (L, P, S); column k is the world direction of array axis k. Orthonormal.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[tuple[float, ...], ...] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"an image of {self} has no voxels; expected at least one along every axis")
        if not all(np.isfinite(s) and 0 < s <= MAX_SPACING_MM for s in self.spacing_mm):
            raise InputError(
                f"a voxel spacing of {self.spacing_mm} mm was found; expected positive numbers up to {MAX_SPACING_MM:g}"
            )
        if not all(abs(o) <= MAX_ORIGIN_MM for o in self.origin_mm):
            raise InputError(f"an origin of {self.origin_mm} mm was found; expected numbers up to {MAX_ORIGIN_MM:g}")
        matrix = np.asarray(self.direction)
        if matrix.shape != (3, 3) or not (np.abs(matrix) < 2).all() or _apart(matrix.T @ matrix) > ORTHONORMAL:
            raise InputError(f"the direction cosines {self.direction} are not orthonormal; convert the image again")

    def __str__(self) -> str:
        """Sizes in the (x, y, z) order that viewers show."""
        size = " x ".join(str(n) for n in self.size[::-1])
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_mm[::-1])
        origin = ", ".join(f"{o:.1f}" for o in self.origin_mm)
        rows = "; ".join(" ".join(f"{c:.3g}" for c in row[::-1]) for row in self.direction)
        return f"{size} voxels of {spacing} mm at ({origin}), axes [{rows}]"

    @cached_property
    def affine(self) -> Array:
        """(4, 4) float64: homogeneous array index to world LPS in mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(self.direction) * np.asarray(self.spacing_mm)
        affine[:3, 3] = self.origin_mm
        return affine

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def is_axis_aligned(self) -> bool:
        """Whether every array axis lies along a world axis."""
        cosines = np.abs(np.asarray(self.direction))
        return bool(np.all((cosines < AXIS_ALIGNED_COSINE) | (cosines > 1 - AXIS_ALIGNED_COSINE)))

    def world(self, index: Array) -> Array:
        """World LPS in mm, (..., 3), of array indices (..., 3)."""
        return np.asarray(index) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def corners_mm(self) -> Array:
        """(8, 3) world positions of the outer corners of the corner voxels."""
        ends = [(-0.5, n - 0.5) for n in self.size]
        return self.world(np.array([(z, y, x) for z in ends[0] for y in ends[1] for x in ends[2]]))

    def covered(self, other: Geometry) -> tuple[float, float, float]:
        """The share of the other grid's extent along each of its axes that this one reaches, 0 to 1."""
        ours, theirs = (grid.corners_mm() @ np.asarray(other.direction) for grid in (self, other))
        common = np.minimum(ours.max(axis=0), theirs.max(axis=0)) - np.maximum(ours.min(axis=0), theirs.min(axis=0))
        z, y, x = (float(share) for share in np.clip(common / np.ptp(theirs, axis=0), 0.0, 1.0))
        return z, y, x

    def matches(self, other: Geometry) -> bool:
        """Whether both grids put every voxel in the same place, to a tenth of a voxel."""
        if self.size != other.size:
            return False
        apart = np.abs(self.corners_mm() - other.corners_mm()).max()
        return bool(apart <= SAME_GRID_VOXELS * min(self.spacing_mm))

    def canonical_axes(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """The array axes that lie nearest to Superior, Posterior and Left, and which of them must be flipped.

        Found from the direction cosines, never from the array's order: the second axis returned is the coronal one.
        """
        matrix = np.asarray(self.direction)
        best = max(
            permutations(range(3)),
            key=lambda axes: sum(abs(matrix[w, a]) for w, a in zip(CANONICAL_WORLD_AXES, axes, strict=True)),
        )
        flips = [bool(matrix[w, a] < 0) for w, a in zip(CANONICAL_WORLD_AXES, best, strict=True)]
        return (best[0], best[1], best[2]), (flips[0], flips[1], flips[2])

    def canonical(self) -> Geometry:
        """The same voxels with array axes towards Superior, Posterior and Left."""
        axes, flips = self.canonical_axes()
        matrix = np.asarray(self.direction)
        first = np.zeros(3)
        signs = np.ones(3)
        for axis, flip in zip(axes, flips, strict=True):
            if flip:
                first[axis] = self.size[axis] - 1
                signs[axis] = -1
        return Geometry(
            size=_triple(self.size[a] for a in axes),
            spacing_mm=_triple(self.spacing_mm[a] for a in axes),
            origin_mm=_triple(float(v) for v in self.world(first)),
            direction=tuple(tuple(float(matrix[w, a] * signs[a]) for a in axes) for w in range(3)),
        )

    def crop(self, start: tuple[int, int, int], size: tuple[int, int, int]) -> Geometry:
        """The grid of the box of `size` voxels that begins at index `start` (which may be negative)."""
        return replace(self, size=size, origin_mm=_triple(float(v) for v in self.world(np.array(start))))

    def axis_aligned_cover(self, spacing_mm: tuple[float, float, float]) -> Geometry:
        """A canonical LPS-aligned grid of the given (z, y, x) spacing that covers this one, oblique or not."""
        corners = self.corners_mm()[:, list(CANONICAL_WORLD_AXES)]
        low, high = corners.min(axis=0), corners.max(axis=0)
        spacing = np.asarray(spacing_mm)
        # A thousandth of a voxel is forgiven, so that rounding does not add a slice.
        size = np.maximum(1, np.ceil((high - low) / spacing - 1e-3))
        centre = (low + high) / 2
        first = centre - (size - 1) / 2 * spacing
        return Geometry(
            size=_triple(int(n) for n in size),
            spacing_mm=spacing_mm,
            origin_mm=_triple(float(v) for v in first[::-1]),
        )


@dataclass(frozen=True)
class Volume:
    """Voxels (z, y, x) and their grid."""

    array: Array
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.size:
            raise ValueError(f"an array of shape {self.array.shape} does not fit a grid of {self.geometry.size}")

    def with_array(self, array: Array) -> Volume:
        """Other voxels on the same grid."""
        return Volume(array, self.geometry)

    def canonical(self) -> Volume:
        """A view with array axes towards Superior, Posterior and Left; no voxel value changes."""
        axes, flips = self.geometry.canonical_axes()
        array = self.array.transpose(axes)
        array = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
        return Volume(array, self.geometry.canonical())

    def to_grid(self, target: Geometry, outside: float, nearest: bool = False) -> Volume:
        """These voxels on another grid.

        Where both grids have their voxels in the same places, to a tenth of a voxel, as a box cut from the other or in
        another axis order, values are moved and not interpolated; the result may share memory with this volume.

        Parameters
        ----------
        outside : value where the target reaches beyond this volume; the array's type must hold it.
        nearest : nearest neighbour (label maps) instead of trilinear interpolation.
        """
        mine, canonical = self.canonical(), target.canonical()
        start = _whole_voxels(mine.geometry, canonical)
        if start is not None:
            array = _placed(mine.array, start, canonical.size, outside)
            axes, flips = target.canonical_axes()
            array = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
            return Volume(np.ascontiguousarray(array.transpose(np.argsort(axes))), target)
        filter_ = sitk.ResampleImageFilter()
        filter_.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
        filter_.SetDefaultPixelValue(outside)
        filter_.SetSize(target.size[::-1])
        filter_.SetOutputSpacing(target.spacing_mm[::-1])
        filter_.SetOutputOrigin(target.origin_mm)
        filter_.SetOutputDirection(_itk_direction(target))
        return Volume(sitk.GetArrayFromImage(filter_.Execute(self.to_sitk())), target)

    def to_sitk(self) -> sitk.Image:
        """A SimpleITK image (a copy)."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(self.array))
        image.SetSpacing(self.geometry.spacing_mm[::-1])
        image.SetOrigin(self.geometry.origin_mm)
        image.SetDirection(_itk_direction(self.geometry))
        return image

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> Volume:
        """A volume from a 3D scalar SimpleITK image (a copy)."""
        return cls(sitk.GetArrayFromImage(image), _itk_geometry(image))


def _whole_voxels(grid: Geometry, target: Geometry) -> tuple[int, ...] | None:
    """Where in the target this grid's first voxel is, if all of its voxels are where the target has its own."""
    away = np.asarray(target.direction).T @ np.subtract(grid.origin_mm, target.origin_mm) / target.spacing_mm
    start = _triple(round(float(v)) for v in away)
    return start if target.crop(start, grid.size).matches(grid) else None


def _placed(array: Array, start: tuple[int, ...], size: tuple[int, ...], outside: float) -> Array:
    """The part of an array that lies in a grid of `size`, in whose voxels it begins at `start`; `outside` around it."""
    pairs = [(max(0, at), min(n, at + mine)) for at, mine, n in zip(start, array.shape, size, strict=True)]
    part = array[tuple(slice(low - at, max(high - at, 0)) for (low, high), at in zip(pairs, start, strict=True))]
    if part.shape == size:
        return part
    whole_array = np.full(size, outside, array.dtype)
    if part.size:
        whole_array[tuple(slice(low, high) for low, high in pairs)] = part
    return whole_array


def read_volume(path: Path, what: str, keep_integers: bool = False) -> Volume:
    """Read a 3D scalar image as float32 (.mha, .mhd, .nii, .nii.gz or .nrrd).

    What the header claims is held against the file's size before a voxel is given room.

    Parameters
    ----------
    what : how errors call the image, such as "PET".
    keep_integers : leave integers in the file's own type: a mask of bytes takes a quarter of the memory.

    Raises
    ------
    InputError : the file is missing, unreadable, cut off, not 3D, not scalar, or holds NaN or infinity.
    """
    if not path.is_file():
        raise InputError(f"{what}: there is no file {path}")
    label = f"{what}: {path.name}"
    try:
        volume = _read(path, keep_integers)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    except (RuntimeError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{label} cannot be read: it is cut off, damaged or not what its ending says ({reason(error)})"
        ) from error
    bad = 0 if volume.array.dtype.kind in "iu" else volume.array.size - int(np.isfinite(volume.array).sum())
    if bad:
        raise InputError(f"{label} holds {bad} voxels that are NaN or infinite; expected finite numbers")
    return volume


def write_volume(volume: Volume, path: Path, compress: bool) -> None:
    """Write a volume, whole or not at all.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    suffix = next((s for s in WRITABLE_SUFFIXES if path.name.endswith(s)), None)
    if suffix is None:
        raise OutputError(f"{path.name} has no known ending; expected one of {', '.join(WRITABLE_SUFFIXES)}")
    try:
        _check_name(path)
    except ValueError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
    with whole(path) as aside:
        sitk.WriteImage(volume.to_sitk(), str(aside), useCompression=compress)
        if suffix in nifti.SUFFIXES:
            nifti.check_written(aside, volume.array.nbytes)


def _read(path: Path, keep_integers: bool) -> Volume:
    """Header first, then voxels; the subject of a refusal is the file, or its grid."""
    name = path.name.lower()
    _check_name(path)
    if name.endswith(METAIMAGE_SUFFIXES):
        header = metaimage.read_header(path)
        geometry = _metaimage_geometry(header)
        return Volume(metaimage.read_voxels(header, keep_integers), geometry)
    if not name.endswith(READABLE_SUFFIXES):
        raise ValueError(f"its ending is none of {', '.join(READABLE_SUFFIXES)}")
    if name.endswith(nifti.SUFFIXES):
        geometry = _nifti_geometry(*nifti.read_grid(path))
        return Volume(nifti.read_voxels(path, keep_integers), geometry)
    nrrd.check_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
    if dimension != 3 or components != 1:
        raise InputError(f"it is a {dimension}D image with {components} value(s) a voxel; expected a 3D image with one")
    geometry = _itk_geometry(reader)
    if not (keep_integers and reader.GetPixelID() in INTEGER_PIXELS):
        reader.SetOutputPixelType(sitk.sitkFloat32)
    return Volume(sitk.GetArrayFromImage(reader.Execute()), geometry)


def _check_name(path: Path) -> None:
    """Refuse a name of bytes that are no text: ITK ends the process on it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("its name, or a folder's, is not UTF-8; rename it") from error


def _metaimage_geometry(header: metaimage.Header) -> Geometry:
    return Geometry(
        size=_triple(header.size[::-1]),
        spacing_mm=_triple(header.spacing_mm[::-1]),
        origin_mm=_triple(header.origin_mm),
        direction=tuple(tuple(float(c) for c in row) for row in header.axes[::-1].T),
    )


def _nifti_geometry(size: tuple[int, ...], affine: Array) -> Geometry:
    """The grid of a size (x, y, z) and an affine from such an index to LPS in mm."""
    columns = affine[:3, 2::-1]
    spacing_mm = np.linalg.norm(columns, axis=0)
    direction = columns / np.where(spacing_mm > 0, spacing_mm, 1.0)
    return Geometry(
        size=_triple(size[::-1]),
        spacing_mm=_triple(float(s) for s in spacing_mm),
        origin_mm=_triple(float(o) for o in affine[:3, 3]),
        direction=tuple(tuple(float(c) for c in row) for row in direction),
    )


def _itk_geometry(image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    direction = np.asarray(image.GetDirection()).reshape(3, 3)[:, ::-1]
    return Geometry(
        size=_triple(image.GetSize()[::-1]),
        spacing_mm=_triple(image.GetSpacing()[::-1]),
        origin_mm=_triple(image.GetOrigin()),
        direction=tuple(tuple(float(c) for c in row) for row in direction),
    )


def _itk_direction(geometry: Geometry) -> list[float]:
    return [float(c) for c in np.asarray(geometry.direction)[:, ::-1].ravel()]


def _apart(products: Array) -> float:
    """How far a matrix is from the unit matrix."""
    return float(np.abs(products - np.eye(3)).max())


def _triple(values: Any) -> Any:
    a, b, c = values
    return (a, b, c)
