"""Study folders in NIfTI, as the autoPET data set has them on disk: SUV, CTres (or CT) and SEG."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.files import write_text
from l2snet.sources.files import resampled, set_right
from l2snet.sources.folders import walk
from l2snet.volume import Volume, read_volume

logger = logging.getLogger(__name__)

SUV, CT_RESAMPLED, CT, LESIONS = "SUV.nii.gz", "CTres.nii.gz", "CT.nii.gz", "SEG.nii.gz"
# Labels of `l2snet.organs.OrganClass`, where a study has them.
ORGANS = "ORGANS.nii.gz"
# Names of the cases whose tumours a synthetic study may hold, and of their patients: who trains on it has seen them.
DONORS = "donors.json"


def find_studies(root: Path) -> list[Path]:
    """Folders at any depth under `root`, also through links, that hold a SUV.nii.gz, in order of name.

    Raises
    ------
    InputError : there is none.
    """
    studies = sorted(folder for folder, _, names in walk(root) if SUV in names)
    if not studies:
        raise InputError(
            f"no study was found under {root}: expected folders that hold {SUV}, {CT_RESAMPLED} and {LESIONS}"
        )
    return studies


def patients_of(roots: Sequence[Path]) -> dict[str, str]:
    """Study name to patient: the folder that holds the study's, or the study itself where that is the root.

    PATIENT of ROOT/PATIENT/STUDY and of ROOT/SITE/PATIENT/STUDY; STUDY of ROOT/STUDY.
    """
    patients = {}
    for root in roots:
        for folder in find_studies(root):
            below = folder.relative_to(root).parts
            patients[folder.name] = below[-2] if len(below) > 1 else folder.name
    return patients


def patients_among(names: Iterable[str], patients: Mapping[str, str]) -> set[str]:
    """The patients whom names of studies, or of patients, stand for; what is not in `patients` goes by its own name."""
    return {patients.get(name, name) for name in names}


def with_patients(names: Iterable[str], patients: Mapping[str, str]) -> list[str]:
    """Names of studies and of their patients, in order: so that another study of a patient is known as seen too."""
    names = set(names)
    return sorted(names | patients_among(names, patients))


def write_donors(names: Sequence[str], folder: Path) -> None:
    """Note in a study folder whose tumours it may hold, by names of studies and patients."""
    write_text(json.dumps(sorted(names)) + "\n", folder / DONORS)


def read_donors(folder: Path) -> list[str]:
    """Names of the cases whose tumours a study may hold, and of their patients; empty for a real one."""
    path = folder / DONORS
    names: list[str] = json.loads(path.read_text("utf-8")) if path.is_file() else []
    return names


def read_study(folder: Path, resample_ct: bool = False, ct_optional: bool = False) -> Case:
    """Read one study with its lesions; its name is the folder's.

    A CT that is HU but for 1024 added is set right; that is a warning and a note.

    Parameters
    ----------
    resample_ct : where there is no CTres.nii.gz, bring CT.nii.gz onto the PET's grid (linear, air outside).
    ct_optional : accept a study that has neither; the case has no CT then.

    Raises
    ------
    InputError : a file is missing or cannot be used.
    """
    suv = read_volume(folder / SUV, f"{folder.name}: PET")
    ct: Volume | None
    if ct_optional and not any((folder / name).is_file() for name in (CT_RESAMPLED, CT)):
        ct = None
    elif (folder / CT_RESAMPLED).is_file() or not resample_ct:
        ct = read_volume(folder / CT_RESAMPLED, "CT")
    else:
        ct = resampled(read_volume(folder / CT, "CT"), suv.geometry)
    organs = read_volume(folder / ORGANS, "organ map") if (folder / ORGANS).is_file() else None
    case = set_right(folder.name, suv, ct, read_volume(folder / LESIONS, "lesion mask"), organs)
    for note in case.notes:
        logger.warning("warning: %s: %s", case.name, note)
    return case
