"""One case from files to files, as the command line and the container both do it: read, segment, write, manifest."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from l2snet import __version__
from l2snet.case import Case
from l2snet.errors import InputError, OutputError
from l2snet.files import left_aside, whole, write_text
from l2snet.machine import cpus, peak_memory_mib, process_age_seconds
from l2snet.measure.table import LESIONS, MEASUREMENTS, PATIENT
from l2snet.pipeline import Method, Segmentation
from l2snet.results import Measuring, check_measuring, write_measured
from l2snet.sources import challenge
from l2snet.sources.result_writer import FILES, IMAGE_NAMES, IMAGES
from l2snet.volume import write_volume

if TYPE_CHECKING:
    from l2snet.report.casepage import Options

logger = logging.getLogger(__name__)

MANIFEST, PROBABILITY, CUE = "manifest.json", "probability.mha", "cue.mha"
PICTURE, REPORT = "projection.png", "report.html"
# Whatever a result may hold beside its mask; the first are there whenever one of the others is.
SURE = (MANIFEST, MEASUREMENTS, PROBABILITY, CUE)
LEFT_OVER = (
    *(*SURE, LESIONS, PATIENT, PICTURE, REPORT),
    *FILES.values(),
    *(f"{name}{suffix}" for name in IMAGE_NAMES for suffix in IMAGES.values()),
)
PACKAGES = (
    "numpy",
    "scipy",
    "SimpleITK",
    "nibabel",
    "openvino",
    "onnxruntime-gpu",
    "onnxruntime",
    "connected-components-3d",
    "pydicom",
    "highdicom",
)


@dataclass(frozen=True)
class Wanted:
    """What is written beside the mask; `measuring` adds the lesion table and other formats, and may thin the mask.

    `report` is what the report's page holds; None: no report.
    """

    probability: bool = False
    cue: bool = False
    picture: bool = False
    manifest: bool = True
    measuring: Measuring | None = None
    report: Options | None = None


def check_output(folder: Path) -> None:
    """Refuse an output folder that cannot be written to, before any work is done.

    Raises
    ------
    OutputError : says which folder.
    """
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"the output folder {folder} is not writable ({error.strerror or error}); choose another one"
        ) from error


def run_case(case: Case, method: Method, output: Path, wanted: Wanted, reading_seconds: float) -> Path:
    """Segment a case and write its results under `output`; returns the mask's path.

    Raises
    ------
    InputError, OutputError : see there.
    """
    began = time.perf_counter()
    if wanted.cue and not method.has_cue:
        raise InputError("the location cue is wanted of a method that has none; leave it out")
    if wanted.measuring is not None:
        check_measuring(wanted.measuring)
    make_way(output, case.name)
    result = method.segment(case)
    return write_result(case, result, method, output, wanted, reading_seconds, began)


def write_result(
    case: Case,
    result: Segmentation,
    method: Method,
    output: Path,
    wanted: Wanted,
    reading_seconds: float,
    began: float,
    more: Mapping[str, object] | None = None,
) -> Path:
    """Write what is wanted of a result, the mask after all that is measured; returns its path.

    Picture and report come after the mask: one that fails raises, and leaves a result that is complete without it.

    Parameters
    ----------
    began : `time.perf_counter()` when the case had been read.
    more : entries of the manifest, in place of its own of that name.

    Raises
    ------
    InputError, OutputError : see there.
    """
    record: dict[str, object] = {}
    if wanted.measuring is not None:
        result, record = write_measured(case, result, method, output, wanted.measuring)
    if wanted.probability:
        write_volume(result.probability, output / PROBABILITY, compress=False)
    if wanted.cue and result.cue is not None:
        write_volume(result.cue, output / CUE, compress=False)
    total = reading_seconds + time.perf_counter() - began
    entries = {**manifest(case, result, method, reading_seconds, total), **record, **(more or {})}
    if wanted.manifest:
        write_text(json.dumps(entries, indent=2) + "\n", output / MANIFEST)
    # After tables, maps and manifest, so that a mask is there only when they are.
    path = challenge.write(result.mask, result.name, output)
    logger.info("%s: %.1f ml in %s; peak memory %s MiB", result.name, mask_ml(result), path, peak_memory_mib())
    if wanted.picture:
        _write_picture(case, result, output)
    if wanted.report is not None:
        _write_report(case, result, entries, output, wanted.measuring, wanted.report)
    return path


def _write_picture(case: Case, result: Segmentation, output: Path) -> None:
    from l2snet.measure.lesions import label_lesions
    from l2snet.report.pictures import projection_picture

    labels = case.suv.with_array(label_lesions(result.mask.array, case.suv.array, case.geometry.voxel_ml))
    with whole(output / PICTURE) as aside:
        projection_picture(case.suv, labels, aside, f"{result.name}: {mask_ml(result):.1f} ml")


def _write_report(
    case: Case,
    result: Segmentation,
    entries: Mapping[str, object],
    output: Path,
    measuring: Measuring | None,
    options: Options,
) -> None:
    from l2snet.report.files import write_files
    from l2snet.report.findings import find

    subject = measuring.source.subject if measuring is not None and measuring.source is not None else None
    found = find(case, result.mask.array, result.probability, result.cue, entries, subject)
    write_files(found, output / REPORT, options, pictures=False)


def make_way(output: Path, name: str) -> None:
    """Remove an earlier result of this case, and what a killed run left of one; refuse to add to another case's.

    Raises
    ------
    OutputError : says which.
    """
    mask = challenge.mask_path(output, name)
    others = [path.name for path in mask.parent.glob("*") if path != mask and not path.name.startswith(".")]
    if others:
        raise OutputError(f"{mask.parent} already holds {others[0]} of another case; choose another output folder")
    # Files of such names in a folder without a result may be the user's own.
    earlier = LEFT_OVER if mask.exists() or any((output / name).exists() for name in SURE) else ()
    unfinished = [path for path, name in left_aside(mask.parent).items() if name == mask.name]
    unfinished += [path for path, name in left_aside(output).items() if name in LEFT_OVER]
    for path in (mask, *(output / name for name in earlier), *unfinished):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror}); choose another output folder") from error


def manifest(
    case: Case, result: Segmentation, method: Method, reading_seconds: float, total_seconds: float
) -> dict[str, object]:
    """What was run on what, with what result: versions, device, weights, seconds per stage, peak memory."""
    return {
        "case": result.name,
        "l2snet": __version__,
        "python": platform.python_version(),
        "packages": _versions(PACKAGES),
        **method.settings,
        **({"engine": result.engine} if result.engine else {}),
        "pet_grid": str(case.geometry),
        "ct": case.ct is not None,
        "notes": list(result.notes),
        **{name: round(score, 4) for name, score in result.scores.items()},
        "lesion_ml": round(mask_ml(result), 3),
        "seconds": {
            "start": round(process_age_seconds() - total_seconds, 3),
            "read": round(reading_seconds, 3),
            **result.seconds,
            "total": round(process_age_seconds(), 3),
        },
        "cpus": cpus(),
        "peak_memory_mib": peak_memory_mib(),
    }


def mask_ml(result: Segmentation) -> float:
    """Volume of the mask in ml."""
    return int(result.mask.array.sum()) * result.mask.geometry.voxel_ml


# Of a time limit, what is kept for the fusion and for writing.
KEPT_SHARE = 0.1


def networks_deadline(limit_seconds: float) -> float:
    """When networks must be done, of `time.perf_counter()`, for a result so many seconds after the process began."""
    return time.perf_counter() - process_age_seconds() + (1 - KEPT_SHARE) * limit_seconds


def warn_of_limit(limit_seconds: float | None) -> None:
    """Say in the log that a result came after its time limit."""
    seconds = process_age_seconds()
    if limit_seconds is not None and seconds > limit_seconds:
        logger.warning("the result took %.0f s; the time limit was %.0f s", seconds, limit_seconds)


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
