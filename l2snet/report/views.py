"""What a picture shows, before it is drawn: values on a plane in mm, and the outline of each lesion on it.

The same views become PNG files (`pictures`) and the report's page (`page`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2snet.volume import Array, Volume

CORONAL, SAGITTAL = 1, 2
MIN_SHOWN_SUV = 0.2
# Planes with fewer warm voxels are air with noise, at the edge of the field of view.
LEAST_WARM_VOXELS = 12
LESION, RIGHT, WRONG, TRUTH, MISSED = "lesion", "right", "wrong", "truth", "missed"
# More numbers than these, those of the largest lesions, would hide the picture.
MOST_NUMBERS = 40
# Room for a number, in mm of the patient and as a share of the view, whichever is more.
LABEL_MM, LABEL_SHARE = 16.0, 0.024
MARGIN_MM = 4.0

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Mark:
    """What is outlined in a view.

    Attributes
    ----------
    kind : "lesion", or of a comparison "right", "wrong", "truth" or "missed".
    number : the lesion's.
    lines : closed, each (n, 2) of (x, y) in mm from the view's upper left corner.
    place : the (x, y) in mm where the number is written; None where it is not.
    """

    kind: str
    number: int
    lines: tuple[Array, ...]
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class View:
    """A plane through a patient, or a projection.

    Attributes
    ----------
    name : "coronal", "sagittal" or "axial"; what a reader is told is in `strings.json`.
    suv : (rows, columns) float32, the first row at the top.
    size_mm : (height, width).
    ends : what lies at the left and the right edge, such as ("R", "L"); their letters are in `strings.json`.
    ct : HU on the same pixels; None for a projection, or without a CT.
    marks : what is outlined, in the order in which it is drawn.
    """

    name: str
    suv: Array
    size_mm: tuple[float, float]
    ends: tuple[str, str]
    ct: Array | None = None
    marks: tuple[Mark, ...] = ()


def warm_box(suv: Array, labels: Array | None = None) -> Box:
    """The box around what a projection shows as more than white, and around every lesion."""
    warm = suv > MIN_SHOWN_SUV
    ends = []
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        shown = warm.sum(axis=others) >= min(LEAST_WARM_VOXELS, warm.size // warm.shape[axis])
        if labels is not None:
            shown |= labels.any(axis=others)
        inside = np.flatnonzero(shown)
        ends.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, warm.shape[axis]))
    return ends[0], ends[1], ends[2]


def projection(suv: Volume, layers: Mapping[str, Array], axis: int, box: Box) -> View:
    """The maximum-intensity projection along an axis of a canonical volume, the head at the top.

    Axis 1 runs to the posterior and axis 2 to the left: a coronal view has the patient's left on the right, as in
    radiology, and a sagittal one looks to the left.

    Parameters
    ----------
    suv : canonical (see `Volume.canonical`).
    layers : kind of mark to (z, y, x) integers on the PET's grid; lesion number, 0 outside.
    axis : `CORONAL` or `SAGITTAL`.
    """
    spacing = suv.geometry.spacing_mm
    pixel = (spacing[0], spacing[3 - axis])
    image = suv.array[box].max(axis=axis)[::-1]
    lines = {}
    for kind, labels in layers.items():
        inside = labels[box]
        for number, place in enumerate(ndimage.find_objects(inside), start=1):
            if place is not None:
                shadow = (inside[place] == number).any(axis=axis)[::-1]
                corner = (len(image) - place[0].stop, place[3 - axis].start)
                lines[kind, number] = lines_around(shadow, pixel, corner)
    name, ends = ("coronal", ("R", "L")) if axis == CORONAL else ("sagittal", ("A", "P"))
    size_mm = _size_mm(image, pixel)
    return View(name, image, size_mm, ends, marks=_marks(lines, size_mm))


def axial(suv: Volume, ct: Volume | None, labels: Array, number: int, place: Box, box: Box) -> View:
    """The axial slice that shows most of a lesion, with the outline of every lesion in it.

    Parameters
    ----------
    suv, ct : canonical, on one grid.
    labels : (z, y, x) integers on their grid.
    place : where the lesion lies, see `scipy.ndimage.find_objects`; nothing of it lies elsewhere.
    box : what is shown.
    """
    _, dy, dx = suv.geometry.spacing_mm
    z = slice_through(suv.array, labels, number, place)
    image, plane = suv.array[z][box[1:]], labels[z][box[1:]]
    hu = None if ct is None else ct.array[z][box[1:]]
    lines = {(LESION, int(k)): lines_around(plane == k, (dy, dx)) for k in np.unique(plane[plane > 0])}
    size_mm = _size_mm(image, (dy, dx))
    return View("axial", image, size_mm, ("R", "L"), hu, _marks(lines, size_mm))


def slice_through(suv: Array, labels: Array, number: int, place: Box) -> int:
    """The index z of the slice with most of a lesion that lies in one place; of several such, the hottest."""
    inside, near = labels[place] == number, suv[place]
    counts = inside.sum(axis=(1, 2))
    best = np.flatnonzero(counts == counts.max())
    return int(place[0].start + max(best, key=lambda z: near[z][inside[z]].max()))


def lines_around(shadow: Array, pixel_mm: tuple[float, float], corner: tuple[int, int] = (0, 0)) -> tuple[Array, ...]:
    """Closed lines, (n, 2) of (x, y) in mm of the view, around a (rows, columns) mask of its part from `corner` on."""
    from contourpy import contour_generator

    rows, columns = np.flatnonzero(shadow.any(axis=1)), np.flatnonzero(shadow.any(axis=0))
    if not len(rows):
        return ()
    top, left = int(rows[0]), int(columns[0])
    part = np.pad(shadow[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float32)
    found = contour_generator(z=part).lines(0.5)
    # Voxel centres lie half a pixel inside the edge; the padding shifts by one.
    shift = np.array([corner[1] + left - 0.5, corner[0] + top - 0.5])
    return tuple((line + shift) * pixel_mm[::-1] for line in found)


def _size_mm(image: Array, pixel_mm: tuple[float, float]) -> tuple[float, float]:
    return image.shape[0] * pixel_mm[0], image.shape[1] * pixel_mm[1]


def _marks(lines: Mapping[tuple[str, int], tuple[Array, ...]], size_mm: tuple[float, float]) -> tuple[Mark, ...]:
    """Marks of outlines by kind and number; those of lesions get a place for the number."""
    boxes = {
        number: (np.concatenate(found).min(axis=0), np.concatenate(found).max(axis=0))
        for (kind, number), found in lines.items()
        if kind == LESION and number <= MOST_NUMBERS
    }
    places = _places(boxes, size_mm)
    return tuple(
        Mark(kind, number, found, places.get(number) if kind == LESION else None)
        for (kind, number), found in lines.items()
    )


def _places(boxes: Mapping[int, tuple[Array, Array]], size_mm: tuple[float, float]) -> dict[int, tuple[float, float]]:
    """Where each number is written: beside its lesion, and over no other number while there is room."""
    taken: list[tuple[float, float]] = []
    places = {}
    room = max(LABEL_MM, LABEL_SHARE * size_mm[0])
    for number, (low, high) in boxes.items():
        x, y = (low + high) / 2
        half, gap = room / 2, MARGIN_MM + room / 2
        choices = [
            (high[0] + gap, y),
            (low[0] - gap, y),
            (x, low[1] - gap),
            (x, high[1] + gap),
            (high[0] + gap, low[1] - half),
            (low[0] - gap, high[1] + half),
            (high[0] + 2 * gap, y),
            (low[0] - 2 * gap, y),
        ]
        places[number] = _first_free(choices, taken, size_mm, room)
        taken.append(places[number])
    return places


def _first_free(
    choices: Sequence[tuple[float, float]],
    taken: Sequence[tuple[float, float]],
    size_mm: tuple[float, float],
    room: float,
) -> tuple[float, float]:
    height, width = size_mm
    edge = room / 2
    for x, y in choices:
        apart = all(abs(x - a) > room * 0.9 or abs(y - b) > room * 0.9 for a, b in taken)
        if apart and edge <= x <= width - edge and edge <= y <= height - edge:
            return float(x), float(y)
    x, y = choices[0]
    return float(np.clip(x, edge, max(edge, width - edge))), float(np.clip(y, edge, max(edge, height - edge)))
