"""What a setting of a recipe is worth: a 3D network trained with and without it, from several seeds."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from l2snet.backend import Network, load
from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.evaluation.records import Records
from l2snet.evaluation.summary import Row
from l2snet.evaluation.validate import score
from l2snet.pipeline import segment_alone
from l2snet.sources.autopet import find_studies, patients_among, read_study
from l2snet.stepbystep import StepByStep
from l2snet.training.cache import CachedCase
from l2snet.training.distributed import in_turn
from l2snet.training.fold import Machine, train_once
from l2snet.training.loop import start_record
from l2snet.training.named import SEGMENTERS, STEP_BY_STEPS
from l2snet.training.recipes import Recipe, StepByStepRecipe
from l2snet.training.settings import changed
from l2snet.training.step_by_step import stored_cases, train_step_by_step
from l2snet.training.store import StoredCase
from l2snet.training.train import cached_cases, learnt_from, train_segmenter
from l2snet.weights import SEGMENTER, STEP_BY_STEP

logger = logging.getLogger(__name__)

# The first arm; and the arm of Step-by-Step without its auxiliary channels.
AS_IT_IS, MASK_ALONE = "as it is", "channels=1"
# What an arm cannot change: each has every seed, no cue is at hand, and all start at random.
KEPT = frozenset({"name", "seed", "cue_weight", "keep_statistics"})
SETTINGS, RECORDS, RECORDS_PET_ONLY = "settings.json", "cases", "cases_pet_only"
# Column of the table to its heading; a column is left out where no case has it.
COLUMNS = {"dice": "Dice", "fpv_ml": "FPV ml", "fnv_ml": "FNV ml", "lesion_score": "lesion score"}

R = TypeVar("R", bound=Recipe)
Cases = Sequence[StoredCase] | Sequence[CachedCase]
# Arm to seed to case name to numbers.
Results = dict[str, dict[int, dict[str, Row]]]


@dataclass(frozen=True)
class Ablation:
    """One recipe as it is, and with each of some changes, trained from each seed and tested on the same studies.

    Attributes
    ----------
    recipe : of the segmenter, which learns without a cue, or of Step-by-Step.
    changes : settings that an arm has instead of the recipe's, as `changed` reads them, such as "norm=channels".
    seeds : of first weights and samples; the samples of a seed are the same in all arms, but for what the arm changes.
    out : folder with a run, a weights folder and a record per test case of each training; what was stopped goes on.
    """

    recipe: Recipe
    changes: Sequence[str]
    seeds: Sequence[int]
    out: Path
    machine: Machine = field(default_factory=Machine)

    def run(
        self,
        cases: Cases,
        studies: Sequence[Path],
        patients: Mapping[str, str],
        resample_ct: bool = False,
        pet_only: bool = False,
    ) -> Results:
        """Train on `cases`, test on `studies`.

        Parameters
        ----------
        patients : study name to patient, as `patients_of` gives it.
        pet_only : test without the CT.

        Raises
        ------
        InputError : a patient to be tested is trained on, or has tumours in a synthetic case; `out` is of another
            ablation; or a change makes no sense.
        """
        arms = {AS_IT_IS: self.recipe, **{change: changed(self.recipe, change, KEPT) for change in self.changes}}
        folders = 1 + max(case.source for case in cases)
        for arm, recipe in arms.items():
            if recipe.shares is not None and len(recipe.shares) != folders:
                raise InputError(f"arm {arm!r} has shares {recipe.shares}; expected one for each of {folders} folders")
        tested = patients_among((folder.name for folder in studies), patients)
        both = sorted(tested & patients_among(learnt_from(cases), patients))
        if both:
            raise InputError(f"{', '.join(both[:3])} would be trained on and tested; hold out every study of theirs")
        names = {"trained": sorted(case.name for case in cases), "tested": sorted(folder.name for folder in studies)}
        settings = {"recipe": json.loads(self.recipe.to_json()), **names, "resample_ct": resample_ct}
        start_record(self.out / SETTINGS, json.dumps(settings, indent=1) + "\n")
        results: Results = {}
        for seed in self.seeds:  # so that a stopped ablation has whole comparisons
            for arm, recipe in arms.items():
                folder = self.out / f"{re.sub(r'[^a-z0-9_]+', '-', arm)}_seed_{seed}"
                self._train(folder, replace(recipe, seed=seed), cases)
                with in_turn(self.machine.device):
                    results.setdefault(arm, {})[seed] = self._test(folder, studies, resample_ct, pet_only)
        return results

    def _train(self, folder: Path, recipe: Recipe, cases: Cases) -> None:
        run, machine = folder / "run", self.machine
        train = _trainer(recipe)

        def to_the_end() -> None:
            train(cases, recipe, run, machine.device, machine.workers, compiled=machine.compiled)

        train_once(to_the_end, run, folder / "weights" / recipe.network, machine.device)

    def _test(self, folder: Path, studies: Sequence[Path], resample_ct: bool, pet_only: bool) -> dict[str, Row]:
        network = load(folder / "weights" / self.recipe.network, self.machine.device)
        records = Records(folder / (RECORDS_PET_ONLY if pet_only else RECORDS))
        rows = {}
        for study in studies:
            row = records.get(study.name, network.sha256)
            if row is None:
                case = read_study(study, resample_ct, ct_optional=True)
                row = _row(network, replace(case, ct=None) if pet_only else case)
                records.put(study.name, network.sha256, row)
                logger.info("%s: %s tested", folder.name, study.name)
            rows[study.name] = row
        return rows


def named_recipes(network: str) -> Mapping[str, Recipe]:
    """The recipes of a network that can be ablated, which learns without a cue.

    Raises
    ------
    InputError : it cannot.
    """
    if network == STEP_BY_STEP:
        return STEP_BY_STEPS
    if network == SEGMENTER:
        return {name: replace(recipe, cue_weight=0.0) for name, recipe in SEGMENTERS.items()}
    raise InputError(f"network {network!r} cannot be ablated; expected {STEP_BY_STEP} or {SEGMENTER}")


def _trainer(recipe: Recipe) -> Any:
    return train_step_by_step if isinstance(recipe, StepByStepRecipe) else train_segmenter


def _row(network: Network, case: Case) -> Row:
    if network.config.network == SEGMENTER:
        return score(case, segment_alone(case, network))
    result = StepByStep([network]).segment(case)
    return {**score(case, result.mask.array), **result.scores}


def trained_on(network: str, data: Sequence[Path], cache: Path, hold_out: set[str], resample_ct: bool) -> Cases:
    """The cases of `data` as the network's training takes them, without those held out."""
    make = stored_cases if network == STEP_BY_STEP else cached_cases
    return make(data, cache, hold_out, resample_ct)


def named_studies(data: Sequence[Path], names: set[str]) -> list[Path]:
    """The study folders of these names.

    Raises
    ------
    InputError : none is named, or one is not there.
    """
    folders = {folder.name: folder for root in data for folder in find_studies(root)}
    if not names or not names <= set(folders):
        missing = ", ".join(sorted(names - set(folders))) or "no case"
        raise InputError(f"--hold-out names {missing}; expected names of studies under DATA, to test on")
    return [folders[name] for name in sorted(names)]


def table(results: Mapping[str, Mapping[int, Mapping[str, Row]]]) -> str:
    """Markdown: a line per arm and seed with means over cases, then mean and standard deviation over seeds.

    Dice and FNV are means over the cases with a lesion (challenge2024).
    """
    shown = {
        column: heading
        for column, heading in COLUMNS.items()
        if any(column in row for seeds in results.values() for rows in seeds.values() for row in rows.values())
    }
    lines = [
        "| " + " | ".join(["", "seed", "cases", *shown.values()]) + " |",
        "|" + "---|" * (3 + len(shown)),
    ]
    for arm, seeds in results.items():
        means = {seed: [_mean(rows, column) for column in shown] for seed, rows in seeds.items()}
        count = len(next(iter(seeds.values())))
        for seed, values in means.items():
            lines.append(_line(arm, str(seed), count, [f"{value:.3f}" for value in values]))
        over = np.array(list(means.values()))
        deviation = over.std(axis=0, ddof=1) if len(over) > 1 else np.full(len(shown), np.nan)
        both = [f"**{m:.3f}** ± {d:.3f}" for m, d in zip(over.mean(axis=0), deviation, strict=True)]
        lines.append(_line(arm, "all", count, both))
    return "\n".join(lines).replace("**nan** ± nan", "-").replace("nan", "-") + "\n"


def _line(arm: str, seed: str, count: int, values: Sequence[str]) -> str:
    return "| " + " | ".join([arm, seed, str(count), *values]) + " |"


def _mean(rows: Mapping[str, Row], column: str) -> float:
    """Mean over the cases that have the number; NaN where none has."""
    values = [row[column] for row in rows.values() if np.isfinite(row.get(column, np.nan))]
    return float(np.mean(values)) if values else float("nan")
