"""Phase 1 (paper section 3.2): coronal PET slices to a location cue."""

from __future__ import annotations

import numpy as np

from l2snet.backend import Network
from l2snet.preprocess import Body, pad_to
from l2snet.progress import track
from l2snet.volume import Array

BATCH = 8


def localize(body: Body, network: Network, mirror: bool = False, batch: int = BATCH) -> Array:
    """The probability that a voxel is lesion, from coronal slices alone.

    Parameters
    ----------
    mirror : average with the prediction on the slice flipped left to right.

    Returns
    -------
    (z, y, x) float32 in 0..1, zero outside the body. Only slices that meet the body are run; every slice is whole (cut
    to the body box) and padded with air to the network's multiple.
    """
    config = network.config
    suv = config.pet(body.suv)
    depth = suv.shape[1]
    size = tuple(-(-n // config.multiple) * config.multiple for n in (suv.shape[0], suv.shape[2]))
    air = float(config.pet(np.zeros(1, np.float32))[0])
    half = config.slices // 2
    cue = np.zeros(suv.shape, np.float32)
    ys = np.flatnonzero(body.mask.any(axis=(0, 2)))
    batches = [ys[first : first + batch] for first in range(0, len(ys), batch)]
    for some in track(batches, "2D slices", len(batches)):
        neighbours = np.clip(some[:, None] + np.arange(-half, half + 1), 0, depth - 1)
        images, undo = pad_to(suv[:, neighbours].transpose(1, 2, 0, 3), size, air)
        out = network(images)
        if mirror:
            out = (out + network(images[..., ::-1])[..., ::-1]) / 2
        cue[:, some] = out[:, 0][undo[1:]].transpose(1, 0, 2)
    cue *= body.mask
    return cue
