"""Thresholds chosen on cases that neither network was trained on, and kept in the weights' configs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from l2snet import fuse
from l2snet.errors import InputError
from l2snet.evaluation.validate import METRICS, score
from l2snet.files import write_text
from l2snet.pipeline import L2SNet
from l2snet.progress import track
from l2snet.sources.autopet import read_study
from l2snet.weights import CONFIG, LOCALIZER, SEGMENTER, find_weights, read_config, write_sums

logger = logging.getLogger(__name__)

CUES = (0.3, 0.5, 0.7, 0.9)
ON_CUES = (0.1, 0.3, 0.5)
OFF_CUES = (0.5, 0.7, 0.9, 0.95, 0.99)
# How much mean Dice may be given up for less volume that is wrongly marked or missed.
DICE_MARGIN = 0.01


@dataclass(frozen=True)
class Choice:
    """Thresholds and what they come to: mean Dice over cases with lesions, mean FPV and FNV in ml over all cases."""

    cue: float
    on_cue: float
    off_cue: float
    dice: float
    fpv_ml: float
    fnv_ml: float


def calibrate(method: L2SNet, studies: Sequence[Path], resample_ct: bool) -> list[Choice]:
    """Score every combination of thresholds on the studies; each is segmented once.

    Raises
    ------
    InputError : no study has a lesion.
    """
    settings = list(product(CUES, ON_CUES, OFF_CUES))
    rows: dict[tuple[float, float, float], list[tuple[float, float, float]]] = {one: [] for one in settings}
    for folder in track(studies, "cases", len(studies)):
        case = read_study(folder, resample_ct, ct_optional=True)
        result = method.segment(case)
        if result.cue is None:
            raise ValueError("a method without a location cue has no such thresholds")
        for cue, on_cue, off_cue in settings:
            mask = fuse.adaptive(result.probability.array, result.cue.array, on_cue, off_cue, cue)
            row = score(case, mask)
            rows[cue, on_cue, off_cue].append((row["dice"], row["fpv_ml"], row["fnv_ml"]))
    if all(np.isnan(dice) for dice, _, _ in rows[settings[0]]):
        raise InputError("no study has a lesion: thresholds cannot be chosen; give studies with lesions too")
    return list(_means(rows))


def _means(rows: dict[tuple[float, float, float], list[tuple[float, float, float]]]) -> Iterator[Choice]:
    for (cue, on_cue, off_cue), numbers in rows.items():
        dice, fpv, fnv = np.array(numbers).T
        some = np.isfinite(dice)
        yield Choice(
            cue,
            on_cue,
            off_cue,
            float(dice[some].mean()),
            float(fpv.mean()),
            float(np.nan_to_num(fnv).mean()),
        )


def best(choices: Sequence[Choice]) -> Choice:
    """The least FPV + FNV among those whose mean Dice is within `DICE_MARGIN` of the best."""
    highest = max(choice.dice for choice in choices)
    near = [choice for choice in choices if choice.dice >= highest - DICE_MARGIN]
    return min(near, key=lambda choice: (choice.fpv_ml + choice.fnv_ml, -choice.dice))


def write_choice(choice: Choice, cases: Sequence[str], weights: Path | None) -> None:
    """Write the thresholds, and on which cases (and patients) they were chosen, into both configs, with their hashes.

    Recorded tables go: they are of other thresholds.
    """
    thresholds = {
        LOCALIZER: {"cue": choice.cue},
        SEGMENTER: {"on_cue": choice.on_cue, "off_cue": choice.off_cue},
    }
    for network, values in thresholds.items():
        folder = find_weights(network, weights)
        config = read_config(folder)
        config = replace(config, thresholds=values, trained={**config.trained, "calibrated_on": sorted(cases)})
        write_text(config.to_json(), folder / CONFIG)
        write_sums(folder)
        (folder / METRICS).unlink(missing_ok=True)
        logger.info("%s: %s", folder, values)
