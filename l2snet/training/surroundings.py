"""The ever wider surroundings of the lesions that Step-by-Step learns (Liu et al., section 2): progressive dilation.

A voxel's level is the number of regions that hold it: 4 in the lesion, 3 in D1 around it, 2 in D2, 1 in D3, 0 beyond.
One uint8 array is so all that has to be kept of the four nested regions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from l2snet.preprocess import fullest, means
from l2snet.volume import Array

# Semi-axes (z, y, x) in voxels of the working grid; each step dilates what the ones before it gave.
ELLIPSOIDS = (
    ((1, 2, 2),) * 2,  # the lesion to D1
    ((1, 3, 3),) * 4,  # D1 to D2
    ((1, 4, 4),) * 3,  # D2 to D3
)
LESION_LEVEL = len(ELLIPSOIDS) + 1


def surroundings(lesions: Array, steps: Sequence[Sequence[tuple[int, int, int]]] = ELLIPSOIDS) -> Array:
    """Levels of a (z, y, x) lesion mask: (z, y, x) uint8, 0 everywhere where there is no lesion.

    Parameters
    ----------
    steps : the ellipsoids of each region, one after the other.
    """
    levels = np.zeros(lesions.shape, np.uint8)
    mask = lesions > 0
    if not mask.any():
        return levels
    reach = np.sum([semi_axes for step in steps for semi_axes in step], axis=0)
    found = ndimage.find_objects(mask.view(np.uint8))[0]
    box = tuple(
        slice(max(0, s.start - int(r)), min(n, s.stop + int(r)))
        for s, r, n in zip(found, reach, lesions.shape, strict=True)
    )
    region, inside = np.ascontiguousarray(mask[box]), levels[box]
    inside += region
    for step in steps:
        for semi_axes in step:
            region = dilate(region, semi_axes)
        inside += region
    return levels


def coarse_levels(levels: Array, stride: Sequence[int]) -> Array:
    """Levels on coarser voxels: a region holds a block if it holds half of the block's voxels.

    The lesion also holds the blocks that it fills more than those beside them (`fullest`).

    Parameters
    ----------
    levels : (z, y, x), of the working grid.
    stride : (z, y, x) voxels of a block.

    Returns
    -------
    (z, y, x) uint8; a short last block repeats its last voxels.
    """
    if max(stride) == 1:
        return levels.astype(np.uint8)
    # Level by level, and none that is not there: most crops hold few.
    held = (means(levels >= 1, stride) >= 0.5).astype(np.uint8)
    highest = int(levels.max())
    for level in range(2, highest + 1):
        held += means(levels >= level, stride) >= 0.5
    if highest >= LESION_LEVEL:
        held[fullest(levels >= LESION_LEVEL, stride)] = LESION_LEVEL
    return held


def dilate(mask: Array, semi_axes: tuple[int, int, int]) -> Array:
    """A (z, y, x) bool mask dilated by the voxels of an ellipsoid, (z/a)² + (y/b)² + (x/c)² <= 1; a new bool array.

    In passes: runs along x, each a voxel longer on both sides than the last, then every row of the ellipsoid in its
    place. A semi-axis of 4 takes some 40 passes over the bits instead of one for each of its 51 voxels.
    """
    a, b, c = semi_axes
    rows: dict[int, list[tuple[int, int]]] = {}
    for z in range(-a, a + 1):
        for y in range(-b, b + 1):
            # In integers, so that the surface itself is never lost to rounding.
            rest = (a * b) ** 2 - (z * b) ** 2 - (y * a) ** 2
            if rest >= 0:
                half = max(x for x in range(c + 1) if (x * a * b) ** 2 <= rest * c**2)
                rows.setdefault(half, []).append((z, y))
    out = np.zeros_like(mask)
    run = mask.copy()
    for half in range(c + 1):
        if half:
            run[..., half:] |= mask[..., :-half]
            run[..., :-half] |= mask[..., half:]
        for z, y in rows.get(half, []):
            out[_shifted(z), _shifted(y)] |= run[_shifted(-z), _shifted(-y)]
    return out


def _shifted(by: int) -> slice:
    """The part of an axis that a shift by so many voxels fills; with the opposite sign, the part it comes from."""
    return slice(by, None) if by >= 0 else slice(None, by)
