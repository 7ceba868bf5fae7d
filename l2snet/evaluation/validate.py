"""How well a set of weights does on cases it was not trained on: the rows of the paper's Table 1, and a fixed SUV."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from l2snet import __version__, fuse
from l2snet.case import Case
from l2snet.errors import InputError, WeightsError
from l2snet.evaluation.metrics import measure
from l2snet.evaluation.records import Records, fingerprint, with_nan, write_json
from l2snet.evaluation.summary import Row, Table, markdown, summaries
from l2snet.pipeline import L2SNet
from l2snet.preprocess import working_geometry
from l2snet.progress import track
from l2snet.sources.autopet import LESIONS, SUV, find_studies, patients_among, patients_of, read_study
from l2snet.volume import Array
from l2snet.weights import LOCALIZER, SEGMENTER, find_weights

logger = logging.getLogger(__name__)

FIXED_SUV = 2.0
LOCALIZER_ROW, SEGMENTER_ROW = "2D alone", "3D alone"
OFF_CUES = (0.5, 0.9)
METRICS = "metrics.json"


def held_out(roots: Sequence[Path], method: L2SNet) -> list[Path]:
    """Study folders under `roots` of patients whom neither network was trained on, as their configs record it.

    Raises
    ------
    InputError : every patient of a root was trained on, or two studies have one name.
    """
    networks = (*method.localizers, *method.segmenters)
    if any("cases" not in network.config.trained for network in networks):
        raise InputError("these weights do not say what they were trained on; no case can be called held out")
    patients = patients_of(roots)
    seen = patients_among((name for network in networks for name in network.config.seen_cases), patients)
    studies: dict[str, Path] = {}
    for root in roots:
        new = [folder for folder in find_studies(root) if patients[folder.name] not in seen]
        if not new:
            raise InputError(
                f"every study under {root} is of a patient used to train these weights; a result would mean nothing"
            )
        for folder in new:
            if folder.name in studies:
                raise InputError(f"{folder} and {studies[folder.name]} have one name; rename one")
            studies[folder.name] = folder
    return list(studies.values())


def validate(
    method: L2SNet, studies: Sequence[Path], resample_ct: bool, work: Path | None = None
) -> dict[str, dict[str, Row]]:
    """Row name to case name to numbers (`l2snet.evaluation.metrics.Scores`), on each PET's own grid.

    Parameters
    ----------
    resample_ct : bring a CT on another grid onto the PET's; a study may have none.
    work : folder of one file per case, so that what was stopped goes on; a case is computed again when the weights, a
        setting or its files have changed.
    """
    records = None if work is None else Records(work)
    table: dict[str, dict[str, Row]] = {}
    for folder in track(studies, "cases", len(studies)):
        key = [__version__, method.settings, resample_ct, *(fingerprint(folder / name) for name in (SUV, LESIONS))]
        rows = None if records is None else records.get(folder.name, key)
        if rows is None:
            case = read_study(folder, resample_ct, ct_optional=True)
            rows = {name: score(case, mask) for name, mask in predictions(method, case).items()}
            if records is not None:
                records.put(folder.name, key, rows)
        for name, row in rows.items():
            table.setdefault(name, {})[folder.name] = row
        logger.info("%s done", folder.name)
    return table


def predictions(method: L2SNet, case: Case) -> Mapping[str, Array]:
    """The masks of a case that are compared: 2D alone, 3D alone, both fusions, and a fixed SUV."""
    result = method.segment(case)
    if result.cue is None:
        raise ValueError("these rows compare a method with a location cue")
    probability, cue = result.probability.array, result.cue.array
    thresholds = method.thresholds()
    fused = {
        fused_row(off): fuse.adaptive(probability, cue, thresholds["on_cue"], off, thresholds["cue"])
        for off in sorted({*OFF_CUES, thresholds["off_cue"]})
    }
    return {
        f"SUV > {FIXED_SUV:g}": (case.suv.array > FIXED_SUV).astype(np.uint8),
        LOCALIZER_ROW: (cue > thresholds["cue"]).astype(np.uint8),
        SEGMENTER_ROW: (probability > 0.5).astype(np.uint8),
        **fused,
        "L2SNet, components": fuse.components(
            probability, cue, case.geometry.voxel_ml / working_geometry(case.geometry).voxel_ml
        ),
    }


def paper_masks(method: L2SNet, case: Case) -> dict[str, Array]:
    """The masks of the paper's Fig. 3: 2D network, 3D network, and the method as it is set."""
    result = method.segment(case)
    if result.cue is None:
        raise ValueError("the figure compares a method with a location cue")
    return {
        "2D U-Net": (result.cue.array > method.thresholds()["cue"]).astype(np.uint8),
        "3D U-Net": (result.probability.array > 0.5).astype(np.uint8),
        "L2SNet": result.mask.array,
    }


def fused_row(off_cue: float) -> str:
    """Name of the row of the adaptive threshold."""
    return f"L2SNet, off-cue {off_cue:g}"


def score(case: Case, mask: Array) -> Row:
    """The numbers of one (z, y, x) mask; Dice and FNV are NaN where there is no lesion (challenge2024).

    Raises
    ------
    InputError : the case has no lesion mask.
    """
    if case.lesions is None:
        raise InputError(f"case {case.name} has no lesion mask to compare with")
    return measure(case.lesions.array > 0.5, mask, case.geometry.spacing_mm).row()


def write_metrics(table: Table, method: L2SNet, weights: Path | None, name: str) -> None:
    """Record a table under a name in metrics.json: the 2D row with the localizer, the others with the segmenter.

    Tables of other names stay, unless they are of other weights.
    """
    rows = {LOCALIZER: {LOCALIZER_ROW}, SEGMENTER: set(table) - {LOCALIZER_ROW}}
    for network, names in rows.items():
        path = find_weights(network, weights) / METRICS
        kept = {
            source: record
            for source, record in _read(path).items()
            if record["settings"]["weights_sha256"] == method.settings["weights_sha256"]
        }
        part = {row: table[row] for row in table if row in names}
        record = {"settings": method.settings, "means": means(part), "cases": part}
        write_json({**kept, name: record}, path)


def read_metrics(weights: Path | None) -> dict[str, dict[str, dict[str, Row]]]:
    """Name to table, as `write_metrics` recorded them.

    Raises
    ------
    WeightsError : nothing is recorded.
    """
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    folders = [find_weights(network, weights) for network in (LOCALIZER, SEGMENTER)]
    for folder in folders:
        for name, record in _read(folder / METRICS).items():
            tables.setdefault(name, {}).update(with_nan(record["cases"]))
    if not tables:
        raise WeightsError(f"no table is recorded in {folders[0].parent}; make one with l2snet validate --record NAME")
    return tables


def _read(path: Path) -> dict[str, Any]:
    """Name to record of a metrics.json; empty where there is none, or one in the format of version 0.1."""
    if not path.is_file():
        return {}
    try:
        records: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if "settings" in records:
            logger.warning("%s has a table without a name, of an earlier version; it is not read", path)
            return {}
        if not all({"settings", "cases"} <= set(record) for record in records.values()):
            raise ValueError("a table without settings or cases")
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); remove it and record again") from error
    return records


def means(table: Table) -> dict[str, Row]:
    """Mean per row over the cases where the number is defined (challenge2024); NaN where it is for none."""
    result: dict[str, Row] = {}
    for name, rows in table.items():
        columns = next(iter(rows.values()))
        values = {column: [row[column] for row in rows.values() if np.isfinite(row[column])] for column in columns}
        result[name] = {column: float(np.mean(v)) if v else float("nan") for column, v in values.items()}
    return result


def report(table: Table) -> str:
    """A table as Markdown."""
    return markdown(summaries(table))
