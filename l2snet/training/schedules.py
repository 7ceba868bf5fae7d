"""Learning rates over a run, and when it ends: known beforehand (L2SNet), or read off the loss (Step-by-Step)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


class Schedule(Protocol):
    """What the training loop asks for the rate of a step, and tells the loss of an epoch."""

    @property
    def is_over(self) -> bool:
        """Whether the run ends here, before the recipe's last epoch."""

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0 over the run."""

    def record(self, loss: float) -> None:
        """Take note of an epoch's mean loss."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep (JSON) for the run to go on as if never stopped; empty for nothing."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""


@dataclass(frozen=True)
class Fixed:
    """Rates that depend on the step alone."""

    rate_at: Callable[[int], float]
    is_over: bool = False

    def rate(self, step: int) -> float:
        """`rate_at` of the step."""
        return self.rate_at(step)

    def record(self, loss: float) -> None:
        """The loss changes nothing."""

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Refuse what is not this schedule's.

        Raises
        ------
        ValueError : there is something to restore.
        """
        if state:
            raise ValueError(f"a schedule's state {state} was given to one that has none")


@dataclass(frozen=True)
class MovingAverageRule:
    """The rule of Step-by-Step (Liu et al., section 2.3).

    Attributes
    ----------
    start : first learning rate.
    divisor : the rate is divided by it when the moving average of the loss has not fallen by `least_fall` for
        `patience` epochs.
    average_epochs : epochs in the moving average; fewer at the start.
    lowest : a rate below it ends this part.
    last_epoch : the epoch (from 0) at which this part ends at the latest.
    cosine_start, cosine_epochs : the second part falls from `cosine_start` to 0 over so many epochs, as a cosine.
    """

    start: float
    divisor: float
    least_fall: float
    average_epochs: int
    patience: int
    lowest: float
    last_epoch: int
    cosine_start: float
    cosine_epochs: int


@dataclass
class MovingAverage:
    """`MovingAverageRule` along a run; constant within an epoch.

    Attributes
    ----------
    falling : the rate of the first part.
    losses : the last epochs', as many as the average takes.
    best : lowest average so far that was a fall; None before the first epoch.
    waited : epochs since.
    epoch : epochs done.
    cosine_from : the epoch at which the second part began; None before.
    """

    rule: MovingAverageRule
    steps_per_epoch: int
    falling: float = 0.0
    losses: list[float] = field(default_factory=list)
    best: float | None = None
    waited: int = 0
    epoch: int = 0
    cosine_from: int | None = None

    def __post_init__(self) -> None:
        self.falling = self.rule.start
        self._change_over()

    @property
    def is_over(self) -> bool:
        """Whether the second part is done."""
        return self.cosine_from is not None and self.epoch >= self.cosine_from + self.rule.cosine_epochs

    def rate(self, step: int) -> float:
        """Learning rate of a step of the epoch that follows those recorded."""
        if self.cosine_from is None:
            return self.falling
        done = (step // self.steps_per_epoch - self.cosine_from) / self.rule.cosine_epochs
        return self.rule.cosine_start * (1 + math.cos(math.pi * done)) / 2

    def record(self, loss: float) -> None:
        """Take note of an epoch's mean loss; divides the rate, or changes over to the second part."""
        self.epoch += 1
        if self.cosine_from is not None:
            return
        self.losses = [*self.losses, loss][-self.rule.average_epochs :]
        average = sum(self.losses) / len(self.losses)
        if self.best is None or average < self.best - self.rule.least_fall:
            self.best, self.waited = average, 0
        else:
            self.waited += 1
        if self.waited >= self.rule.patience:
            self.falling, self.waited = self.falling / self.rule.divisor, 0
        self._change_over()

    def state(self) -> dict[str, Any]:
        """All but the rule; JSON keeps a float to the bit."""
        return {name: getattr(self, name) for name in _STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises
        ------
        ValueError : it is not this schedule's.
        """
        if set(state) != set(_STATE):
            raise ValueError(f"a schedule's state has {sorted(state)}; expected {sorted(_STATE)}")
        for name in _STATE:
            setattr(self, name, state[name])

    def _change_over(self) -> None:
        if self.falling < self.rule.lowest or self.epoch >= self.rule.last_epoch:
            self.cosine_from = self.epoch


_STATE = ("falling", "losses", "best", "waited", "epoch", "cosine_from")
