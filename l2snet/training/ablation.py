"""What the auxiliary channels of Step-by-Step are worth: the same recipe with and without them, over several seeds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from l2snet.backend import load
from l2snet.errors import InputError
from l2snet.evaluation.records import Records
from l2snet.evaluation.summary import Row
from l2snet.evaluation.validate import score
from l2snet.sources.autopet import find_studies, patients_among, read_study
from l2snet.stepbystep import CHANNELS, StepByStep
from l2snet.training.distributed import in_turn
from l2snet.training.fold import train_once
from l2snet.training.loop import start_record
from l2snet.training.recipes import StepByStepRecipe
from l2snet.training.step_by_step import train_step_by_step
from l2snet.training.store import StoredCase
from l2snet.training.train import learnt_from
from l2snet.weights import STEP_BY_STEP

logger = logging.getLogger(__name__)

ARMS = {"with auxiliary channels": CHANNELS, "without": 1}
SETTINGS, RECORDS = "settings.json", "cases"
# Column of the table to its heading; a column is left out where no case has it.
COLUMNS = {"dice": "Dice", "fpv_ml": "FPV ml", "fnv_ml": "FNV ml", "lesion_score": "lesion score"}

# Arm to seed to case name to numbers.
Results = dict[str, dict[int, dict[str, Row]]]


@dataclass(frozen=True)
class Ablation:
    """One recipe, trained with and without auxiliary channels from each seed, tested on the same studies.

    Attributes
    ----------
    recipe : the same for all but `channels` and `seed`.
    seeds : of first weights and samples; the samples of a seed are the same in both arms.
    out : folder with a run, a weights folder and a record per test case of each training; what was stopped goes on.
    """

    recipe: StepByStepRecipe
    seeds: Sequence[int]
    out: Path
    device: str = "auto"
    workers: int = 0

    def run(
        self,
        cases: Sequence[StoredCase],
        studies: Sequence[Path],
        patients: Mapping[str, str],
        resample_ct: bool = False,
    ) -> Results:
        """Train on `cases`, test on `studies`.

        Parameters
        ----------
        patients : study name to patient, as `patients_of` gives it.

        Raises
        ------
        InputError : a patient to be tested is trained on, or has tumours in a synthetic case; or `out` is of another
            ablation.
        """
        tested = patients_among((folder.name for folder in studies), patients)
        both = sorted(tested & patients_among(learnt_from(cases), patients))
        if both:
            raise InputError(f"{', '.join(both[:3])} would be trained on and tested; hold out every study of theirs")
        names = {"trained": sorted(case.name for case in cases), "tested": sorted(folder.name for folder in studies)}
        settings = {"recipe": json.loads(self.recipe.to_json()), **names, "resample_ct": resample_ct}
        start_record(self.out / SETTINGS, json.dumps(settings, indent=1) + "\n")
        results: Results = {}
        for seed in self.seeds:  # so that a stopped ablation has pairs
            for arm, channels in ARMS.items():
                folder = self.out / f"{channels}_channels_seed_{seed}"
                self._train(folder, replace(self.recipe, channels=channels, seed=seed), cases)
                with in_turn(self.device):
                    results.setdefault(arm, {})[seed] = self._test(folder, studies, resample_ct)
        return results

    def _train(self, folder: Path, recipe: StepByStepRecipe, cases: Sequence[StoredCase]) -> None:
        run, device = folder / "run", self.device
        train_once(
            lambda: train_step_by_step(cases, recipe, run, device, self.workers),
            run,
            folder / "weights" / STEP_BY_STEP,
            device,
        )

    def _test(self, folder: Path, studies: Sequence[Path], resample_ct: bool) -> dict[str, Row]:
        network = load(folder / "weights" / STEP_BY_STEP, self.device)
        method, records = StepByStep([network]), Records(folder / RECORDS)
        rows = {}
        for study in studies:
            row = records.get(study.name, network.sha256)
            if row is None:
                case = read_study(study, resample_ct, ct_optional=True)
                result = method.segment(case)
                row = {**score(case, result.mask.array), **result.scores}
                records.put(study.name, network.sha256, row)
                logger.info("%s: %s tested", folder.name, study.name)
            rows[study.name] = row
        return rows


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
