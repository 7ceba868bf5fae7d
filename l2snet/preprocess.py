"""What training and inference do alike before a network sees a case: the working grid, the body, intensity windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2snet.case import AIR_HU, Case
from l2snet.errors import InputError
from l2snet.volume import Array, Geometry

# The grid of FDG-PET-CT-Lesions (paper, section 3.1), (z, y, x).
WORKING_SPACING_MM = (3.0, 2.036, 2.036)
# A PET this close to the working spacing is taken as on it: over a window of 160 voxels less than one voxel of drift.
SAME_SPACING = 0.005
# A PET that spans less is no part of a body: its spacing is in metres.
MIN_EXTENT_MM = 5.0
# 1 GiB as float32; a total-body PET at the working spacing has a tenth of it.
MAX_WORKING_VOXELS = 2**28
# The body is found on blocks of 4 voxels (12 x 8 x 8 mm), whose mean hides the noise of air.
BLOCK = 4
BODY_BLOCK_SUV = 0.1
# Smaller pieces (a syringe, a marker, noise) are not body; a hand is about 300 ml.
MIN_BODY_PIECE_ML = 50.0


@dataclass(frozen=True)
class Window:
    """A linear intensity window: `low`..`high` is clipped and mapped onto `to_low`..`to_high`."""

    low: float
    high: float
    to_low: float = 0.0
    to_high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a window from {self.low} to {self.high} is empty")

    def __call__(self, array: Array) -> Array:
        """A new float32 array of the same shape, in `to_low`..`to_high`."""
        out: Array = np.clip(array, self.low, self.high, dtype=np.float32)
        out -= self.low
        out *= (self.to_high - self.to_low) / (self.high - self.low)
        out += self.to_low
        return out


@dataclass(frozen=True)
class LogScale:
    """log2(`offset` + x), negative x taken as 0; with the default, SUV 0 stays 0 (the PET of Step-by-Step)."""

    offset: float = 1.0

    def __post_init__(self) -> None:
        if not self.offset > 0:
            raise ValueError(f"a logarithm of {self.offset} + x is not defined at 0; expected a positive offset")

    def __call__(self, array: Array) -> Array:
        """A new float32 array of the same shape."""
        out: Array = np.maximum(array, 0, dtype=np.float32)
        out += self.offset
        return np.log2(out, out=out)


Intensity = Window | LogScale


def intensity(values: Mapping[str, float]) -> Intensity:
    """The intensity rule whose fields these are."""
    return LogScale(**values) if "offset" in values else Window(**values)


@dataclass(frozen=True)
class Body:
    """A case on the working grid, in canonical axes (Superior, Posterior, Left), cut to the box that holds the body.

    Attributes
    ----------
    suv : (z, y, x) float32 SUV; where nothing is resampled a view of the case's own voxels, not to be written to.
    ct : (z, y, x) float32 HU, or None; as `suv`.
    mask : (z, y, x) bool, the body with a margin of one to two blocks; predictions are made there only.
    geometry : the box's grid.
    """

    suv: Array
    ct: Array | None
    mask: Array
    geometry: Geometry


def working_geometry(geometry: Geometry, spacing_mm: tuple[float, float, float] = WORKING_SPACING_MM) -> Geometry:
    """The grid on which the networks work on a PET of this grid.

    A PET that lies along the world axes with the working spacing keeps its voxels (only the axes' order and sense may
    change); any other, oblique ones too, gets an LPS-aligned grid that covers it.

    Raises
    ------
    InputError : the PET is too small or too large for a body, as where its spacing is in another unit.
    """
    extent_mm = np.array(geometry.size) * geometry.spacing_mm
    voxels = float(np.prod(extent_mm / spacing_mm))
    if extent_mm.max() < MIN_EXTENT_MM or voxels > MAX_WORKING_VOXELS:
        shown = " x ".join(f"{mm:.4g}" for mm in extent_mm[::-1])
        raise InputError(f"the PET spans {shown} mm, which is no part of a body; is its voxel spacing in mm?")
    canonical = geometry.canonical()
    relative = np.abs(np.array(canonical.spacing_mm) / np.array(spacing_mm) - 1)
    if canonical.is_axis_aligned and relative.max() < SAME_SPACING:
        return canonical
    cover = geometry.axis_aligned_cover(spacing_mm)
    if math.prod(cover.size) > MAX_WORKING_VOXELS:
        raise InputError(f"the PET ({geometry}) is oblique and would be {cover}; expected a body: turn it upright")
    return cover


def prepare(case: Case, spacing_mm: tuple[float, float, float] = WORKING_SPACING_MM, whole_grid: bool = False) -> Body:
    """Bring a case onto the working grid and cut it to the body.

    Parameters
    ----------
    whole_grid : keep the full grid and call all of it body (to measure what the body box leaves out).

    Raises
    ------
    InputError : the PET shows no body.
    """
    grid = working_geometry(case.geometry, spacing_mm)
    suv = case.suv.to_grid(grid, outside=0.0).array
    mask = np.ones(suv.shape, dtype=bool) if whole_grid else body_mask(suv, grid.voxel_ml)
    if not mask.any():
        block = " x ".join([str(BLOCK)] * 3)
        raise InputError(f"no body was found in the PET: no block of {block} voxels is above SUV {BODY_BLOCK_SUV:g}")
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    start = tuple(s.start for s in box)
    size = tuple(s.stop - s.start for s in box)
    ct = None if case.ct is None else _cut(case.ct.to_grid(grid, outside=AIR_HU).array, box, case.ct.array)
    return Body(
        suv=_cut(suv, box, case.suv.array),
        ct=ct,
        mask=mask[box],
        geometry=grid.crop(start, size),
    )


def _cut(array: Array, box: tuple[slice, ...], own: Array) -> Array:
    """A box as float32: a view of the case's own voxels, else a copy, so that the grid around it can go."""
    own_voxels = array.dtype == np.float32 and np.may_share_memory(array, own)
    return array[box] if own_voxels else np.ascontiguousarray(array[box], np.float32)


def body_mask(suv: Array, voxel_ml: float) -> Array:
    """Where the body is: (z, y, x) bool, generous by one to two blocks of `BLOCK` voxels.

    Taken from the PET alone, so that a CT table, blankets or a missing CT change nothing.
    """
    warm = means(suv, (BLOCK,) * 3) > BODY_BLOCK_SUV
    labels, _ = ndimage.label(warm, np.ones((3, 3, 3)))
    pieces_ml = np.bincount(labels.ravel()) * voxel_ml * BLOCK**3
    keep = pieces_ml >= min(MIN_BODY_PIECE_ML, pieces_ml[1:].max(initial=0.0))
    keep[0] = False
    body = ndimage.binary_dilation(ndimage.binary_fill_holes(keep[labels]), np.ones((3, 3, 3)))
    full: Array = body.repeat(BLOCK, 0).repeat(BLOCK, 1).repeat(BLOCK, 2)
    whole: Array = full[: suv.shape[0], : suv.shape[1], : suv.shape[2]]
    return whole


def pad_to(array: Array, size: tuple[int, ...], value: float) -> tuple[Array, tuple[slice, ...]]:
    """Pad the last axes with `value`, evenly on both sides, to at least `size`; also the slices that undo it."""
    lead = array.ndim - len(size)
    widths = [(0, 0)] * lead
    undo = [slice(None)] * lead
    for n, wanted in zip(array.shape[lead:], size, strict=True):
        before = max(0, wanted - n) // 2
        widths.append((before, max(0, wanted - n) - before))
        undo.append(slice(before, before + n))
    if not any(a or b for a, b in widths):
        return array, tuple(undo)
    return np.pad(array, widths, constant_values=value), tuple(undo)


def means(array: Array, stride: Sequence[int]) -> Array:
    """Means over blocks of `stride` voxels along the last axes, float32; a short last block repeats its last voxels."""
    out = np.asarray(array, np.float32)
    for axis, step in enumerate(stride, out.ndim - len(stride)):
        if step > 1:
            if out.shape[axis] % step:
                pad = [(0, -n % step if i == axis else 0) for i, n in enumerate(out.shape)]
                out = np.pad(out, pad, mode="edge")
            # Whole arrays added: NumPy's mean over an inner axis so short takes several times as long.
            lead = (slice(None),) * axis
            total = out[(*lead, slice(0, None, step))] + out[(*lead, slice(1, None, step))]
            for k in range(2, step):
                total += out[(*lead, slice(k, None, step))]
            total /= step
            out = total
    return out


def fullest(mask: Array, stride: Sequence[int]) -> Array:
    """Blocks of `stride` voxels that a (z, y, x) mask fills by half, and those it fills more than their neighbours.

    Half alone would leave out what is smaller than a block: of spheres of 8 mm, half would be on no block of 6 mm. Of
    two small things in neighbouring blocks only the larger has one.

    Returns
    -------
    (z, y, x) bool, of the blocks, as `means` has them.
    """
    voxels = math.prod(stride)
    filled = np.rint(means(mask, stride) * voxels)  # whole numbers again, so that equal ones are equal
    by_half: Array = 2 * filled >= voxels
    if voxels == 1 or not filled.any():
        return by_half
    peak = (filled > 0) & (filled == ndimage.maximum_filter(filled, 3))
    by_half |= peak
    return by_half


def between_means(array: Array, stride: Sequence[int], size: Sequence[int]) -> Array:
    """What `means` of a volume of `size` were given for, back at its voxels: linear between the blocks' centres.

    Beyond the outermost centres values are held. The last axes are those of `stride`.
    """
    for axis, (step, n) in enumerate(zip(stride, size, strict=True), array.ndim - len(stride)):
        if step > 1:
            last = array.shape[axis] - 1
            at = np.clip((np.arange(n) + 0.5) / step - 0.5, 0, last)
            low = at.astype(np.intp)
            part = (at - low).astype(np.float32).reshape([-1] + [1] * (array.ndim - axis - 1))
            below, above = array.take(low, axis), array.take(np.minimum(low + 1, last), axis)
            above -= below
            above *= part
            above += below
            array = above
    return array
