"""The second method, Step-by-Step (Liu et al., autoPET 2022): one 3D network on PET and CT, and a score of the case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from l2snet.backend import Network
from l2snet.case import Case
from l2snet.errors import WeightsError
from l2snet.mirror import add_mirrored, mirror_axes, notes_on_mirroring
from l2snet.pipeline import (
    NOT_LESION,
    Segmentation,
    hashes,
    load_roles,
    mean,
    notes_on,
    timed,
)
from l2snet.preprocess import Body, prepare
from l2snet.segment import Axes, flips, predict_channels
from l2snet.volume import Array, Volume
from l2snet.weights import STEP_BY_STEP

# Channels of the network: the lesion's probability, and the PET of the whole crop, which is 0 where there is no lesion.
LESION, WHOLE_PET, CHANNELS = 0, 6, 8
# Of the tables.
ROW = "Step-by-Step"


@dataclass(frozen=True)
class StepByStep:
    """The method of Liu et al.; its mask is the network's first channel above a threshold.

    Parameters
    ----------
    unets : trained networks; what several (folds) give is averaged.
    mirror : average over every window's versions mirrored along the axes of its config (`mirror_axes`).
    whole_grid : run every window of the grid, not only those of the body (slow; to measure the difference).
    deadline : see `l2snet.pipeline.L2SNet`.
    """

    unets: Sequence[Network]
    mirror: bool = False
    whole_grid: bool = False
    deadline: float | None = None

    roles: ClassVar[Sequence[str]] = (STEP_BY_STEP,)
    has_cue: ClassVar[bool] = False
    candidates: ClassVar[Mapping[str, Sequence[float]]] = {
        "lesion": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    }

    def __post_init__(self) -> None:
        if not self.unets:
            raise ValueError("at least one network is needed")
        if len({network.config.architecture["out_channels"] for network in self.unets}) > 1:
            raise WeightsError("networks with and without auxiliary channels cannot be averaged; give one kind alone")

    @classmethod
    def from_weights(
        cls,
        weights: Sequence[Path] = (),
        device: str = "auto",
        precision: str = "exact",
        mirror: bool = False,
        whole_grid: bool = False,
        deadline: float | None = None,
    ) -> StepByStep:
        """Load the network of one or several weights folders (each holds `step_by_step`).

        Raises
        ------
        WeightsError, DeviceError : see `l2snet.backend.load`.
        """
        (unets,) = load_roles(cls.roles, weights, device, precision)
        return cls(unets, mirror, whole_grid, deadline)

    @property
    def networks(self) -> dict[str, Sequence[Network]]:
        """Role to its networks."""
        return {STEP_BY_STEP: self.unets}

    @property
    def settings(self) -> dict[str, object]:
        """Networks, hashes and options, for the manifest."""
        return {
            "method": "step-by-step",
            "thresholds": dict(self.unets[0].config.thresholds),
            "mirror": self.mirror,
            "whole_grid": self.whole_grid,
            "engine": self.unets[0].engine,
            "weights_sha256": hashes(self),
        }

    def segment(self, case: Case) -> Segmentation:
        """Segment one case; the result is on the PET's own grid, with a `lesion_score` where the network has one.

        Raises
        ------
        InputError : the PET shows no body.
        """
        seconds: dict[str, float] = {}
        config = self.unets[0].config
        # A network without auxiliary channels (the ablation's) knows nothing of the case as a whole.
        channels = (LESION, WHOLE_PET) if config.architecture["out_channels"] == CHANNELS else (LESION,)
        with timed(seconds, "prepare"):
            body = prepare(case, config.spacing_mm, self.whole_grid)

        def windows(flip: Axes) -> Array:
            return mean(self.unets, lambda network: predict_channels(body, network, channels, flip))

        with timed(seconds, "segment"):
            out = windows(())
        notes = notes_on(case, body)
        if self.mirror:
            passes = flips(mirror_axes(self.unets))
            with timed(seconds, "mirror"):
                left_out = add_mirrored(out, passes, windows, seconds["segment"], self.deadline)
            notes += notes_on_mirroring(left_out, len(passes) - 1)
        with timed(seconds, "threshold"):
            volume = Volume(out[0], body.geometry).to_grid(case.geometry, outside=NOT_LESION)
            mask = _above(volume, config.thresholds)
        scores = {"lesion_score": lesion_score(body, out[1], config.pet(body.suv))} if len(channels) > 1 else {}
        return Segmentation(case.name, volume.with_array(mask), volume, None, seconds, notes, scores)

    def threshold(self, result: Segmentation, thresholds: Mapping[str, float]) -> Array:
        """The first channel above another threshold, `lesion`."""
        return _above(result.probability, thresholds)

    def rows(self, result: Segmentation) -> dict[str, Array]:
        """The one mask."""
        return {ROW: result.mask.array}

    @staticmethod
    def role_of(row: str) -> str:  # noqa: ARG004  # whatever the row
        """The one network, whatever the row."""
        return STEP_BY_STEP


def _above(probability: Volume, thresholds: Mapping[str, float]) -> Array:
    return (probability.array > thresholds["lesion"]).astype(np.uint8)


def lesion_score(body: Body, whole_pet: Array, pet: Array) -> float:
    """Whether a case has any lesion, 0 to 1: how much of its PET the whole-image channel shows.

    Parameters
    ----------
    whole_pet : (z, y, x) the channel, which learnt to show the PET in a crop with a lesion, and 0 in one without.
    pet : (z, y, x) the network's PET input.

    Returns
    -------
    Mean of the channel over mean of the input, in the body, clipped to 0..1; 0 where the input is 0.
    """
    shown, given = float(whole_pet[body.mask].mean()), float(pet[body.mask].mean())
    return float(np.clip(shown / given, 0, 1)) if given > 0 else 0.0
