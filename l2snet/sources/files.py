"""A case from two image files of any format that is read."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from l2snet.case import AIR_HU, SHIFT_HU, Case, is_shifted
from l2snet.errors import InputError
from l2snet.volume import READABLE_SUFFIXES, Array, Geometry, Volume, read_volume

logger = logging.getLogger(__name__)

# A CT that covers less of the PET along an axis is of another place; its field of view is 0.7 of a PET's.
MIN_OVERLAP = 0.5
# The field of view of a scanner for people; a smaller PET is a crop, or its spacing is in cm.
SMALL_PET_MM = 150.0
# SUV have fractions; whole numbers alone, up to more than this, are grey levels of a picture.
MAX_WHOLE_SUV = 30.0


def read_case(pet: Path, ct: Path | None, resample_ct: bool = False) -> Case:
    """PET in SUV and CT in HU; named by the CT's file, or the PET's where there is none.

    A CT that is HU but for 1024 added is set right; that, and a PET too small for a body or of a picture's grey levels,
    is a warning and a note.

    Parameters
    ----------
    resample_ct : bring a CT on another grid onto the PET's (linear, air outside).

    Raises
    ------
    InputError : an image cannot be used, or the grids differ and `resample_ct` is not set.
    """
    if ct is None:
        suv = read_volume(pet, "PET")
        case = Case(stem(pet), suv, notes=_doubts(suv))
    else:
        with ThreadPoolExecutor(1, "ct") as aside:  # both are read and decompressed at once
            later = aside.submit(read_volume, ct, "CT")
            suv = read_volume(pet, "PET")
            volume = later.result()
        if resample_ct:
            volume = resampled(volume, suv.geometry)
        case = set_right(stem(ct), suv, volume, notes=_doubts(suv))
    for note in case.notes:
        logger.warning("warning: %s", note)
    return case


def resampled(ct: Volume, grid: Geometry) -> Volume:
    """A CT on the PET's grid (linear, air outside); as it is where it lies on it.

    Raises
    ------
    InputError : see `check_covers`.
    """
    if ct.geometry.matches(grid):
        return ct
    check_covers(ct.geometry, ct.geometry, grid)
    return ct.to_grid(grid, outside=AIR_HU)


def check_covers(name: object, ct: Geometry, pet: Geometry) -> None:
    """Refuse a CT that is of another place than the PET.

    Parameters
    ----------
    name : what the error calls the CT.

    Raises
    ------
    InputError : it covers less than `MIN_OVERLAP` of the PET along an axis.
    """
    covered = min(ct.covered(pet))
    if covered < MIN_OVERLAP:
        raise InputError(
            f"the CT ({name}) covers {covered:.0%} of the PET ({pet}) along an axis; expected at least "
            f"{MIN_OVERLAP:.0%}: are they of one examination?"
        )


def set_right(
    name: str,
    suv: Volume,
    ct: Volume | None,
    lesions: Volume | None = None,
    organs: Volume | None = None,
    notes: tuple[str, ...] = (),
) -> Case:
    """A case, whose CT is set right, with a note, where it is HU but for 1024 added.

    Raises
    ------
    InputError : see `Case`.
    """
    try:
        return Case(name, suv, ct, lesions, organs, notes)
    except InputError:
        if ct is None or not ct.geometry.matches(suv.geometry) or not is_shifted(ct.array, suv.array):
            raise
    note = f"{SHIFT_HU:g} was taken off the CT, whose values were HU with so much added"
    return Case(name, suv, ct.with_array(ct.array - np.float32(SHIFT_HU)), lesions, organs, (*notes, note))


def stem(path: Path) -> str:
    """The file's name without its (possibly double) ending."""
    suffix = max((s for s in READABLE_SUFFIXES if path.name.lower().endswith(s)), key=len, default=path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def _doubts(suv: Volume) -> tuple[str, ...]:
    """Sentences on a PET that may be right, and is unlikely to be."""
    return (*_small(suv.geometry), *_grey_levels(suv.array))


def _small(geometry: Geometry) -> tuple[str, ...]:
    extent_mm = [n * mm for n, mm in zip(geometry.size, geometry.spacing_mm, strict=True)]
    if max(extent_mm) >= SMALL_PET_MM:
        return ()
    shown = " x ".join(f"{mm:.4g}" for mm in extent_mm[::-1])
    return (f"the PET spans {shown} mm alone: if it is no crop, its voxel spacing is not in mm",)


def _grey_levels(array: Array) -> tuple[str, ...]:
    """Of (z, y, x) voxels; slice by slice, for one with a fraction comes soon."""
    hottest = float(array.max())
    if hottest <= MAX_WHOLE_SUV or not all(np.array_equal(plane, np.rint(plane)) for plane in array):
        return ()
    shown = f"{float(array.min()):.4g} to {hottest:.4g}"
    return (f"the PET's values are whole numbers, {shown}: if they are a picture's grey levels, give the PET in SUV",)
