"""Patient-level cross-validation of a method: no step of a fold sees its test cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2snet import __version__
from l2snet.errors import InputError
from l2snet.evaluation.records import Records, fingerprint
from l2snet.evaluation.summary import Row
from l2snet.evaluation.validate import score
from l2snet.files import write_text
from l2snet.sources.autopet import LESIONS, SUV, find_studies, patients_among, patients_of, read_donors, read_study
from l2snet.training.distributed import in_turn
from l2snet.training.fold import Fold, Machine, split
from l2snet.training.loop import start_record
from l2snet.training.plans import Plan
from l2snet.weights import SUMS, read_config, read_sums

logger = logging.getLogger(__name__)

FOLDS, SETTINGS, RECORDS = "folds.json", "settings.json", "cases"


@dataclass(frozen=True)
class Setup:
    """What a cross-validation is made of; the same setup continues it.

    Attributes
    ----------
    plan : the method's trainings and their recipes.
    folds : parts of the patients, each the test set of one fold.
    seed : of the parts.
    pretrained : weights folder (holds one for each of the method's networks) to start every training from; None: none.
    resample_ct : bring a CT on another grid onto the PET's.
    """

    plan: Plan[Any]
    folds: int = 5
    seed: int = 0
    pretrained: Path | None = None
    resample_ct: bool = False

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise InputError(f"folds is {self.folds}; expected at least 2")

    @property
    def starts(self) -> dict[str, Path]:
        """Role to the weights folder that its trainings start from; empty where they start anew."""
        return {} if self.pretrained is None else {role: self.pretrained / role for role in self.plan.recipes}

    def to_dict(self) -> dict[str, object]:
        """All settings; equal for equal setups. Their order is part of the text that a folder is known by."""
        starts = {role: (folder / SUMS).read_text("utf-8") for role, folder in self.starts.items()}
        return {
            **{role: json.loads(recipe.to_json()) for role, recipe in self.plan.recipes.items()},
            "folds": self.folds,
            **self.plan.options,
            "seed": self.seed,
            "pretrained": starts or None,
            "resample_ct": self.resample_ct,
        }


def crossval(
    data: Sequence[Path],
    out: Path,
    setup: Setup,
    cache: Path,
    also: Sequence[Path] = (),
    machine: Machine | None = None,
    only: Sequence[int] | None = None,
) -> dict[str, dict[str, Row]]:
    """Train and test every fold; what was stopped goes on, step by step.

    Parameters
    ----------
    data : folders of studies, PATIENT/STUDY or STUDY alone; all studies of a patient are in one fold.
    also : folders of studies that are trained on in every fold and never tested, such as synthetic bodies.
    only : numbers of the folds to run, from 0; None: all. The table is of the folds that are done.

    Returns
    -------
    Row name to case name to numbers, as `l2snet.evaluation.validate.validate` gives them.

    Raises
    ------
    InputError : too few patients, a patient of `data` was seen by `pretrained` or is in `also`, or `out` is of another
        cross-validation.
    """
    machine = machine or Machine()
    if only is not None and not set(only) <= set(range(setup.folds)):
        raise InputError(f"fold {max(only)} was asked for; there are folds 0 to {setup.folds - 1}")
    patients = patients_of([*data, *also])
    folders = {folder.name: folder for root in data for folder in find_studies(root)}
    _check_unseen({patients[name] for name in folders}, patients, also, list(setup.starts.values()))
    with in_turn(machine.device):
        cases = setup.plan.cases([*data, *also], cache, setup.resample_ct)
    by_name = {case.name: case for case in cases}
    tested = [by_name[name] for name in folders]  # in one order, and so in the same folds, whatever the method
    parts = split(tested, patients, setup.folds, setup.seed)
    sources = [[case.name for case in cases if case.source == source] for source in range(len(data) + len(also))]
    start_record(out / SETTINGS, json.dumps({**setup.to_dict(), "cases": sources}, indent=1) + "\n")
    start_record(out / FOLDS, json.dumps([[case.name for case in part] for part in parts], indent=1) + "\n")
    table: dict[str, dict[str, Row]] = {}
    for number, part in enumerate(parts):
        fold = Fold(out / f"fold_{number}", machine, patients, setup.seed, setup.pretrained)
        tests = _Tests(fold, setup, [folders[case.name] for case in part])
        if only is None or number in only:
            setup.plan.train(fold, [case for case in cases if case not in part])
            with in_turn(machine.device):
                tests.run()
        for name, rows in tests.rows().items():
            table.setdefault(name, {}).update(rows)
    return table


@dataclass(frozen=True)
class _Tests:
    """The test cases of a fold, with a record for each that is scored."""

    fold: Fold
    setup: Setup
    studies: Sequence[Path]

    def run(self) -> None:
        """Score the test cases; those that are scored are kept."""
        missing = [study for study in self.studies if self._records.get(study.name, self._key(study)) is None]
        if not missing:
            return
        networks = [self.fold.load(*one) for one in self.setup.plan.tested]
        for study in missing:
            case = read_study(study, self.setup.resample_ct, ct_optional=True)
            rows = {name: score(case, mask) for name, mask in self.setup.plan.masks(networks, case).items()}
            self._records.put(study.name, self._key(study), rows)
            logger.info("%s: %s tested", self.fold.folder.name, study.name)

    def rows(self) -> dict[str, dict[str, Row]]:
        """Row name to case name to numbers, of the cases that are tested."""
        table: dict[str, dict[str, Row]] = {}
        if all(self.fold.is_done(*one) for one in self.setup.plan.tested):
            for study in self.studies:
                for name, row in (self._records.get(study.name, self._key(study)) or {}).items():
                    table.setdefault(name, {})[study.name] = row
        return table

    @property
    def _records(self) -> Records:
        return Records(self.fold.folder / RECORDS)

    def _key(self, study: Path) -> object:
        """What the numbers of a test case depend on."""
        files = [fingerprint(study / name) for name in (SUV, LESIONS)]
        sums = [read_sums(self.fold.weights(*one)) for one in self.setup.plan.tested]
        return [__version__, self.setup.resample_ct, files, sums]


def write_table(text: str, out: Path) -> Path:
    """Write `table.md` beside the folds."""
    path = out / "table.md"
    write_text(text, path)
    return path


def _check_unseen(tested: Set[str], patients: Mapping[str, str], also: Sequence[Path], starts: Sequence[Path]) -> None:
    """Refuse studies to train on, and weights to start from, that have seen a patient to be tested.

    Parameters
    ----------
    starts : weights folders.
    """
    studies = [folder for root in also for folder in find_studies(root)]
    always = {name for folder in studies for name in (folder.name, *read_donors(folder))}
    both = sorted(tested & patients_among(always, patients))
    if both:
        raise InputError(f"{', '.join(both[:3])} would be tested and always trained on; leave them out of one")
    for folder in starts:
        both = sorted(tested & patients_among(read_config(folder).learnt_cases, patients))
        if both:
            raise InputError(
                f"{folder} was trained on {', '.join(both[:3])}, which would be tested; "
                "start from weights that saw none of DATA"
            )
