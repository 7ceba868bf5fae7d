"""Prepare many studies: in parallel, one at a time resumable, the bad ones reported at the end."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from l2snet import __version__
from l2snet.errors import InputError, L2SNetError, reason
from l2snet.files import write_text
from l2snet.parallel import WorkerKilledError, run_in_processes, run_jobs
from l2snet.progress import track
from l2snet.volume import Volume, write_volume

logger = logging.getLogger(__name__)

RECORD, TABLE = "prepare.json", "prepare.csv"
Record = dict[str, Any]


class Status(StrEnum):
    """What became of a study."""

    prepared = "prepared"
    kept = "kept"
    failed = "failed"


@dataclass(frozen=True)
class Prepared:
    """The voxels to write, by path, and what they were made from; the last path is the sign that a study is whole."""

    volumes: Mapping[Path, Volume]
    record: Record


@dataclass(frozen=True)
class Job:
    """One study to prepare.

    Attributes
    ----------
    name : how errors and the table call it.
    folder : gets prepare.json.
    whole : the file that `make` lists last; a study that has it is kept.
    settings : what must be the same for a study to be kept: its source and the options that bear on it.
    make : reads and converts.

    `settings` and `make` are called in a worker, so they must be picklable.
    """

    name: str
    folder: Path
    whole: Path
    settings: Callable[[], Record]
    make: Callable[[], Prepared]


@dataclass(frozen=True)
class Outcome:
    """A study's row in the table."""

    name: str
    status: Status
    record: Record = field(default_factory=dict)
    error: str = ""


def prepare_all(jobs: Sequence[Job], out: Path, workers: int) -> list[Outcome]:
    """Do every job, write `out`/prepare.csv, and only then say what failed.

    Parameters
    ----------
    workers : processes; each holds one study in memory.

    Raises
    ------
    L2SNetError : a study failed; the others are done.
    OutputError : the table cannot be written.
    """
    order = {job.name: number for number, job in enumerate(jobs)}
    outcomes: list[Outcome] = []
    for outcome in track(_outcomes(jobs, workers), "preparing", total=len(jobs)):
        if outcome.status is Status.failed:
            logger.warning("%s: %s", outcome.name, outcome.error)
        outcomes.append(outcome)
    outcomes.sort(key=lambda outcome: order[outcome.name])
    _write_table(outcomes, out / TABLE)
    counts = {status: sum(o.status is status for o in outcomes) for status in Status}
    logger.info("%d prepared, %d kept, %d failed", *counts.values())
    if counts[Status.failed]:
        raise L2SNetError(
            f"{counts[Status.failed]} of {len(jobs)} studies could not be prepared; {out / TABLE} says why: mend or "
            "remove them and give the same command again"
        )
    return outcomes


def as_mask(volume: Volume, what: str) -> Volume:
    """Labels as 0 and 1 (uint8): every label is lesion.

    Raises
    ------
    InputError : a value is no whole number.
    """
    if not np.array_equal(volume.array, np.rint(volume.array)):
        raise InputError(f"{what} holds values that are no whole numbers; expected labels, 0 where there is no lesion")
    return volume.with_array((volume.array > 0).astype(np.uint8))


def compact(volume: Volume) -> Volume:
    """Whole numbers that fit are stored as int16, in half the space."""
    array = volume.array
    limits = np.iinfo(np.int16)
    if array.min() < limits.min or array.max() > limits.max or not np.array_equal(array, np.rint(array)):
        return volume
    return volume.with_array(array.astype(np.int16))


def _outcomes(jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    try:
        for _, outcome in run_jobs(_attempt, jobs, workers):
            yield outcome
    except WorkerKilledError as killed:
        # Perhaps by another's fault: alone, each is judged by itself.
        for job in killed.lost:
            yield _alone(job)


def _alone(job: Job) -> Outcome:
    try:
        ((_, outcome),) = run_in_processes(_attempt, [job], 1)
    except WorkerKilledError:
        sentence = "its worker was killed, out of memory perhaps; use a machine with more"
        return Outcome(job.name, Status.failed, error=sentence)
    return outcome


def _attempt(job: Job) -> Outcome:
    """One study; whatever goes wrong in it is its outcome, for the others must be done."""
    try:
        settings = job.settings()
        if job.whole.exists():
            return Outcome(job.name, Status.kept, _kept(job, settings))
        return Outcome(job.name, Status.prepared, _prepare(job, settings))
    except L2SNetError as error:
        return Outcome(job.name, Status.failed, error=str(error))
    except Exception as error:
        logger.debug("%s", job.name, exc_info=True)
        return Outcome(job.name, Status.failed, error=f"{type(error).__name__}: {reason(error)}")


def _kept(job: Job, settings: Record) -> Record:
    """The record of a study that is there already.

    Raises
    ------
    InputError : it was made by someone else, from something else, or otherwise.
    """
    path = job.folder / RECORD
    try:
        record: Record = json.loads(path.read_text("utf-8"))
        then: Record = record["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{job.whole} is there, but no {RECORD} that says how it was made; choose another folder"
        ) from error
    if then != settings:
        other = [key for key in {**settings, **then} if then.get(key) != settings.get(key)]
        was, now = (", ".join(f"{key} {of.get(key)!r}" for key in other) for of in (then, settings))
        raise InputError(f"{job.folder} was prepared with {was}, not with {now}; remove it, or choose another folder")
    return record


def _prepare(job: Job, settings: Record) -> Record:
    """Write a study: the record before the last file, so that a study that was cut off is done again."""
    prepared = job.make()
    record = {"l2snet": __version__, "settings": settings, **prepared.record}
    *before, last = prepared.volumes
    if last != job.whole:
        raise ValueError(f"the last file is {last}, not {job.whole}")
    for path in before:
        write_volume(prepared.volumes[path], path, compress=True)
    write_text(json.dumps(record, indent=1) + "\n", job.folder / RECORD)
    write_volume(prepared.volumes[last], last, compress=True)
    return record


def _write_table(outcomes: Sequence[Outcome], path: Path) -> None:
    rows = [{"study": o.name, "status": o.status, **_flat(o.record), "error": o.error} for o in outcomes]
    columns = [*dict.fromkeys(column for row in rows for column in row if column != "error"), "error"]
    lines: list[str] = []

    class _Lines:
        write = staticmethod(lines.append)

    writer = csv.DictWriter(_Lines, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text("".join(lines), path)


def _flat(record: Record, prefix: str = "") -> Record:
    """Nested keys joined by underscores, lists by semicolons."""
    flat: Record = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}_")
        else:
            flat[prefix + key] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return flat
