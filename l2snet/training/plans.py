"""What each method trains in a fold of a cross-validation, and the masks that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from l2snet.backend import Network
from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.evaluation.validate import predictions
from l2snet.pipeline import L2SNet, segment_alone
from l2snet.stepbystep import StepByStep
from l2snet.training.cache import CachedCase
from l2snet.training.distributed import in_turn
from l2snet.training.fold import C, Fold, split
from l2snet.training.named import LOCALIZERS, SEGMENTERS, STEP_BY_STEPS
from l2snet.training.recipes import LocalizerRecipe, Recipe, SegmenterRecipe, StepByStepRecipe
from l2snet.training.step_by_step import stored_cases, train_step_by_step
from l2snet.training.store import StoredCase
from l2snet.training.train import cached_cases, cue_name, train_localizer, train_segmenter, write_cues
from l2snet.volume import Array
from l2snet.weights import LOCALIZER, NETWORK, SEGMENTER, STEP_BY_STEP, read_config, read_sums

# Folder of the fold's own weights, and of those that L2SNet is compared with.
WEIGHTS, NO_CUE = "weights", "without_cue"
WITHOUT_CUE = "3D alone, trained without cue"


class Plan(Protocol[C]):
    """A method's part in a cross-validation, which knows no more of it than this.

    Attributes
    ----------
    named : role of each network to its named recipes; the plan is made of one of each.
    tested : folder and role of the trainings whose networks the masks are by.
    """

    named: ClassVar[Mapping[str, Mapping[str, Recipe]]]
    tested: ClassVar[Sequence[tuple[str, str]]]

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Role to its recipe."""

    @property
    def options(self) -> dict[str, object]:
        """What else is set."""

    def cases(self, data: Sequence[Path], cache: Path, resample_ct: bool) -> list[C]:
        """The cases under the `data` folders, as the method trains on them."""

    def train(self, fold: Fold, cases: Sequence[C]) -> None:
        """All trainings of a fold, on its training set; those that are done are left alone."""

    def masks(self, networks: Sequence[Network], case: Case) -> dict[str, Array]:
        """Row name to (z, y, x) mask, by the networks that are `tested`."""


@dataclass(frozen=True)
class L2SNetPlan:
    """Both phases of L2SNet (section 4, Table 1), the segmenter with cues and without.

    Attributes
    ----------
    localizer, segmenter : recipes of the two phases; the segmenter is also trained with `cue_weight` 0.
    inner_folds : parts of a fold's training set; the cue of a case is by a localizer trained on the other parts.
    """

    localizer: LocalizerRecipe
    segmenter: SegmenterRecipe
    inner_folds: int = 2

    named: ClassVar[Mapping[str, Mapping[str, Recipe]]] = {LOCALIZER: LOCALIZERS, SEGMENTER: SEGMENTERS}
    tested: ClassVar[Sequence[tuple[str, str]]] = ((WEIGHTS, LOCALIZER), (WEIGHTS, SEGMENTER), (NO_CUE, SEGMENTER))

    def __post_init__(self) -> None:
        if self.inner_folds < 2:
            raise InputError(f"inner_folds is {self.inner_folds}; expected at least 2")

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Role to its recipe."""
        return {LOCALIZER: self.localizer, SEGMENTER: self.segmenter}

    @property
    def options(self) -> dict[str, object]:
        """The inner folds."""
        return {"inner_folds": self.inner_folds}

    def cases(self, data: Sequence[Path], cache: Path, resample_ct: bool) -> list[CachedCase]:
        """Plain arrays, each case in a folder of the cache."""
        return cached_cases(data, cache, resample_ct=resample_ct)

    def train(self, fold: Fold, cases: Sequence[CachedCase]) -> None:
        """Inner localizers, localizer, segmenter without cues, and segmenter with cues by the inner localizers."""
        inner = []
        for number, part in enumerate(split(cases, fold.patients, self.inner_folds, fold.seed)):
            inner.append(f"inner_{number}")
            self._localizer(fold, inner[-1], [case for case in cases if case not in part])
        self._localizer(fold, WEIGHTS, cases)
        self._segmenter(fold, NO_CUE, cases, replace(self.segmenter, cue_weight=0.0))
        if not fold.is_done(WEIGHTS, SEGMENTER):
            with in_turn(fold.machine.device):
                localizers = [fold.load(name, LOCALIZER, "fast") for name in inner]
                with_cues = write_cues(cases, localizers, fold.run(WEIGHTS, SEGMENTER))
            self._segmenter(fold, WEIGHTS, with_cues, self.segmenter)
        for name in inner:
            weights = fold.weights(name, LOCALIZER)
            cue = cue_name(read_sums(weights)[NETWORK], read_config(weights).slice_stride)
            for case in cases:
                replace(case, cue_name=cue).cue_path.unlink(missing_ok=True)

    def masks(self, networks: Sequence[Network], case: Case) -> dict[str, Array]:
        """The rows of L2SNet, and the 3D network alone that was trained without cues."""
        localizer, segmenter, plain = networks
        return {**predictions(L2SNet([localizer], [segmenter]), case), WITHOUT_CUE: segment_alone(case, plain)}

    def _localizer(self, fold: Fold, name: str, cases: Sequence[CachedCase]) -> None:
        device, workers = fold.machine.device, fold.machine.workers
        fold.train(
            name,
            LOCALIZER,
            lambda run, start: train_localizer(cases, self.localizer, run, device, workers, pretrained=start),
        )

    def _segmenter(self, fold: Fold, name: str, cases: Sequence[CachedCase], recipe: SegmenterRecipe) -> None:
        machine = fold.machine
        fold.train(
            name,
            SEGMENTER,
            lambda run, start: train_segmenter(
                cases, recipe, run, machine.device, machine.workers, pretrained=start, compiled=machine.compiled
            ),
        )


@dataclass(frozen=True)
class StepByStepPlan:
    """The one network of Step-by-Step."""

    step_by_step: StepByStepRecipe

    named: ClassVar[Mapping[str, Mapping[str, Recipe]]] = {STEP_BY_STEP: STEP_BY_STEPS}
    tested: ClassVar[Sequence[tuple[str, str]]] = ((WEIGHTS, STEP_BY_STEP),)

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Role to its recipe."""
        return {STEP_BY_STEP: self.step_by_step}

    @property
    def options(self) -> dict[str, object]:
        """Nothing else."""
        return {}

    def cases(self, data: Sequence[Path], cache: Path, resample_ct: bool) -> list[StoredCase]:
        """Cases of a store for each folder, in the cache."""
        return stored_cases(data, cache, resample_ct=resample_ct)

    def train(self, fold: Fold, cases: Sequence[StoredCase]) -> None:
        """The network."""
        recipe, machine = self.step_by_step, fold.machine
        fold.train(
            WEIGHTS,
            STEP_BY_STEP,
            lambda run, start: train_step_by_step(
                cases, recipe, run, machine.device, machine.workers, pretrained=start, compiled=machine.compiled
            ),
        )

    def masks(self, networks: Sequence[Network], case: Case) -> dict[str, Array]:
        """The row of Step-by-Step."""
        return predictions(StepByStep(networks), case)
