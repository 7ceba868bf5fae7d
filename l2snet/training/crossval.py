"""Patient-level cross-validation of both phases: no step of a fold sees its test cases (paper section 4, Table 1)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from l2snet import __version__
from l2snet.backend import load
from l2snet.errors import InputError
from l2snet.evaluation.records import Records, fingerprint
from l2snet.evaluation.summary import Row
from l2snet.evaluation.validate import predictions, score
from l2snet.export import export_run
from l2snet.files import write_text
from l2snet.pipeline import SEGMENTER_ROW, L2SNet
from l2snet.sources.autopet import LESIONS, SUV, find_studies, patients_among, patients_of, read_donors, read_study
from l2snet.training.cache import CachedCase
from l2snet.training.distributed import in_turn
from l2snet.training.loop import CHECKPOINT, start_record
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe
from l2snet.training.train import cached_cases, cue_name, train_localizer, train_segmenter, write_cues
from l2snet.weights import CONFIG, LOCALIZER, NETWORK, SEGMENTER, read_config, read_sums

logger = logging.getLogger(__name__)

FOLDS, SETTINGS, WEIGHTS, RECORDS = "folds.json", "settings.json", "weights", "cases"
WITHOUT_CUE = "3D alone, trained without cue"
# Folder and network of the three trainings of a fold that are tested.
TESTED = ((WEIGHTS, LOCALIZER), (WEIGHTS, SEGMENTER), ("without_cue", SEGMENTER))


@dataclass(frozen=True)
class Setup:
    """What a cross-validation is made of; the same setup continues it.

    Attributes
    ----------
    localizer, segmenter : recipes of the two phases; the segmenter is also trained with `cue_weight` 0.
    folds : parts of the patients, each the test set of one fold.
    inner_folds : parts of a fold's training set; the cue of a case is by a localizer trained on the other parts.
    seed : of the parts.
    pretrained : weights folder (holds localizer/ and segmenter/) that every training starts from; None: none.
    resample_ct : bring a CT on another grid onto the PET's.
    """

    localizer: LocalizerRecipe
    segmenter: SegmenterRecipe
    folds: int = 5
    inner_folds: int = 2
    seed: int = 0
    pretrained: Path | None = None
    resample_ct: bool = False

    def __post_init__(self) -> None:
        for name in ("folds", "inner_folds"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 2")

    def to_dict(self) -> dict[str, object]:
        """All settings; equal for equal setups."""
        return {
            "localizer": json.loads(self.localizer.to_json()),
            "segmenter": json.loads(self.segmenter.to_json()),
            "folds": self.folds,
            "inner_folds": self.inner_folds,
            "seed": self.seed,
            "pretrained": None if self.pretrained is None else _pretrained_hashes(self.pretrained),
            "resample_ct": self.resample_ct,
        }


@dataclass(frozen=True)
class Machine:
    """Where and how it runs; results differ by rounding alone.

    Attributes
    ----------
    device : "auto", "cpu" or "cuda".
    workers : processes that make samples.
    compiled : let torch.compile fuse the 3D network.
    """

    device: str = "auto"
    workers: int = 0
    compiled: bool = False


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
    _check_unseen({patients[name] for name in folders}, patients, also, setup.pretrained)
    with in_turn(machine.device):
        cases = cached_cases([*data, *also], cache, frozenset(), setup.resample_ct)
    tested = [case for case in cases if case.source < len(data)]
    parts = split(tested, patients, setup.folds, setup.seed)
    sources = [[case.name for case in cases if case.source == source] for source in range(len(data) + len(also))]
    start_record(out / SETTINGS, json.dumps({**setup.to_dict(), "cases": sources}, indent=1) + "\n")
    start_record(out / FOLDS, json.dumps([[case.name for case in part] for part in parts], indent=1) + "\n")
    table: dict[str, dict[str, Row]] = {}
    for number, part in enumerate(parts):
        fold = _Fold(out / f"fold_{number}", setup, machine, patients)
        if only is None or number in only:
            fold.train([case for case in cases if case not in part])
            with in_turn(machine.device):
                fold.test([folders[case.name] for case in part])
        for name, rows in fold.rows([folders[case.name] for case in part]).items():
            table.setdefault(name, {}).update(rows)
    return table


def split(cases: Sequence[CachedCase], patients: Mapping[str, str], parts: int, seed: int) -> list[list[CachedCase]]:
    """Parts of about equal size; no patient is in two, and cases with and without lesions are spread evenly.

    Raises
    ------
    InputError : fewer patients than parts, in all or of either kind.
    """
    groups = [patients[case.name] for case in cases]
    if len(set(groups)) < parts:
        raise InputError(f"{len(set(groups))} patients cannot be shared among {parts} folds; ask for fewer folds")
    labels = [int(case.lesions.any()) for case in cases]
    if max(labels.count(kind) for kind in (0, 1)) < parts:
        raise InputError(f"{len(cases)} cases cannot be spread evenly over {parts} folds; ask for fewer folds")
    # Where one kind of case is rarer than there are folds, some folds have none of it.
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    return [[cases[i] for i in test] for _, test in splitter.split(np.zeros(len(cases)), labels, groups)]


@dataclass(frozen=True)
class _Fold:
    """One fold: its folder holds a run and a weights folder per training, and a record per test case."""

    folder: Path
    setup: Setup
    machine: Machine
    patients: Mapping[str, str]

    def train(self, cases: Sequence[CachedCase]) -> None:
        """Inner localizers, localizer, segmenter with cues by the inner ones, and segmenter without."""
        setup = self.setup
        inner = []
        for number, part in enumerate(split(cases, self.patients, setup.inner_folds, setup.seed)):
            name = f"inner_{number}"
            inner.append(self._weights(name, LOCALIZER))
            self._localizer(name, [case for case in cases if case not in part])
        self._localizer(WEIGHTS, cases)
        plain = replace(setup.segmenter, cue_weight=0.0)
        if not self._is_done("without_cue", SEGMENTER):
            self._segmenter("without_cue", cases, plain)
        if not self._is_done(WEIGHTS, SEGMENTER):
            with in_turn(self.machine.device):
                localizers = [load(folder, self.machine.device, "fast") for folder in inner]
                with_cues = write_cues(cases, localizers, self._run(WEIGHTS, SEGMENTER))
            self._segmenter(WEIGHTS, with_cues, setup.segmenter)
        for folder in inner:
            for case in cases:
                replace(case, cue_name=cue_name(read_sums(folder)[NETWORK])).cue_path.unlink(missing_ok=True)

    def test(self, folders: Sequence[Path]) -> None:
        """Score the fold's test cases; those that are scored are kept."""
        records = Records(self.folder / RECORDS)
        missing = [folder for folder in folders if records.get(folder.name, self._key(folder)) is None]
        if not missing:
            return
        localizer, segmenter, plain = (load(self._weights(*one), self.machine.device) for one in TESTED)
        for folder in missing:
            case = read_study(folder, self.setup.resample_ct, ct_optional=True)
            without_cue = predictions(L2SNet([localizer], [plain]), case)[SEGMENTER_ROW]
            masks = {**predictions(L2SNet([localizer], [segmenter]), case), WITHOUT_CUE: without_cue}
            records.put(folder.name, self._key(folder), {name: score(case, mask) for name, mask in masks.items()})
            logger.info("%s: %s tested", self.folder.name, folder.name)

    def rows(self, folders: Sequence[Path]) -> dict[str, dict[str, Row]]:
        """Row name to case name to numbers, of the cases that are tested."""
        records = Records(self.folder / RECORDS)
        table: dict[str, dict[str, Row]] = {}
        if all(self._is_done(*one) for one in TESTED):
            for folder in folders:
                for name, row in (records.get(folder.name, self._key(folder)) or {}).items():
                    table.setdefault(name, {})[folder.name] = row
        return table

    def _key(self, folder: Path) -> object:
        """What the numbers of a test case depend on."""
        files = [fingerprint(folder / name) for name in (SUV, LESIONS)]
        return [__version__, self.setup.resample_ct, files, [read_sums(self._weights(*one)) for one in TESTED]]

    def _localizer(self, name: str, cases: Sequence[CachedCase]) -> None:
        if self._is_done(name, LOCALIZER):
            return
        machine, run = self.machine, self._run(name, LOCALIZER)
        train_localizer(
            cases,
            self.setup.localizer,
            run,
            machine.device,
            machine.workers,
            pretrained=_part(self.setup.pretrained, LOCALIZER),
        )
        self._finish(name, LOCALIZER)

    def _segmenter(self, name: str, cases: Sequence[CachedCase], recipe: SegmenterRecipe) -> None:
        machine, run = self.machine, self._run(name, SEGMENTER)
        train_segmenter(
            cases,
            recipe,
            run,
            machine.device,
            machine.workers,
            pretrained=_part(self.setup.pretrained, SEGMENTER),
            compiled=machine.compiled,
        )
        self._finish(name, SEGMENTER)

    def _finish(self, name: str, network: str) -> None:
        """A run to its weights; the checkpoint, some ten times as large, goes."""
        run = self._run(name, network)
        with in_turn(self.machine.device):
            if not self._is_done(name, network):
                export_run(run, self._weights(name, network))
            (run / CHECKPOINT).unlink(missing_ok=True)

    def _is_done(self, name: str, network: str) -> bool:
        return (self._weights(name, network) / CONFIG).is_file()

    def _weights(self, name: str, network: str) -> Path:
        return self.folder / name / network

    def _run(self, name: str, network: str) -> Path:
        return self.folder / "runs" / f"{name}_{network}"


def write_table(text: str, out: Path) -> Path:
    """Write `table.md` beside the folds."""
    path = out / "table.md"
    write_text(text, path)
    return path


def _part(weights: Path | None, network: str) -> Path | None:
    return None if weights is None else weights / network


def _pretrained_hashes(weights: Path) -> dict[str, str]:
    return {network: (weights / network / "SHA256SUMS").read_text("utf-8") for network in (LOCALIZER, SEGMENTER)}


def _check_unseen(tested: Set[str], patients: Mapping[str, str], also: Sequence[Path], pretrained: Path | None) -> None:
    """Refuse studies to train on, and weights to start from, that have seen a patient to be tested."""
    studies = [folder for root in also for folder in find_studies(root)]
    always = {name for folder in studies for name in (folder.name, *read_donors(folder))}
    both = sorted(tested & patients_among(always, patients))
    if both:
        raise InputError(f"{', '.join(both[:3])} would be tested and always trained on; leave them out of one")
    for folder in [] if pretrained is None else [pretrained / network for network in (LOCALIZER, SEGMENTER)]:
        both = sorted(tested & patients_among(read_config(folder).seen_cases, patients))
        if both:
            raise InputError(
                f"{folder} was trained on {', '.join(both[:3])}, which would be tested; "
                "start from weights that saw none of DATA"
            )
