"""Many synthetic bodies as study folders in the autoPET layout."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.files import write_text
from l2snet.parallel import run_jobs
from l2snet.progress import track
from l2snet.sources.autopet import (
    CT_RESAMPLED,
    DONORS,
    LESIONS,
    ORGANS,
    SUV,
    patients_of,
    read_study,
    with_patients,
    write_donors,
)
from l2snet.synthesis.body import SCANNER_GRIDS, VERSION, Options, synthesize
from l2snet.synthesis.drawing import Spacing
from l2snet.synthesis.sheet import picture_sheet
from l2snet.synthesis.tumours import Tumour, read_tumours
from l2snet.volume import read_volume, write_volume

logger = logging.getLogger(__name__)
Entry = dict[str, object]
RECORD = "bodies.json"
SHEET_CASES = 12
# With grids drawn at random this share stays on the organ map's own, the grid of the training data.
OWN_GRID = 0.5


def write_cohort(
    organs: Path,
    out: Path,
    count: int,
    seed: int,
    spacing: str = "own",
    tumours: Path | None = None,
    leave_out: Iterable[str] = (),
    sheet: Path | None = None,
    workers: int = 1,
) -> None:
    """Write `count` bodies, seeds `seed` onwards; those that are there already are kept.

    Parameters
    ----------
    organs : an organ map, or a folder of them, used in an order that the first seed shuffles.
    spacing : "own" for the organ map's grid, "mixed" for scanners' grids in half of the bodies, or "X,Y,Z" in mm.
    tumours : study folders of real tumours to paste, but for those in `leave_out`.
    sheet : PNG of the first bodies.
    workers : processes; each holds a whole body several times over.

    Raises
    ------
    InputError : there is no organ map or tumour, or OUT holds bodies of another version.
    OutputError : a file cannot be written.
    L2SNetError : a worker was killed.
    """
    maps = _organ_maps(organs)
    order = np.random.default_rng([VERSION, seed]).permutation(len(maps))
    real = read_tumours(tumours, set(leave_out)) if tumours is not None else []
    record = _read_record(out / RECORD)
    jobs = []
    for index in range(count):
        number = seed + index
        # Each round shifts by one: a map's bodies do not all have tumours, or all have none.
        path = maps[order[(index + index // len(maps)) % len(maps)]]
        folder = out / f"body_{number:06d}"
        grid = _spacing_of(spacing, number)
        entry = {
            "seed": number,
            "version": VERSION,
            "organs": path.name,
            "spacing_mm": None if grid is None else list(grid[::-1]),
            "tumours": " ".join(one.name for one in real),
        }
        known = record.get(folder.name)
        if known is not None and (folder / SUV).is_file():
            if known != entry:
                raise InputError(f"{folder} was made with other settings ({out / RECORD}); choose another folder")
            continue
        jobs.append(_Job(path, number, grid, folder, entry))
    donors = with_patients((one.name for one in real), patients_of([tumours])) if tumours is not None else []
    for job, _ in track(
        run_jobs(partial(_make, tumours=real, donors=donors), jobs, workers), "synthetic bodies", len(jobs)
    ):
        record[job.folder.name] = job.entry
        write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", out / RECORD)
    if sheet is not None:
        names = [out / f"body_{seed + index:06d}" for index in range(min(count, SHEET_CASES))]
        picture_sheet([read_study(folder, ct_optional=True) for folder in names], sheet)


@dataclass(frozen=True)
class _Job:
    """One body to make: its organ map, seed, grid, study folder and what the record says of it."""

    organs: Path
    seed: int
    grid: Spacing | None
    folder: Path
    entry: Entry


def _make(job: _Job, tumours: list[Tumour], donors: list[str]) -> None:
    organs = read_volume(job.organs, "organ map")
    # Nothing of an earlier body may stay beside this one; the SUV, which tells that a study is whole, goes first.
    for name in (SUV, DONORS, CT_RESAMPLED, LESIONS, ORGANS):
        (job.folder / name).unlink(missing_ok=True)
    if donors:
        write_donors(donors, job.folder)
    _write_study(synthesize(organs, job.seed, Options(job.grid, tumours=tumours), job.folder.name), job.folder)


def _organ_maps(organs: Path) -> list[Path]:
    maps = [organs] if organs.is_file() else sorted(organs.glob("*.nii.gz"))
    if not maps:
        raise InputError(f"no organ map was found in {organs}: expected .nii.gz label maps, or one such file")
    return maps


def _spacing_of(spacing: str, number: int) -> Spacing | None:
    """The grid of a body, (z, y, x) mm; None for its organ map's."""
    if spacing == "own":
        return None
    if spacing == "mixed":
        rng = np.random.default_rng([VERSION, number, 99])
        return None if rng.random() < OWN_GRID else SCANNER_GRIDS[int(rng.integers(len(SCANNER_GRIDS)))]
    try:
        x, y, z = (float(part) for part in spacing.split(","))
    except ValueError as error:
        raise InputError(f"--spacing {spacing!r} was given; expected own, mixed, or X,Y,Z in mm") from error
    if not all(0.5 <= s <= 12 for s in (x, y, z)):
        raise InputError(f"--spacing {spacing!r} was given; expected voxels of 0.5 to 12 mm")
    return (z, y, x)


def _write_study(case: Case, folder: Path) -> None:
    """The SUV comes last, so that a study that has one is whole."""
    if case.ct is not None:
        rounded = np.rint(case.ct.array).astype(np.int16)
        write_volume(case.ct.with_array(rounded), folder / CT_RESAMPLED, compress=True)
    if case.lesions is not None:
        write_volume(case.lesions, folder / LESIONS, compress=True)
    if case.organs is not None:
        write_volume(case.organs, folder / ORGANS, compress=True)
    # Half precision is what training keeps; without the noise of the last digits the file is half as large.
    halved = case.suv.array.astype(np.float16).astype(np.float32)
    write_volume(case.suv.with_array(halved), folder / SUV, compress=True)


def _read_record(path: Path) -> Entry:
    if not path.is_file():
        return {}
    try:
        record: Entry = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON; choose another folder or delete it") from error
    return record
