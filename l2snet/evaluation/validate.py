"""How well a set of weights does on cases it was not trained on: the rows of the paper's Table 1, and a fixed SUV."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from l2snet import fuse
from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.evaluation.metrics import dice, false_negative_ml, false_positive_ml
from l2snet.pipeline import L2SNet
from l2snet.preprocess import working_geometry
from l2snet.sources.autopet import find_studies, read_study
from l2snet.volume import Array
from l2snet.weights import LOCALIZER, SEGMENTER, find_weights

logger = logging.getLogger(__name__)

FIXED_SUV = 2.0
LOCALIZER_ROW = "2D alone"
METRICS = "metrics.json"
Row = dict[str, float]
COLUMNS = ("dice", "fpv_ml", "fnv_ml")


def held_out(root: Path, method: L2SNet) -> list[Path]:
    """Study folders under `root` that neither network was trained on, as their configs record it.

    Raises
    ------
    InputError : every study was trained on.
    """
    networks = (*method.localizers, *method.segmenters)
    if any("cases" not in network.config.trained for network in networks):
        raise InputError("these weights do not say what they were trained on; no case can be called held out")
    seen = {name for network in networks for name in network.config.trained.get("cases", [])}
    studies = [folder for folder in find_studies(root) if folder.name not in seen]
    if not studies:
        raise InputError(
            f"every study under {root} was used to train these weights; a result on them would mean nothing"
        )
    return studies


def validate(method: L2SNet, studies: Sequence[Path], resample_ct: bool) -> dict[str, dict[str, Row]]:
    """Row name to case name to `dice`, `fpv_ml` and `fnv_ml`, on each PET's own grid."""
    table: dict[str, dict[str, Row]] = {}
    for folder in studies:
        case = read_study(folder, resample_ct)
        for name, mask in predictions(method, case).items():
            table.setdefault(name, {})[case.name] = score(case, mask)
        logger.info("%s done", case.name)
    return table


def predictions(method: L2SNet, case: Case) -> Mapping[str, Array]:
    """The masks of a case that are compared: 2D alone, 3D alone, both fusions, and a fixed SUV."""
    result = method.segment(case)
    if result.cue is None:
        raise ValueError("these rows compare a method with a location cue")
    probability, cue = result.probability.array, result.cue.array
    thresholds = method.thresholds()
    fused = {
        f"L2SNet, off-cue {off:g}": fuse.adaptive(probability, cue, thresholds["on_cue"], off, thresholds["cue"])
        for off in (0.5, 0.9)
    }
    return {
        f"SUV > {FIXED_SUV:g}": (case.suv.array > FIXED_SUV).astype(np.uint8),
        LOCALIZER_ROW: (cue > thresholds["cue"]).astype(np.uint8),
        "3D alone": (probability > 0.5).astype(np.uint8),
        **fused,
        "L2SNet, components": fuse.components(
            probability, cue, case.geometry.voxel_ml / working_geometry(case.geometry).voxel_ml
        ),
    }


def score(case: Case, mask: Array) -> Row:
    """The challenge's three numbers of one mask; Dice and FNV are NaN where there is no lesion (challenge2024)."""
    if case.lesions is None:
        raise InputError(f"case {case.name} has no lesion mask to compare with")
    truth, voxel_ml = case.lesions.array > 0.5, case.geometry.voxel_ml
    lesions = bool(truth.any())
    return {
        "dice": dice(truth, mask) if lesions else float("nan"),
        "fpv_ml": false_positive_ml(truth, mask, voxel_ml),
        "fnv_ml": false_negative_ml(truth, mask, voxel_ml) if lesions else float("nan"),
    }


def write_metrics(table: Mapping[str, Mapping[str, Row]], method: L2SNet, weights: Path | None) -> None:
    """Write `metrics.json` beside each network: the 2D row with the localizer, the others with the segmenter."""
    rows = {LOCALIZER: {LOCALIZER_ROW}, SEGMENTER: set(table) - {LOCALIZER_ROW}}
    for network, names in rows.items():
        part = {name: table[name] for name in table if name in names}
        record = {"settings": method.settings, "means": means(part), "cases": part}
        path = find_weights(network, weights) / METRICS
        path.write_text(json.dumps(_without_nan(record), indent=1, allow_nan=False) + "\n", "utf-8")


def _without_nan(value: object) -> object:
    """NaN, which JSON does not have, to null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def means(table: Mapping[str, Mapping[str, Row]]) -> dict[str, Row]:
    """Mean per row over the cases where the number is defined; NaN where it is for none."""
    result: dict[str, Row] = {}
    for name, rows in table.items():
        values = {column: [row[column] for row in rows.values() if np.isfinite(row[column])] for column in COLUMNS}
        result[name] = {column: float(np.mean(v)) if v else float("nan") for column, v in values.items()}
    return result
