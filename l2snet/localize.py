"""Phase 1 (paper section 3.2): coronal PET slices to a location cue."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

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
    (z, y, x) float32 in 0..1, zero outside the body. Only slices that the body's voxels need are run, cut to the body
    box and padded with air to the window of the network's config, or to its multiple where it has none. A network tells
    where it looks from where the padding begins, so this is the size of its training; longer slices run in overlapping
    parts. The middle one of every `slice_stride` (the config's) slices is run; the cue is interpolated between them.
    """
    config = network.config
    tall, depth, wide = body.suv.shape
    window = config.window or tuple(-(-n // config.multiple) * config.multiple for n in (tall, wide))
    air = float(config.pet(np.zeros(1, np.float32))[0])
    half = config.slices // 2
    stride = config.slice_stride
    last = -depth % stride  # slices beyond the last that fill the last stride, as `means` does
    size = (max(tall, window[0]), 1, max(wide, window[1]))  # along y nothing is padded, nor undone
    padded, undo = pad_to(config.pet(body.suv), size, air)
    mask, _ = pad_to(body.mask, size, False)
    # The first and the last slice stand in for neighbours beyond them. The stack is a view: no voxel is copied for it.
    if half or last:
        padded = np.pad(padded, ((0, 0), (half, half + last), (0, 0)), mode="edge")
    neighbours = np.moveaxis(sliding_window_view(padded, config.slices, axis=1), -1, 0)[:, :, stride // 2 :: stride]
    if stride > 1:
        # A slice that is run counts for all voxels between those beside it.
        around = np.pad(mask, ((0, 0), (stride // 2, stride // 2 + last), (0, 0)))
        mask = sliding_window_view(around, 2 * stride - 1, axis=1)[:, ::stride].max(axis=-1)
    sense = -1 if flip else 1

    def predict(slices: Array) -> Array:
        return network(slices[:, :, :, 0, ::sense])[:, 0, :, None, ::sense]

    cue = slide(neighbours, (window[0], 1, window[1]), predict, mask, STEP, batch, unit="2D slices")[undo]
    if stride > 1:
        cue = between_means(cue, (1, stride, 1), body.mask.shape)
        cue *= body.mask
    return cue
