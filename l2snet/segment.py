"""Phase 2 (paper section 3.3): windows of PET and CT to a lesion probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from l2snet.backend import BATCH, Network
from l2snet.case import AIR_HU
from l2snet.preprocess import Body, between_means, means, pad_to
from l2snet.sliding_window import STEP, slide
from l2snet.volume import Array
from l2snet.weights import SEGMENTER, STEP_BY_STEP, NetworkConfig

Axes = tuple[int, ...]


def flips(axes: Sequence[int]) -> list[Axes]:
    """Every combination of these axes of (z, y, x), as nnU-Net mirrors; none of them comes first."""
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


def segment(body: Body, network: Network, flip: Axes = (), step: float = STEP, batch: int = BATCH[SEGMENTER]) -> Array:
    """The probability that a voxel is lesion, from a sliding window over the body box.

    Parameters
    ----------
    flip : axes of (z, y, x) along which the network is shown every window mirrored; its answer is turned back.

    Returns
    -------
    (z, y, x) float32 in 0..1, zero outside the body.
    """
    probability: Array = predict_channels(body, network, (0,), flip, step, batch)[0]
    return probability


def predict_channels(
    body: Body,
    network: Network,
    channels: Sequence[int],
    flip: Axes = (),
    step: float = STEP,
    batch: int = BATCH[STEP_BY_STEP],
) -> Array:
    """What a network of PET and CT windows gives on these of its channels, from a sliding window over the body box.

    Returns
    -------
    (channels, z, y, x) float32, zero outside the body. A body smaller than the window is padded with air; a missing CT
    is given as zeros, as in training.
    """
    config = network.config
    if config.window is None:
        raise ValueError(f"the {config.network}'s config has no window; it is no network of 3D windows")
    image, undo = _padded(body, config, config.window)
    mask, _ = pad_to(means(body.mask, config.stride) > 0, config.window, False)
    axes = tuple(axis + 2 for axis in flip)  # of (n, c, z, y, x)

    def predict(windows: Array) -> Array:
        return np.flip(network(np.flip(windows, axes)), axes)[:, list(channels)]

    out = slide(image, config.window, predict, mask, step, batch, len(channels))[undo]
    if max(config.stride) > 1:
        out = between_means(out, config.stride, body.mask.shape) * body.mask
    return out


def _padded(body: Body, config: NetworkConfig, size: tuple[int, ...]) -> tuple[Array, tuple[slice, ...]]:
    """`window_image`, padded to at least `size` with what the network is shown of air; also the slices that undo it."""
    nowhere = np.zeros((1, 1, 1), np.float32)
    air = window_image(replace(body, suv=nowhere, ct=None if body.ct is None else nowhere + AIR_HU), config)
    channels = [pad_to(*one) for one in zip(window_image(body, config), (size, size), air[:, 0, 0, 0], strict=True)]
    return np.stack([channel for channel, _ in channels]), (slice(None), *channels[0][1])


def window_image(body: Body, config: NetworkConfig) -> Array:
    """What a network of 3D windows is shown of the body: (2, z, y, x) float32, PET and CT, on its own coarser voxels.

    A missing CT is zeros.
    """
    if config.ct is None:
        raise ValueError(f"the {config.network}'s config has no CT; it is no network of 3D windows")
    pet = means(body.suv, config.stride)
    image = np.zeros((2, *pet.shape), np.float32)
    image[0] = config.pet(pet)
    if body.ct is not None:
        image[1] = config.ct(means(body.ct, config.stride))
    return image
