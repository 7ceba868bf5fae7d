"""L2SNet from a case to a mask: the whole method in memory, in one direction."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from l2snet import fuse
from l2snet.backend import Network, choose_device, load
from l2snet.case import Case
from l2snet.errors import WeightsError
from l2snet.localize import localize
from l2snet.mirror import add_mirrored, mirror_axes, notes_on_mirroring
from l2snet.preprocess import Body, prepare, working_geometry
from l2snet.segment import Axes, flips, segment
from l2snet.volume import Array, Geometry, Volume
from l2snet.weights import LOCALIZER, SEGMENTER, find_weights

logger = logging.getLogger(__name__)

COMPONENTS = "components"
FUSIONS = (*fuse.RULES, COMPONENTS)
# What lies outside the body, or outside the working grid, is not lesion.
NOT_LESION = 0.0
# Rows of the tables that are of one network alone, and the thresholds off the cue that always have a row.
LOCALIZER_ROW, SEGMENTER_ROW = "2D alone", "3D alone"
OFF_CUES = (0.5, 0.9)


@dataclass(frozen=True)
class Segmentation:
    """What a method makes of a case, all on the PET's own grid.

    Attributes
    ----------
    name : the case's name.
    mask : (z, y, x) uint8, 0 or 1.
    probability : float32, 0..1, of the 3D network.
    cue : float32, 0..1, the location cue; None for a method without one.
    seconds : per stage.
    notes : what a reader of the result should know, for the manifest.
    scores : what the method says of the case as a whole, by name, for the manifest.
    engine : what the networks ran on, where that is not the engine of the method's settings.
    """

    name: str
    mask: Volume
    probability: Volume
    cue: Volume | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    engine: str = ""


class Method(Protocol):
    """A segmentation method: command line, evaluation and report know no more of it than this.

    Attributes
    ----------
    roles : what its networks are called, as are the weights folders that hold them.
    has_cue : whether its results have a location cue.
    candidates : name of each of its thresholds (`l2snet.weights.THRESHOLDS`) to the values that calibration tries.
    """

    roles: ClassVar[Sequence[str]]
    has_cue: ClassVar[bool]
    candidates: ClassVar[Mapping[str, Sequence[float]]]

    @property
    def networks(self) -> Mapping[str, Sequence[Network]]:
        """Role to its networks (folds)."""

    @property
    def settings(self) -> dict[str, object]:
        """Networks, hashes and options, for the manifest."""

    def segment(self, case: Case) -> Segmentation:
        """Segment one case."""

    def threshold(self, result: Segmentation, thresholds: Mapping[str, float]) -> Array:
        """The (z, y, x) mask, uint8, that a result has with other thresholds, named as in `candidates`."""

    def rows(self, result: Segmentation) -> dict[str, Array]:
        """The (z, y, x) masks of a result that evaluation compares, by name of the table's row."""

    @staticmethod
    def role_of(row: str) -> str:
        """The network beside whose weights the numbers of a row are kept."""


@dataclass(frozen=True)
class L2SNet:
    """The method of the paper: localise on coronal slices, segment in 3D, fuse.

    Parameters
    ----------
    localizers, segmenters : trained networks; the probabilities of several (folds) are averaged.
    fusion : "cued" (adaptive, of which a component must lie on the cue), "adaptive" (the paper) or "components" (the
        authors' released post-processing).
    off_cue : threshold away from the cue; None takes the one in the weights' config.
    mirror : average over mirrored inputs (two for slices; for windows each mix of the axes that training mirrored).
    deadline : when networks must be done, of `time.perf_counter()`; mirrored passes that would end later are left out.
    whole_grid : run every slice and window of the grid, not only those of the body (slow; to measure the difference).
    """

    localizers: Sequence[Network]
    segmenters: Sequence[Network]
    fusion: str = "cued"
    off_cue: float | None = None
    mirror: bool = False
    whole_grid: bool = False
    deadline: float | None = None

    roles: ClassVar[Sequence[str]] = (LOCALIZER, SEGMENTER)
    has_cue: ClassVar[bool] = True
    candidates: ClassVar[Mapping[str, Sequence[float]]] = {
        "cue": (0.5, 0.7, 0.9),  # lower ones lie where the cue is so flat that bfloat16 moves their edges
        "on_cue": (0.01, 0.02, 0.05, 0.1, 0.3),
        "off_cue": (0.3, 0.5, 0.7, 0.9, 1.0),  # none below those on the cue; 1: nothing off the cue
    }

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion {self.fusion!r} is not known; expected one of {', '.join(FUSIONS)}")
        if self.off_cue is not None and not 0 <= self.off_cue <= 1:
            raise ValueError(f"an off-cue threshold of {self.off_cue} was given; expected 0 to 1")
        if not self.localizers or not self.segmenters:
            raise ValueError("at least one localizer and one segmenter are needed")

    @classmethod
    def from_weights(
        cls,
        weights: Sequence[Path] = (),
        device: str = "auto",
        precision: str = "exact",
        fusion: str = "cued",
        off_cue: float | None = None,
        mirror: bool = False,
        whole_grid: bool = False,
        deadline: float | None = None,
        every_slice: bool = False,
    ) -> L2SNet:
        """Load the networks of one or several weights folders (each holds `localizer` and `segmenter`).

        Parameters
        ----------
        every_slice : the localizer is shown every coronal slice, whatever the `slice_stride` of its config.

        Raises
        ------
        WeightsError, DeviceError : see `l2snet.backend.load`.
        """
        localizers, segmenters = load_roles(cls.roles, weights, device, precision)
        if every_slice:
            localizers = [replace(one, config=replace(one.config, slice_stride=1)) for one in localizers]
        return cls(localizers, segmenters, fusion, off_cue, mirror, whole_grid, deadline)

    @property
    def networks(self) -> dict[str, Sequence[Network]]:
        """Role to its networks."""
        return {LOCALIZER: self.localizers, SEGMENTER: self.segmenters}

    @property
    def settings(self) -> dict[str, object]:
        """Networks, hashes and options, for the manifest."""
        return {
            "method": "l2snet",
            "fusion": self.fusion,
            "thresholds": self.thresholds(),
            "least_overlap": fuse.LEAST_OVERLAP,
            "slice_stride": self.localizers[0].config.slice_stride,
            "mirror": self.mirror,
            "whole_grid": self.whole_grid,
            "engine": self.segmenters[0].engine,
            "weights_sha256": hashes(self),
        }

    def thresholds(self) -> dict[str, float]:
        """`cue`, `on_cue` and `off_cue`, from the weights' config unless overridden."""
        values = {**self.localizers[0].config.thresholds, **self.segmenters[0].config.thresholds}
        return values if self.off_cue is None else {**values, "off_cue": self.off_cue}

    def segment(self, case: Case) -> Segmentation:
        """Segment one case; the result is on the PET's own grid.

        Raises
        ------
        InputError : the PET shows no body.
        """
        seconds: dict[str, float] = {}
        with timed(seconds, "prepare"):
            body = prepare(case, self.segmenters[0].config.spacing_mm, self.whole_grid)
        with timed(seconds, "localize"):
            cue = mean(self.localizers, lambda network: localize(body, network))
        with timed(seconds, "segment"):
            probability = mean(self.segmenters, lambda network: segment(body, network))
        notes = notes_on(case, body)
        if self.mirror:
            notes += self._add_mirrored(body, cue, probability, seconds)
        with timed(seconds, "fuse"):
            return self._fuse(case, body.geometry, cue, probability, seconds, notes)

    def _add_mirrored(self, body: Body, cue: Array, probability: Array, seconds: dict[str, float]) -> tuple[str, ...]:
        """Average both with their mirrored passes, in place; notes on those that there was no time for."""

        def slices(flip: Axes) -> Array:
            return mean(self.localizers, lambda network: localize(body, network, bool(flip)))

        def windows(flip: Axes) -> Array:
            return mean(self.segmenters, lambda network: segment(body, network, flip))

        with timed(seconds, "mirror"):
            # Slices know one flip, left to right.
            left_out = add_mirrored(cue, ((), (2,)), slices, seconds["localize"], self.deadline)
            axes = mirror_axes(self.segmenters)
            left_out += add_mirrored(probability, flips(axes), windows, seconds["segment"], self.deadline)
        return notes_on_mirroring(left_out, len(flips(axes)))

    def _fuse(
        self,
        case: Case,
        geometry: Geometry,
        cue: Array,
        probability: Array,
        seconds: dict[str, float],
        notes: tuple[str, ...],
    ) -> Segmentation:
        """Probabilities go back to the PET's own grid before any threshold."""
        cue_volume, volume = (
            Volume(array, geometry).to_grid(case.geometry, outside=NOT_LESION) for array in (cue, probability)
        )
        if self.fusion == COMPONENTS:
            mask = _components(volume, cue_volume)
        else:
            mask = _by_thresholds(volume, cue_volume, self.thresholds(), self.fusion)
        return Segmentation(case.name, volume.with_array(mask), volume, cue_volume, seconds, notes)

    def threshold(self, result: Segmentation, thresholds: Mapping[str, float]) -> Array:
        """The fusion with other thresholds, `cue`, `on_cue` and `off_cue`; `cued` where it is "components"."""
        fusion = "cued" if self.fusion == COMPONENTS else self.fusion
        return _by_thresholds(result.probability, _cue_of(result), thresholds, fusion)

    def rows(self, result: Segmentation) -> dict[str, Array]:
        """The rows of the paper's Table 1 and `cued`, by the thresholds that are set, and `components`, by its own.

        3D alone is above 0.5; of the paper's rule, `adaptive`, there are two readings of its threshold off the cue.
        """
        probability, cue, thresholds = result.probability, _cue_of(result), self.thresholds()
        return {
            LOCALIZER_ROW: (cue.array > thresholds["cue"]).astype(np.uint8),
            SEGMENTER_ROW: _marked(probability.array),
            **{
                f"L2SNet, off-cue {off:g}": _by_thresholds(probability, cue, {**thresholds, "off_cue": off}, "adaptive")
                for off in OFF_CUES
            },
            "L2SNet, cued": _by_thresholds(probability, cue, thresholds, "cued"),
            "L2SNet, components": _components(probability, cue),
        }

    @staticmethod
    def role_of(row: str) -> str:
        """The localizer for its own row, the segmenter for all others."""
        return LOCALIZER if row == LOCALIZER_ROW else SEGMENTER


def segment_alone(case: Case, segmenter: Network) -> Array:
    """What a 3D network marks without a cue, as in `SEGMENTER_ROW`: (z, y, x) uint8 on the PET's own grid.

    Raises
    ------
    InputError : the PET shows no body.
    """
    body = prepare(case, segmenter.config.spacing_mm)
    probability = Volume(segment(body, segmenter), body.geometry).to_grid(case.geometry, outside=NOT_LESION)
    return _marked(probability.array)


def _marked(probability: Array) -> Array:
    return (probability > 0.5).astype(np.uint8)


def _by_thresholds(probability: Volume, cue: Volume, thresholds: Mapping[str, float], fusion: str) -> Array:
    on_cue, off_cue = thresholds["on_cue"], thresholds["off_cue"]
    return fuse.RULES[fusion](probability.array, cue.array, on_cue, off_cue, thresholds["cue"])


def _components(probability: Volume, cue: Volume) -> Array:
    """The released rule, whose voxel counts are of the working grid, on the probability's grid."""
    grid = probability.geometry
    return fuse.components(probability.array, cue.array, grid.voxel_ml / working_geometry(grid).voxel_ml)


def _cue_of(result: Segmentation) -> Volume:
    if result.cue is None:
        raise ValueError("a result of L2SNet has a location cue; this one has none")
    return result.cue


def hashes(method: Method) -> dict[str, list[str]]:
    """Role to the sha256 of its networks' weights."""
    return {role: [network.sha256 for network in networks] for role, networks in method.networks.items()}


def notes_on(case: Case, body: Body) -> tuple[str, ...]:
    """What was done to a case that a reader of the result should know."""
    notes = [*case.notes]
    if case.ct is None:
        notes.append("no CT was used: the segmenter saw a blank one")
    if body.geometry.spacing_mm != case.geometry.canonical().spacing_mm or not case.geometry.is_axis_aligned:
        notes.append("the PET was resampled to the working grid, and the probabilities back")
    return tuple(notes)


def load_roles(roles: Sequence[str], weights: Sequence[Path], device: str, precision: str) -> list[list[Network]]:
    """The networks of each role, one from every weights folder; none: from the program's own.

    Raises
    ------
    WeightsError, DeviceError : see `l2snet.backend.load` and `check_roles`.
    """
    device = choose_device(device)
    roots: Sequence[Path | None] = list(weights) or [None]
    networks = {role: [load(find_weights(role, root), device, precision) for root in roots] for role in roles}
    check_roles(networks)
    return list(networks.values())


def check_roles(roles: Mapping[str, Sequence[Network]]) -> None:
    """Refuse networks that are in each other's folder, or that cannot be combined.

    Parameters
    ----------
    roles : name of a network to those loaded from folders of that name.

    Raises
    ------
    WeightsError : says what is wrong.
    """
    for role, networks in roles.items():
        for network in networks:
            if network.config.network != role:
                raise WeightsError(f"the {role} folder holds a {network.config.network}; put each network in its own")
        if len({json.dumps(dict(network.config.thresholds), sort_keys=True) for network in networks}) > 1:
            raise WeightsError(f"the {role}s have different thresholds and cannot be averaged; give them the same ones")
    if len({network.config.spacing_mm for networks in roles.values() for network in networks}) > 1:
        raise WeightsError("the networks were trained on different working grids and cannot be combined")


def mean(networks: Sequence[Network], predict: Callable[[Network], Array]) -> Array:
    """Mean prediction over folds."""
    total = predict(networks[0])
    for network in networks[1:]:
        total += predict(network)
    total /= np.float32(len(networks))
    return total


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note under the name of a stage how long the block took."""
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 3)
    logger.info("%s: %.1f s", stage, seconds[stage])
