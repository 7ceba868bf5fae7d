"""Mirrored passes: along which axes, averaged as long as there is time, and what a reader should know of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from l2snet.backend import Network
from l2snet.segment import Axes
from l2snet.volume import Array


def mirror_axes(networks: Sequence[Network]) -> Axes:
    """The axes of (z, y, x) along which the training of all of these mirrored."""
    return tuple(sorted(set.intersection(*(set(network.config.mirror_axes) for network in networks))))


def add_mirrored(
    total: Array, passes: Sequence[Axes], predict: Callable[[Axes], Array], seconds: float, deadline: float | None
) -> int:
    """Average the plain pass with mirrored ones, in place, as long as there is time; how many were left out.

    Parameters
    ----------
    total : what the plain pass gave.
    passes : the axes of each, the plain one first.
    predict : one pass.
    seconds : what the plain pass took; each further one is taken to last as long as the one before it.
    deadline : when the last must be over, of `time.perf_counter()`.
    """
    done = 1
    for flip in passes[1:]:
        began = time.perf_counter()
        if deadline is not None and began + seconds > deadline:
            break
        total += predict(flip)
        seconds = time.perf_counter() - began
        done += 1
    total /= np.float32(done)
    return len(passes) - done


def notes_on_mirroring(left_out: int, of: int) -> tuple[str, ...]:
    """What a reader should know of passes that a time limit left out."""
    if not of:
        return ("nothing was mirrored: the network's training mirrored along no axis",)
    return (f"the time limit left out {left_out} of {of} mirrored passes",) if left_out else ()
