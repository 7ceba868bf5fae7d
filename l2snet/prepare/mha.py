"""Study folders of autoPET to input folders of the container, one a study."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

from l2snet.case import AIR_HU, Case
from l2snet.errors import InputError
from l2snet.prepare.run import Job, Outcome, Prepared, Record, as_mask, prepare_all
from l2snet.sources import autopet, challenge
from l2snet.volume import Volume, read_volume

PET_FOLDER, CT_FOLDER = Path(challenge.IMAGES) / challenge.PET, Path(challenge.IMAGES) / challenge.CT


def prepare_mha(data: Path, out: Path, truth: Path | None = None, workers: int = 1) -> list[Outcome]:
    """Make OUT/STUDY/images/{pet,ct}/STUDY.mha of every study folder under `data`.

    Parameters
    ----------
    truth : folder for the lesion masks, as STUDY.mha, to compare results with; None writes none.

    Raises
    ------
    InputError : there is no study under `data`.
    L2SNetError : a study failed; the others are done.
    """
    jobs = []
    for name, study in _named(autopet.find_studies(data)).items():
        folder = out / name
        whole = folder / CT_FOLDER / f"{name}{challenge.SUFFIX}"
        settings, make = partial(identify, study, truth), partial(convert, study, folder, name, truth)
        jobs.append(Job(name, folder, whole, settings, make))
    return prepare_all(jobs, out, workers)


def identify(study: Path, truth: Path | None) -> Record:
    """What must be the same for a prepared study to be kept."""
    return {
        "source": "autopet",
        "study": str(study.resolve()),
        "truth": None if truth is None else str(truth.resolve()),
    }


def convert(study: Path, folder: Path, name: str, truth: Path | None) -> Prepared:
    """One study: SUV and CT on the PET's grid (CT.nii.gz is brought there where there is no CTres.nii.gz).

    Raises
    ------
    InputError : a file is missing or cannot be used.
    """
    suv = read_volume(study / autopet.SUV, "PET")
    ct = _ct(study, suv)
    mask = None if truth is None else as_mask(read_volume(study / autopet.LESIONS, "lesion mask"), "the lesion mask")
    case = Case(name, suv, ct, mask)
    file = f"{name}{challenge.SUFFIX}"
    volumes = {
        **({truth / file: mask} if truth is not None and mask is not None else {}),
        folder / PET_FOLDER / file: case.suv,
        folder / CT_FOLDER / file: ct,
    }
    return Prepared(volumes, {"study": "/".join(study.parts[-2:])})


def _ct(study: Path, suv: Volume) -> Volume:
    if (study / autopet.CT_RESAMPLED).is_file():
        return read_volume(study / autopet.CT_RESAMPLED, "CT")
    return read_volume(study / autopet.CT, "CT").to_grid(suv.geometry, outside=AIR_HU)


def _named(studies: list[Path]) -> dict[str, Path]:
    """Studies by a name that is safe in a file's; the patient's folder comes before it where names repeat.

    Raises
    ------
    InputError : two studies have the same name all the same.
    """
    counts = Counter(study.name for study in studies)
    named: dict[str, Path] = {}
    for study in studies:
        parts = study.parts[-2:] if counts[study.name] > 1 else study.parts[-1:]
        name = re.sub(r"[^\w.-]+", "_", "_".join(parts))
        if name in named:
            raise InputError(f"{study} and {named[name]} would both be called {name}; rename one of them")
        named[name] = study
    return named
