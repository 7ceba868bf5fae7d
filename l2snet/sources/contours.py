"""Outlines of a mask's slices: polygons that any way of filling them turns into the same pixels again.

An outline runs between pixel centres, a little nearer to those inside. So a reader that asks which centres lie within
finds exactly the mask, and so does one that rounds the outline to whole pixels and counts its border as inside. A hole
is joined to the outline by a channel of no width (a keyhole, as DICOM PS3.3 C.8.8.6.3 has it), which runs over pixels
of the mask.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator

from l2snet.volume import Array

# The outline lies 0.49 of a pixel from the centres inside: beyond 0.5 it would round to the pixel outside.
INSIDE = 0.51
# Outlines that cross a row of pixel centres do so on it, to rounding.
SAME_ROW = 1e-6


def outlines(mask: Array) -> list[Array]:
    """The outlines of one slice, each (points, 2) as (column, row) in pixels; pixel centres are whole numbers.

    Pixels that touch by a corner alone are outlined apart.

    Parameters
    ----------
    mask : (rows, columns); what is not 0 is inside.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]) - 1, int(columns[0]) - 1
    inside = np.pad(mask[top + 1 : rows[-1] + 1, left + 1 : columns[-1] + 1] > 0, 1)
    generator = contour_generator(z=inside.astype(np.float64), fill_type=FillType.OuterOffset)
    found = []
    for points, offsets in zip(*generator.filled(INSIDE, np.inf), strict=True):
        rings = [points[a : b - 1] for a, b in pairwise(offsets)]  # the last is the first
        found.append(_keyholed(rings, inside) + np.array((left, top)))
    return found


def _keyholed(rings: list[Array], inside: Array) -> Array:
    """One polygon of an outline and its holes."""
    outline, *holes = rings
    # From the left, so that what lies to the left of a hole is joined already.
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        start = _leftmost(hole)
        end = _neighbour(outline, hole[start], inside)
        around = np.roll(hole, -start, axis=0)
        outline = np.concatenate([outline[: end + 1], around, around[:1], outline[end:]])
    return outline


def _leftmost(ring: Array) -> int:
    """The point of a ring furthest to the left, of those on a row of pixel centres."""
    on_row = np.abs(ring[:, 1] - np.rint(ring[:, 1])) < SAME_ROW
    return int(np.argmin(np.where(on_row, ring[:, 0], np.inf)))


def _neighbour(outline: Array, point: Array, inside: Array) -> int:
    """The point of an outline next to the left of a hole's, on the same row: pixels of the mask lie between."""
    row, column = round(float(point[1])), int(np.floor(point[0]))
    while inside[row, column]:
        column -= 1
    at = np.array([column + INSIDE, row])
    return int(np.argmin(((outline - at) ** 2).sum(axis=1)))
