"""Thresholds chosen on cases that no network of the method was trained on, and kept in the weights' configs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.evaluation.summary import Row
from l2snet.evaluation.validate import METRICS, score
from l2snet.files import write_text
from l2snet.pipeline import Method, Segmentation
from l2snet.progress import track
from l2snet.sources.autopet import read_study
from l2snet.weights import CONFIG, THRESHOLDS, find_weights, read_config, write_sums

logger = logging.getLogger(__name__)

# How much mean Dice may be given up for less volume that is wrongly marked or missed.
DICE_MARGIN = 0.01
# Threads that score; each holds a mask.
SCORERS = 2


@dataclass(frozen=True)
class Choice:
    """Thresholds and what they come to: mean Dice over cases with lesions, mean FPV and FNV in ml over all cases."""

    thresholds: Mapping[str, float]
    dice: float
    fpv_ml: float
    fnv_ml: float

    def __str__(self) -> str:
        said = ", ".join(f"{name} {value:g}" for name, value in self.thresholds.items())
        return f"{said}: Dice {self.dice:.3f}, FPV {self.fpv_ml:.1f} ml, FNV {self.fnv_ml:.1f} ml"


def calibrate(method: Method, studies: Sequence[Path], resample_ct: bool) -> list[Choice]:
    """Score every combination of the method's candidates on the studies; each is segmented once.

    Raises
    ------
    InputError : no study has a lesion.
    """
    settings = [dict(zip(method.candidates, values, strict=True)) for values in product(*method.candidates.values())]
    rows: list[list[Row]] = [[] for _ in settings]
    with ThreadPoolExecutor(SCORERS, "score") as pool:
        for folder in track(studies, "cases", len(studies)):
            case = read_study(folder, resample_ct, ct_optional=True)
            scored = partial(_scored, method, case, method.segment(case))
            for scores, row in zip(rows, pool.map(scored, settings), strict=True):
                scores.append(row)
    if all(np.isnan(row["dice"]) for row in rows[0]):
        raise InputError("no study has a lesion: thresholds cannot be chosen; give studies with lesions too")
    return [_choice(thresholds, scores) for thresholds, scores in zip(settings, rows, strict=True)]


def _scored(method: Method, case: Case, result: Segmentation, thresholds: Mapping[str, float]) -> Row:
    return score(case, method.threshold(result, thresholds))


def _choice(thresholds: Mapping[str, float], rows: Sequence[Row]) -> Choice:
    dice, fpv, fnv = (np.array([row[column] for row in rows]) for column in ("dice", "fpv_ml", "fnv_ml"))
    return Choice(thresholds, float(np.nanmean(dice)), float(fpv.mean()), float(np.nan_to_num(fnv).mean()))


def best(choices: Sequence[Choice]) -> Choice:
    """The least FPV + FNV among those whose mean Dice is within `DICE_MARGIN` of the best."""
    highest = max(choice.dice for choice in choices)
    near = [choice for choice in choices if choice.dice >= highest - DICE_MARGIN]
    return min(near, key=lambda choice: (choice.fpv_ml + choice.fnv_ml, -choice.dice))


def write_choice(choice: Choice, cases: Sequence[str], roles: Sequence[str], weights: Path | None) -> None:
    """Write the thresholds, and on which cases (and patients) they were chosen, into the configs of all roles.

    Their hashes are made anew.

    Recorded tables go: they are of other thresholds.
    """
    for role in roles:
        folder, values = find_weights(role, weights), {name: choice.thresholds[name] for name in THRESHOLDS[role]}
        config = read_config(folder)
        config = replace(config, thresholds=values, trained={**config.trained, "calibrated_on": sorted(cases)})
        write_text(config.to_json(), folder / CONFIG)
        write_sums(folder)
        (folder / METRICS).unlink(missing_ok=True)
        logger.info("%s: %s", folder, values)
