"""What is computed, counted and not timed: operations of a network from its graph, windows and slices of a body."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from l2snet.backend import Network
from l2snet.case import Case
from l2snet.localize import localize
from l2snet.openvino_quiet import import_openvino
from l2snet.preprocess import prepare
from l2snet.segment import segment
from l2snet.volume import Array
from l2snet.weights import LOCALIZER, NETWORK, SEGMENTER, find_weights, read_config

# Multiplications and additions of these, which are all but a few per cent of a network's.
CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution")


@dataclass(frozen=True)
class Stage:
    """What a stage runs.

    Attributes
    ----------
    box : voxels (z, y, x) of the body box.
    inputs : shapes (c, ...) that the network was given, and how many of each: windows, or slices.
    operations : multiplications and additions of their convolutions.
    arrays : most memory that numpy held at once for it, in float32 arrays of the body box.
    """

    box: tuple[int, ...]
    inputs: dict[tuple[int, ...], int]
    operations: float
    arrays: float

    @property
    def runs(self) -> int:
        """Windows or slices."""
        return sum(self.inputs.values())


@dataclass
class Recorder:
    """A network that answers with zeros and notes what it was given."""

    seen: dict[tuple[int, ...], int] = field(default_factory=dict)

    def __call__(self, batch: Array) -> Array:
        """(n, c, ...) to zeros (n, 1, ...)."""
        shape = batch.shape[1:]
        self.seen[shape] = self.seen.get(shape, 0) + len(batch)
        return np.zeros((len(batch), 1, *shape[1:]), np.float32)


def count(case: Case, weights: Path | None = None, whole_grid: bool = False) -> dict[str, Stage]:
    """What localizer and segmenter run on a case, by name of the network.

    Parameters
    ----------
    weights : folder that holds both; None: the program's own.
    whole_grid : on the full grid, in place of the body box.
    """
    stages: tuple[tuple[str, Callable[..., Array]], ...] = ((LOCALIZER, localize), (SEGMENTER, segment))
    configs = {name: read_config(find_weights(name, weights)) for name, _ in stages}
    body = prepare(case, configs[SEGMENTER].spacing_mm, whole_grid)
    counted = {}
    for name, stage in stages:
        recorder = Recorder()
        arrays = _peak(partial(stage, body, Network(configs[name], "", "", recorder)))
        file = find_weights(name, weights) / NETWORK
        total = sum(runs * operations(file, shape) for shape, runs in recorder.seen.items())
        counted[name] = Stage(body.suv.shape, recorder.seen, total, arrays / (4 * prod(body.suv.shape)))
    return counted


def _peak(work: Callable[[], object]) -> int:
    """Most bytes that numpy and Python held at once for it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def operations(network: Path, shape: Sequence[int]) -> float:
    """Multiplications and additions of a network's convolutions on one input (c, ...), from its graph's shapes."""
    with ThreadPoolExecutor(1) as thread:  # as `l2snet.backend` does: not on the main thread
        return thread.submit(_operations, network, shape).result()


def _operations(network: Path, shape: Sequence[int]) -> float:
    model = import_openvino().Core().read_model(network)
    model.reshape([1, *shape])
    total = 0.0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in CONVOLUTIONS:
            continue
        filters, voxels = list(node.input(1).get_shape()), list(node.output(0).get_shape())
        if kind == "ConvolutionBackpropData":  # every input voxel meets every weight
            total += 2.0 * prod(filters) * prod(list(node.input(0).get_shape())[2:])
        else:  # of grouped ones the first two axes are groups and filters of a group
            total += 2.0 * prod(filters) * prod(voxels[2:])
    return total
