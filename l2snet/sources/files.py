"""A case from two image files of any format that SimpleITK reads."""

from __future__ import annotations

from pathlib import Path

from l2snet.case import AIR_HU, Case
from l2snet.volume import READABLE_SUFFIXES, read_volume


def read_case(pet: Path, ct: Path | None, resample_ct: bool = False) -> Case:
    """PET in SUV and CT in HU; named by the CT's file, or the PET's where there is none.

    Parameters
    ----------
    resample_ct : bring a CT on another grid onto the PET's (linear, air outside).

    Raises
    ------
    InputError : an image cannot be used, or the grids differ and `resample_ct` is not set.
    """
    suv = read_volume(pet, "PET")
    if ct is None:
        return Case(stem(pet), suv)
    volume = read_volume(ct, "CT")
    if resample_ct and not volume.geometry.matches(suv.geometry):
        volume = volume.to_grid(suv.geometry, outside=AIR_HU)
    return Case(stem(ct), suv, volume)


def stem(path: Path) -> str:
    """The file's name without its (possibly double) ending."""
    suffix = max((s for s in READABLE_SUFFIXES if path.name.lower().endswith(s)), key=len, default=path.suffix)
    return path.name[: len(path.name) - len(suffix)]
