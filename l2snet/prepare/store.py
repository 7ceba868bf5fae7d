"""Study folders to one LMDB store, which Step-by-Step trains from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from l2snet.errors import InputError
from l2snet.progress import track
from l2snet.sources.autopet import find_studies, patients_of, read_donors, read_study
from l2snet.training.store import start_store, write_stored

logger = logging.getLogger(__name__)


def prepare_store(data: Sequence[Path], path: Path, resample_ct: bool = False) -> None:
    """Write a store of all studies under the `data` folders; what was stopped goes on, case by case.

    Parameters
    ----------
    resample_ct : bring a CT on another grid onto the PET's; a study may have none.

    Raises
    ------
    InputError : two studies have one name, a study cannot be used, or `path` is something else than this store.
    """
    studies: dict[str, Path] = {}
    for root in data:
        for folder in find_studies(root):
            if folder.name in studies:
                raise InputError(
                    f"{folder} and {studies[folder.name]} have one name; rename one, since cases go by folder name"
                )
            studies[folder.name] = folder
    suffix = " with its CT resampled" if resample_ct else ""
    done = start_store(path, {name: f"{folder.resolve()}{suffix}" for name, folder in studies.items()})
    missing = [folder for name, folder in studies.items() if name not in done]
    patients = patients_of(data)
    for folder in track(missing, "stored cases", len(missing)):
        case = read_study(folder, resample_ct, ct_optional=True)
        write_stored(case, path, read_donors(folder), patients[folder.name])
    logger.info("%s: %d cases, %.1f MB", path, len(studies), path.stat().st_size / 1e6)
