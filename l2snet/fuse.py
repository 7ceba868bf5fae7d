"""Fusion of cue and probability to a mask (paper section 3.3, "adaptive threshold")."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from l2snet.volume import Array

# 18-connected: faces and edges, as the challenge counts components.
CONNECTIVITY = ndimage.generate_binary_structure(3, 2)
# Of a component's voxels, on the cue, for `cued` to keep all of it.
LEAST_OVERLAP = 0.02


def adaptive(
    probability: Array, cue: Array, on_cue: float = 0.1, off_cue: float = 0.5, cue_threshold: float = 0.5
) -> Array:
    """A lower threshold where the cue says lesion, the usual one elsewhere.

    Parameters
    ----------
    probability, cue : (z, y, x) float32 in 0..1, on one grid.
    on_cue, off_cue : thresholds on the probability where the cue is above `cue_threshold`, and elsewhere.
        0.9 off the cue is the symmetric reading of the paper's "and verse vice".

    Returns
    -------
    (z, y, x) uint8, 0 or 1.
    """
    mask: Array = probability > np.float32(off_cue)
    on = cue > cue_threshold
    mask[on] = probability[on] > np.float32(on_cue)
    return mask.view(np.uint8)


def cued(
    probability: Array,
    cue: Array,
    on_cue: float = 0.1,
    off_cue: float = 0.5,
    cue_threshold: float = 0.5,
    least_overlap: float = LEAST_OVERLAP,
) -> Array:
    """The adaptive mask, of whose 18-connected components only what lies on the cue is left where that is little.

    Not the paper's: the cue says where lesions are, and off it the 3D network may outline them but find no other, nor
    take in a whole muscle for a spot of cue on it. So a lower `off_cue` may leave less than a higher one. Parameters
    and result are those of `adaptive`, and:

    Parameters
    ----------
    least_overlap : of a component's voxels, 0 to 1, on the cue, for all of it to be kept; 0: one voxel will do.
    """
    mask = adaptive(probability, cue, on_cue, off_cue, cue_threshold)
    for box in ndimage.find_objects(mask):  # one, around all of it, for most of a grid is air; none of an empty mask
        on = cue[box] > cue_threshold
        labels, _ = ndimage.label(mask[box], CONNECTIVITY)
        voxels = _sizes(labels)
        overlap = np.bincount(labels[on], minlength=len(voxels) + 1)[1:]
        kept = (overlap > 0) & (overlap >= least_overlap * voxels)
        mask[box] &= on | np.append(False, kept)[labels]
    return mask


# Rules that thresholds alone make, by the name of the fusion.
RULES = {"cued": cued, "adaptive": adaptive}

# The released code's numbers, in voxels of the working grid.
HIGH, LOW, CUE, FAINT, NOTHING = 0.9, 0.5, 0.5, 0.1, 1e-5
EMPTY_HIGH, EMPTY_LOW, SURE_HIGH, SPREAD = 50, 150, 20, 2.25
EXTRA_CUES, DEFAULT_CUE_SIZE = 4, 35


def components(probability: Array, cue: Array, scale: float = 1.0) -> Array:
    """The authors' released post-processing, by 18-connected components; it can place single voxels.

    It is kept for comparison: its one-voxel marks satisfy the challenge's FNV but harm a count of lesions.

    1. The largest component above 0.9 has under 50 voxels and the largest above 0.5 under 150: empty mask.
    2. Each component above 0.5: fewer than 20 voxels above 0.9, or none on the cue: only its highest voxel; else, when
       it has more than 2.25 times as many voxels as its part above 0.9: only that part; else all of it.
    3. Each cue component that the result misses: highest probability above 0.1: its highest voxel; else it is skipped
       when it is no larger than A or its highest probability is under 1e-5; else its highest voxel. A is the size of
       the (number of components above 0.5 + 4)-th largest cue component, 35 where there are fewer.

    Parameters
    ----------
    probability, cue : (z, y, x) float32 in 0..1, on one grid.
    scale : volume of a voxel of that grid, in voxels of the working grid, in which the rules count.

    Returns
    -------
    (z, y, x) uint8, 0 or 1.
    """
    result = np.zeros(probability.shape, np.uint8)
    high = probability > HIGH
    low_labels, n_low = ndimage.label(probability > LOW, CONNECTIVITY)
    largest_high = _sizes(ndimage.label(high, CONNECTIVITY)[0]).max(initial=0) * scale
    largest_low = _sizes(low_labels).max(initial=0) * scale
    if largest_high < EMPTY_HIGH and largest_low < EMPTY_LOW:
        return result
    on_cue = cue > CUE
    for label, box in enumerate(ndimage.find_objects(low_labels), start=1):
        inside = low_labels[box] == label
        sure = inside & high[box]
        if sure.sum() * scale < SURE_HIGH or not (inside & on_cue[box]).any():
            _mark_highest(result[box], probability[box], inside)
        elif inside.sum() / sure.sum() > SPREAD:
            result[box][sure] = 1
        else:
            result[box][inside] = 1
    cue_labels, _ = ndimage.label(on_cue, CONNECTIVITY)
    sizes = np.sort(_sizes(cue_labels))[::-1] * scale
    rank = n_low + EXTRA_CUES
    smallest = sizes[rank - 1] if len(sizes) >= rank else DEFAULT_CUE_SIZE
    for label, box in enumerate(ndimage.find_objects(cue_labels), start=1):
        inside = cue_labels[box] == label
        if result[box][inside].any():
            continue
        highest = probability[box][inside].max()
        if highest > FAINT or (inside.sum() * scale > smallest and highest >= NOTHING):
            _mark_highest(result[box], probability[box], inside)
    return result


def _sizes(labels: Array) -> Array:
    """Voxels of each component; of the foreground alone, as counting takes eight bytes a voxel."""
    return np.bincount(labels[labels > 0])[1:]


def _mark_highest(result: Array, probability: Array, inside: Array) -> None:
    result[np.unravel_index(np.argmax(np.where(inside, probability, -1.0)), inside.shape)] = 1
