"""A fold of a cross-validation as a folder: a run and a weights folder per training; what is done is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from l2snet.backend import Network, load
from l2snet.errors import InputError
from l2snet.export import export_run
from l2snet.training.distributed import in_turn
from l2snet.training.loop import CHECKPOINT
from l2snet.training.train import TrainingCase
from l2snet.weights import CONFIG

C = TypeVar("C", bound=TrainingCase)


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


@dataclass(frozen=True)
class Fold:
    """Where the trainings of one fold are, each by its name and the role of its network.

    Attributes
    ----------
    patients : study name to patient.
    seed : of parts of the training set.
    pretrained : weights folder (holds one for each role) that every training starts from; None: none.
    """

    folder: Path
    machine: Machine
    patients: Mapping[str, str]
    seed: int = 0
    pretrained: Path | None = None

    def weights(self, name: str, role: str) -> Path:
        """The weights folder of a training."""
        return self.folder / name / role

    def run(self, name: str, role: str) -> Path:
        """The run folder of a training."""
        return self.folder / "runs" / f"{name}_{role}"

    def is_done(self, name: str, role: str) -> bool:
        """Whether a training has come to its weights."""
        return (self.weights(name, role) / CONFIG).is_file()

    def train(self, name: str, role: str, train: Callable[[Path, Path | None], object]) -> None:
        """Train, given a run folder and the weights to start from, to weights; nothing, if that is done."""
        run, start = self.run(name, role), None if self.pretrained is None else self.pretrained / role
        train_once(lambda: train(run, start), run, self.weights(name, role), self.machine.device)

    def load(self, name: str, role: str, precision: str = "exact") -> Network:
        """The network of a training."""
        return load(self.weights(name, role), self.machine.device, precision)


def train_once(train: Callable[[], object], run: Path, weights: Path, device: str) -> None:
    """Bring a run to its weights, unless they are there; the checkpoint, some ten times as large, goes."""
    if (weights / CONFIG).is_file():
        return
    train()
    with in_turn(device):
        if not (weights / CONFIG).is_file():
            export_run(run, weights)
        (run / CHECKPOINT).unlink(missing_ok=True)


def split(cases: Sequence[C], patients: Mapping[str, str], parts: int, seed: int) -> list[list[C]]:
    """Parts of about equal size; no patient is in two, and cases with and without lesions are spread evenly.

    Raises
    ------
    InputError : fewer patients than parts, in all or of either kind.
    """
    groups = [patients[case.name] for case in cases]
    if len(set(groups)) < parts:
        raise InputError(f"{len(set(groups))} patients cannot be shared among {parts} folds; ask for fewer folds")
    labels = [int(case.has_lesions) for case in cases]
    if max(labels.count(kind) for kind in (0, 1)) < parts:
        raise InputError(f"{len(cases)} cases cannot be spread evenly over {parts} folds; ask for fewer folds")
    # Where one kind of case is rarer than there are folds, some folds have none of it.
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    return [[cases[i] for i in test] for _, test in splitter.split(np.zeros(len(cases)), labels, groups)]
