"""NIfTI (.nii, .nii.gz): grid and voxels, by nibabel.

Not read by ITK, which fills a file that is cut off, and NaN, with zeros, and takes another grid where one is sheared.
"""

from __future__ import annotations

import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2snet.errors import InputError
from l2snet.images.claims import check_size, check_stored

Array = NDArray[Any]

SUFFIXES = (".nii", ".nii.gz")
PACKED = ".gz"
# What ITK writes before the voxels.
HEADER_BYTES = 352
# NIfTI's world is RAS, ours is LPS; and its unit may be another.
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNITS_MM = {"meter": 1000.0, "micron": 0.001}


def read_grid(path: Path) -> tuple[tuple[int, ...], Array]:
    """Size (x, y, z), and the affine (4, 4) from such an index to LPS in mm: the sform, or the qform without one.

    Without either, axes run along L, P and S from a first voxel at 0, as SimpleITK has it.

    Raises
    ------
    InputError : its subject is the file; it is not 3D and scalar, a number has no sense, or it cannot hold its voxels.
    ValueError, OSError : it is no NIfTI, or cannot be opened.
    """
    image = _load(path)
    with _own_errors():
        size = tuple(int(n) for n in image.shape)
        dtype = np.dtype(image.get_data_dtype())
        affine: Array = TO_LPS @ np.array(image.affine, dtype=np.float64)
        affine[:3] *= UNITS_MM.get(image.header.get_xyzt_units()[0], 1.0)
        header = _as_written(path, type(image.header))
        if not (image.header["sform_code"] > 0 or image.header["qform_code"] > 0):
            affine = np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
    if len(size) < 3 or math.prod(size[3:]) != 1 or dtype.kind not in "iuf":
        values = {"V": 3, "c": 2}.get(dtype.kind, 1)
        raise InputError(f"it is a {len(size)}D image with {values} value(s) a voxel; expected a 3D image with one")
    check_size(size[:3])
    spacing_mm = header["pixdim"][1:4]
    if not (np.isfinite(spacing_mm) & (spacing_mm > 0)).all():
        raise InputError(f"it has a voxel spacing of {spacing_mm.tolist()} mm; expected positive numbers")
    if np.isinf([header["scl_slope"], header["scl_inter"]]).any():
        raise InputError("it has values to be scaled by infinity; expected a number: convert the image again")
    check_stored(path.stat().st_size, math.prod(size) * dtype.itemsize, path.name.lower().endswith(PACKED))
    return size[:3], affine


def read_voxels(path: Path, keep_integers: bool = False) -> Array:
    """(z, y, x) of a file whose grid was read: float32, or plain integers in the file's own type where they are kept.

    Raises
    ------
    ValueError, OSError, EOFError, zlib.error : the voxels cannot be read.
    """
    image = _load(path)
    data = image.dataobj
    plain = keep_integers and data.dtype.kind in "iu" and (data.slope, data.inter) == (1, 0)
    with _own_errors(), np.errstate(over="ignore", invalid="ignore"):
        array: Array = np.asarray(data) if plain else image.get_fdata(dtype=np.float32, caching="unchanged")
    return np.ascontiguousarray(array.reshape(array.shape[:3]).T)


def _load(path: Path) -> Any:
    from nibabel import Nifti1Image, load

    with _own_errors():
        image = load(path)
    if not isinstance(image, Nifti1Image):  # NIfTI-2 is a kind of it
        raise ValueError("it is no single-file NIfTI")
    return image


def _as_written(path: Path, kind: Any) -> Any:
    """The header before nibabel mends it: a spacing of 0 would be 1."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as file:
        return kind.from_fileobj(file, check=False)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Nibabel's errors as ValueError; its remarks on a header are left out, for good: files are read by threads."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import logger
    from nibabel.spatialimages import HeaderDataError

    logger.setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="nibabel")
    try:
        yield
    except (ImageFileError, HeaderDataError, OverflowError, TypeError, KeyError) as error:
        raise ValueError(str(error)) from error


def check_written(path: Path, voxel_bytes: int) -> None:
    """ITK only prints that a disk is full while it writes NIfTI, and leaves a file that is cut off.

    Raises
    ------
    OSError : the file holds fewer bytes than its header and voxels have, or its packing has no end.
    """
    written = 0
    with (
        suppress(EOFError, zlib.error),
        gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file,
    ):
        while chunk := file.read(1 << 20):
            written += len(chunk)
        if written >= HEADER_BYTES + voxel_bytes:
            return
    raise OSError("the file was cut off; is the disk full?")
