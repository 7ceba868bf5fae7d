"""Phase 1 (paper section 3.2): coronal PET slices to a location cue."""

from __future__ import annotations

import numpy as np

from l2snet.backend import Network
from l2snet.preprocess import Body, pad_to
from l2snet.sliding_window import slide
from l2snet.volume import Array

BATCH = 8


def localize(body: Body, network: Network, mirror: bool = False, batch: int = BATCH) -> Array:
    """The probability that a voxel is lesion, from coronal slices alone.

    Parameters
    ----------
    mirror : average with the prediction on the slice flipped left to right.

    Returns
    -------
    (z, y, x) float32 in 0..1, zero outside the body. Only slices that meet the body are run, cut to the body box and
    padded with air to the window of the network's config, or to its multiple where it has none. A network tells where
    it looks from where the padding begins, so this is the size of its training; longer slices run in overlapping parts.
    """
    config = network.config
    suv = config.pet(body.suv)
    tall, depth, wide = suv.shape
    window = config.window or tuple(-(-n // config.multiple) * config.multiple for n in (tall, wide))
    air = float(config.pet(np.zeros(1, np.float32))[0])
    half = config.slices // 2
    size = (max(tall, window[0]), depth, max(wide, window[1]))
    padded, undo = pad_to(suv, size, air)
    mask, _ = pad_to(body.mask, size, False)
    ys = np.arange(depth)
    neighbours = np.stack([padded[:, np.clip(ys + offset, 0, depth - 1)] for offset in range(-half, half + 1)])

    def predict(slices: Array) -> Array:
        images = slices[:, :, :, 0]
        out = network(images)
        if mirror:
            out = (out + network(images[..., ::-1])[..., ::-1]) / 2
        return out[:, 0, :, None]

    return slide(neighbours, (window[0], 1, window[1]), predict, mask, batch=batch, unit="2D slices")[undo]
