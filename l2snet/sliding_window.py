"""Overlapping windows over a volume: where they lie, how they are weighted, and how any callable is run over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from l2snet.progress import track
from l2snet.volume import Array

# Half a window, as nnU-Net.
STEP = 0.5
# Standard deviation of the Gaussian, in windows; and the smallest weight, so that corners do not vanish in float32.
SIGMA = 1 / 8
MIN_WEIGHT = 1e-3

Predict = Callable[[Array], Array]


def positions(size: Sequence[int], window: Sequence[int], step: float = STEP) -> list[tuple[int, ...]]:
    """First indices of windows that cover `size` evenly, at most `step` windows apart.

    Raises
    ------
    ValueError : a window is larger than the volume, or the step is not in (0, 1].
    """
    if any(w > n for n, w in zip(size, window, strict=True)):
        raise ValueError(
            f"a window of {tuple(window)} is larger than the volume of {tuple(size)}; pad the volume first"
        )
    if not 0 < step <= 1:
        raise ValueError(f"step is {step}; expected more than 0 and at most 1 window")
    starts = []
    for n, w in zip(size, window, strict=True):
        count = int(np.ceil((n - w) / max(1.0, w * step))) + 1
        starts.append([round(at) for at in np.linspace(0, n - w, count)])
    return list(product(*starts))


def gaussian(window: Sequence[int]) -> Array:
    """Importance of each voxel of a window, float32, `MIN_WEIGHT` to 1."""
    weight: Array = np.ones((), dtype=np.float64)
    for n in window:
        offset = np.arange(n) - (n - 1) / 2
        weight = np.multiply.outer(weight, np.exp(-0.5 * (offset / (n * SIGMA)) ** 2))
    scaled: Array = np.maximum(weight / weight.max(), MIN_WEIGHT).astype(np.float32)
    return scaled


def slide(
    image: Array,
    window: Sequence[int],
    predict: Predict,
    mask: Array | None = None,
    step: float = STEP,
    batch: int = 1,
    channels: int | None = None,
    unit: str = "3D windows",
) -> Array:
    """Run `predict` over windows and blend what it gives.

    Parameters
    ----------
    image : (c, z, y, x) float32, at least as large as the window.
    predict : (n, c, *window) float32 to (n, *window) float32, or to (n, channels, *window).
    mask : (z, y, x) bool; windows that hold none of it are left out, and the result is zero outside it. Inside, it is
        what running every window would give.
    channels : how many `predict` gives; None for one without an axis.
    unit : what the progress counts.

    Returns
    -------
    (z, y, x) or (channels, z, y, x) float32.
    """
    size = image.shape[1:]
    lead = () if channels is None else (channels,)
    total, weights = np.zeros((*lead, *size), np.float32), np.zeros(size, np.float32)
    importance = gaussian(window)
    boxes = [tuple(slice(s, s + w) for s, w in zip(at, window, strict=True)) for at in positions(size, window, step)]
    if mask is not None:
        boxes = [box for box in boxes if mask[box].any()]
    batches = [boxes[first : first + batch] for first in range(0, len(boxes), batch)]
    for some in track(batches, unit, len(batches)):
        out = predict(np.stack([image[(slice(None), *box)] for box in some]))
        for box, probability in zip(some, out, strict=True):
            total[(slice(None),) * len(lead) + box] += probability * importance
            weights[box] += importance
    np.divide(total, weights, out=total, where=weights > 0)
    if mask is not None:
        total *= mask
    return total
