"""The second method, Step-by-Step (Liu et al., autoPET 2022): one 3D network on PET and CT, and a score of the case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2snet.backend import Network
from l2snet.case import Case
from l2snet.errors import WeightsError
from l2snet.pipeline import NOT_LESION, Segmentation, load_roles, mean, notes_on, timed
from l2snet.preprocess import Body, prepare
from l2snet.segment import predict_channels
from l2snet.volume import Array, Volume
from l2snet.weights import STEP_BY_STEP

# Channels of the network: the lesion's probability, and the PET of the whole crop, which is 0 where there is no lesion.
LESION, WHOLE_PET, CHANNELS = 0, 6, 8


@dataclass(frozen=True)
class StepByStep:
    """The method of Liu et al.; its mask is the network's first channel above a threshold.

    Parameters
    ----------
    networks : trained networks; what several (folds) give is averaged.
    mirror : average over every window's versions mirrored along the axes of its config (`mirror_axes`).
    whole_grid : run every window of the grid, not only those of the body (slow; to measure the difference).
    """

    networks: Sequence[Network]
    mirror: bool = False
    whole_grid: bool = False

    def __post_init__(self) -> None:
        if not self.networks:
            raise ValueError("at least one network is needed")
        if len({network.config.architecture["out_channels"] for network in self.networks}) > 1:
            raise WeightsError("networks with and without auxiliary channels cannot be averaged; give one kind alone")

    @classmethod
    def from_weights(
        cls,
        weights: Sequence[Path] = (),
        device: str = "auto",
        precision: str = "exact",
        mirror: bool = False,
        whole_grid: bool = False,
    ) -> StepByStep:
        """Load the network of one or several weights folders (each holds `step_by_step`).

        Raises
        ------
        WeightsError, DeviceError : see `l2snet.backend.load`.
        """
        (networks,) = load_roles((STEP_BY_STEP,), weights, device, precision)
        return cls(networks, mirror, whole_grid)

    @property
    def settings(self) -> dict[str, object]:
        """Networks, hashes and options, for the manifest."""
        return {
            "method": "step-by-step",
            "thresholds": dict(self.networks[0].config.thresholds),
            "mirror": self.mirror,
            "whole_grid": self.whole_grid,
            "engine": self.networks[0].engine,
            "weights_sha256": {STEP_BY_STEP: [network.sha256 for network in self.networks]},
        }

    def segment(self, case: Case) -> Segmentation:
        """Segment one case; the result is on the PET's own grid, with a `lesion_score` where the network has one.

        Raises
        ------
        InputError : the PET shows no body.
        """
        seconds: dict[str, float] = {}
        config = self.networks[0].config
        # A network without auxiliary channels (the ablation's) knows nothing of the case as a whole.
        channels = (LESION, WHOLE_PET) if config.architecture["out_channels"] == CHANNELS else (LESION,)
        with timed(seconds, "prepare"):
            body = prepare(case, config.spacing_mm, self.whole_grid)
        with timed(seconds, "segment"):
            out = mean(self.networks, lambda network: predict_channels(body, network, channels, self.mirror))
        with timed(seconds, "threshold"):
            volume = Volume(out[0], body.geometry).to_grid(case.geometry, outside=NOT_LESION)
            mask = (volume.array > config.thresholds["lesion"]).astype(np.uint8)
        scores = {"lesion_score": lesion_score(body, out[1], config.pet(body.suv))} if len(channels) > 1 else {}
        return Segmentation(case.name, volume.with_array(mask), volume, None, seconds, notes_on(case, body), scores)


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
