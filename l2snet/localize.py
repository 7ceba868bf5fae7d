"""Phase 1 (paper section 3.2): coronal PET slices to a location cue."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from l2snet.backend import BATCH, Network
from l2snet.preprocess import Body, between_means, pad_to
from l2snet.sliding_window import slide
from l2snet.volume import Array
from l2snet.weights import LOCALIZER

# How far parts of a slice are apart, in parts: half of one, as in 3D, costs up to twice as much and more.
STEP = 0.8


def localize(body: Body, network: Network, flip: bool = False, batch: int = BATCH[LOCALIZER]) -> Array:
    """The probability that a voxel is lesion, from coronal slices alone.

    Parameters
    ----------
    flip : show the network every slice flipped left to right, and turn its answer back.

    Returns
    -------
    (z, y, x) float32 in 0..1, zero outside the body. Only slices that meet the body are run, cut to the body box and
    padded with air to the window of the network's config, or to its multiple where it has none. A network tells where
    it looks from where the padding begins, so this is the size of its training; longer slices run in overlapping parts.
    Of each `slice_step` of the config, the middle one is run, and what is between two of them is interpolated.
    """
    config = network.config
    suv = config.pet(body.suv)
    tall, depth, wide = suv.shape
    window = config.window or tuple(-(-n // config.multiple) * config.multiple for n in (tall, wide))
    air = float(config.pet(np.zeros(1, np.float32))[0])
    half = config.slices // 2
    size = (max(tall, window[0]), 1, max(wide, window[1]))
    padded, undo = pad_to(suv, size, air)
    mask, _ = pad_to(body.mask, size, False)
    # The first and the last slice stand in for neighbours beyond them. The stack is a view: no voxel is copied for it.
    clamped = np.pad(padded, ((0, 0), (half, half), (0, 0)), mode="edge") if half else padded
    neighbours = np.moveaxis(sliding_window_view(clamped, config.slices, axis=1), -1, 0)
    step = config.slice_step
    if step > 1:
        run = np.minimum(np.arange(0, depth, step) + step // 2, depth - 1)
        # What a slice gives, counts for all voxels between the slices beside it.
        neighbours, mask = neighbours[:, :, run], ndimage.maximum_filter1d(mask, 2 * step - 1, axis=1)[:, run]
    sense = -1 if flip else 1

    def predict(slices: Array) -> Array:
        return network(slices[:, :, :, 0, ::sense])[:, 0, :, None, ::sense]

    cue = slide(neighbours, (window[0], 1, window[1]), predict, mask, STEP, batch, unit="2D slices")[undo]
    return cue if step == 1 else between_means(cue, (1, step, 1), body.mask.shape) * body.mask
