"""PET in SUV and CT, each on its own grid, to the study folders of autoPET."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from l2snet.case import AIR_HU, Case
from l2snet.errors import InputError
from l2snet.prepare.run import Job, Outcome, Prepared, Record, as_mask, compact, prepare_all
from l2snet.sources import autopet
from l2snet.volume import Volume, read_volume

CASE = "{case}"


@dataclass(frozen=True)
class Patterns:
    """Where the images of a case lie under the root; `{case}` stands for its name, which may hold folders.

    Study folders: `{case}/SUV.nii.gz`. A folder an image: `pet/{case}.nii.gz`. nnU-Net: `imagesTr/{case}_0001.nii.gz`.
    """

    pet: str = f"{CASE}/{autopet.SUV}"
    ct: str = f"{CASE}/{autopet.CT}"
    mask: str = f"{CASE}/{autopet.LESIONS}"

    def __post_init__(self) -> None:
        for what, pattern in asdict(self).items():
            if pattern.count(CASE) != 1:
                raise InputError(f"--{what} is {pattern!r}; expected a path with {CASE} in it once")


def find_cases(root: Path, pet: str) -> list[str]:
    """The names of the cases that have a PET under `root`, in order.

    Raises
    ------
    InputError : there is none.
    """
    before, _, after = pet.partition(CASE)
    shape = re.compile(f"{re.escape(before)}(.+){re.escape(after)}")
    files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    cases = sorted(found.group(1) for name in files if (found := shape.fullmatch(name)))
    if not cases:
        raise InputError(f"no PET was found as {root / pet}; say where the files lie with --pet, --ct and --mask")
    return cases


def prepare_nifti(
    root: Path,
    out: Path,
    patterns: Patterns,
    mask_optional: bool = False,
    resample_mask: bool = False,
    workers: int = 1,
) -> list[Outcome]:
    """Make OUT/CASE/{SUV,CTres,CT,SEG}.nii.gz and prepare.json of every case under `root`.

    Parameters
    ----------
    mask_optional : prepare a case without mask too (no SEG.nii.gz is written).
    resample_mask : bring a mask on another grid onto the PET's (nearest neighbour).

    Raises
    ------
    InputError : no PET is found, or `out` is `root`.
    L2SNetError : a case failed; the others are done.
    """
    if out.resolve() == root.resolve():
        raise InputError(f"{out} would be written over itself; choose another folder")
    jobs = []
    for case in find_cases(root, patterns.pet):
        folder = out / case
        options = (patterns, mask_optional, resample_mask)
        settings, make = partial(identify, root, case, *options), partial(convert, root, case, folder, *options)
        jobs.append(Job(case, folder, folder / autopet.SUV, settings, make))
    return prepare_all(jobs, out, workers)


def identify(root: Path, case: str, patterns: Patterns, mask_optional: bool, resample_mask: bool) -> Record:
    """What must be the same for a prepared case to be kept."""
    return {
        "source": "nifti",
        "root": str(root.resolve()),
        "patterns": asdict(patterns),
        "resample_mask": resample_mask,
        "mask": not mask_optional or _path(root, patterns.mask, case).is_file(),
    }


def convert(
    root: Path, case: str, folder: Path, patterns: Patterns, mask_optional: bool, resample_mask: bool
) -> Prepared:
    """One case: CT onto the PET's grid (linear, air outside), mask to 0 and 1.

    Raises
    ------
    InputError : an image is missing or cannot be used.
    """
    paths = {what: _path(root, pattern, case) for what, pattern in asdict(patterns).items()}
    suv = read_volume(paths["pet"], "PET")
    read = read_volume(paths["ct"], "CT")
    ct = read.with_array(np.maximum(read.array, np.float32(AIR_HU)))
    mask = None
    if paths["mask"].is_file() or not mask_optional:
        mask = _mask(read_volume(paths["mask"], "mask"), suv, resample_mask)
    resampled = ct.to_grid(suv.geometry, outside=AIR_HU)
    Case(case, suv, resampled, mask)  # refuses what cannot be SUV or HU
    own_grid = not ct.geometry.matches(suv.geometry)
    volumes = {
        **({folder / autopet.LESIONS: mask} if mask is not None else {}),
        **({folder / autopet.CT: compact(ct)} if own_grid else {}),
        folder / autopet.CT_RESAMPLED: resampled,
        folder / autopet.SUV: suv,  # last: training looks for this one
    }
    used = {
        what: path.relative_to(root).as_posix() for what, path in paths.items() if what != "mask" or mask is not None
    }
    return Prepared(volumes, {"files": used, "ct_resampled": own_grid})


def _path(root: Path, pattern: str, case: str) -> Path:
    return root / pattern.replace(CASE, case)


def _mask(read: Volume, suv: Volume, resample: bool) -> Volume:
    mask = as_mask(read, "the mask")
    if mask.geometry.matches(suv.geometry):
        return Volume(mask.array, suv.geometry)
    if not resample:
        raise InputError(
            f"the mask ({mask.geometry}) is not on the PET's grid ({suv.geometry}); --resample-mask brings it there, "
            "by nearest neighbour"
        )
    return mask.to_grid(suv.geometry, outside=0, nearest=True)
