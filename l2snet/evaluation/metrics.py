"""The challenge's numbers, pure functions on binary arrays (paper section 4.2, autoPET evaluation)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from l2snet.fuse import CONNECTIVITY
from l2snet.volume import Array


def dice(truth: Array, prediction: Array) -> float:
    """Foreground Dice of two (z, y, x) masks; 1 when both are empty, 0 when one is."""
    truth, prediction = truth.astype(bool), prediction.astype(bool)
    total = int(truth.sum()) + int(prediction.sum())
    return 1.0 if total == 0 else 2.0 * int((truth & prediction).sum()) / total


def false_positive_ml(truth: Array, prediction: Array, voxel_ml: float) -> float:
    """FPV: volume of 18-connected predicted components that touch no true voxel."""
    return _untouched_ml(prediction, truth, voxel_ml)


def false_negative_ml(truth: Array, prediction: Array, voxel_ml: float) -> float:
    """FNV: volume of 18-connected true components that touch no predicted voxel."""
    return _untouched_ml(truth, prediction, voxel_ml)


def _untouched_ml(mask: Array, other: Array, voxel_ml: float) -> float:
    labels, count = ndimage.label(mask, CONNECTIVITY)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    touched = np.unique(labels[other.astype(bool)])
    sizes[0] = 0
    sizes[touched] = 0
    return float(sizes.sum()) * voxel_ml
