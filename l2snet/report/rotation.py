"""The rotating projection: 36 maximum-intensity projections around the patient, as one animated picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from l2snet.report.shades import LESION_COLOURS, image_library, inverse_grey, rgb
from l2snet.report.strings import STRINGS
from l2snet.report.views import Box
from l2snet.volume import Array, Volume

ANGLES = 36
FRAME_MS = 120
# In plane: as fine as the scanner sees, coarse enough to be quick.
VOXEL_MM = 2.0
PIXEL_MM = 1.6
QUALITY = 70
# What lies to the right of a frame, from before and each 45 degrees on; to its left lies the opposite.
SIDES = ("L", "LP", "P", "RP", "R", "RA", "A", "LA")
LETTER_PIXELS, LETTER_MARGIN, LETTER_GREY = 11, 4, 68
# Of 255 greys; less is air.
LEAST_SHOWN = 5


def animated(frames: Sequence[Array]) -> bytes:
    """Frames, (rows, columns, 3) uint8, as an animated WebP that goes on for ever."""
    pillow = image_library()
    first, *others = [pillow.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=QUALITY, method=1)
    return file.getvalue()


def turning_frames(suv: Volume, labels: Array, box: Box, max_suv: float) -> list[Array]:
    """Once around the patient, (rows, columns, 3) uint8 for each of `ANGLES`; lesions outlined, in colour by number.

    At both edges stands what lies there: R, L, A, P, or two of them.

    Parameters
    ----------
    suv, labels : canonical, (z, y, x) of the labels on the PET's grid; 0 outside. The first frame is the coronal view.
    """
    mm = suv.geometry.spacing_mm
    factors = (max(1, round(mm[1] / VOXEL_MM)), max(1, round(mm[2] / VOXEL_MM)))
    pet = _finer(255 - inverse_grey(suv.array[box], max_suv), factors, smooth=True)
    # One colour a number: what is drawn of several in one line of sight is the last.
    colours = np.where(labels[box] > 0, (labels[box] - 1) % len(LESION_COLOURS) + 1, 0).astype(np.uint8)
    marks = _finer(colours, factors, smooth=False)
    voxel_mm = (mm[0], mm[1] / factors[0], mm[2] / factors[1])
    turns = [list(_projections(array, voxel_mm)) for array in (pet, marks)]
    half = [(grey, mark) for grey, mark in zip(*turns, strict=True)]
    # From behind, a projection is the one from before, mirrored.
    whole = half + [(grey[:, ::-1], mark[:, ::-1]) for grey, mark in half]
    pixel_mm = (voxel_mm[0], min(voxel_mm[1:]))
    # The diagonal of the box is wider than what any side of the patient fills.
    filled = np.flatnonzero(np.any([(grey > LEAST_SHOWN).any(axis=0) for grey, _ in whole], axis=0))
    side = slice(filled[0], filled[-1] + 1) if len(filled) else slice(None)
    return [_lettered(_frame(grey[:, side], mark[:, side], pixel_mm), at) for at, (grey, mark) in enumerate(whole)]


def ends(at: int) -> tuple[str, str]:
    """What lies to the left and to the right of a frame."""
    sector = round(at * len(SIDES) / ANGLES)
    return SIDES[(sector + len(SIDES) // 2) % len(SIDES)], SIDES[sector % len(SIDES)]


def _lettered(frame: Array, at: int) -> Array:
    """A frame with what lies at its edges."""
    from PIL import ImageDraw, ImageFont

    picture = image_library().fromarray(frame)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTER_PIXELS)
    height, width = frame.shape[:2]
    letters = ["".join(STRINGS["pictures"]["letters"][end] for end in side) for side in ends(at)]
    for text, x, anchor in zip(letters, (LETTER_MARGIN, width - LETTER_MARGIN), ("lm", "rm"), strict=True):
        where, colour = (x, height / 2), (LETTER_GREY,) * 3
        pen.text(where, text, colour, font, anchor, stroke_width=2, stroke_fill=(255,) * 3)
    return np.asarray(picture)


def _finer(array: Array, factors: tuple[int, int], smooth: bool) -> Array:
    """More voxels in plane, linear between voxel centres or each repeated."""
    if smooth and factors != (1, 1):
        out: Array = ndimage.zoom(array, (1, *factors), order=1, mode="nearest", grid_mode=True)
        return out
    return array.repeat(factors[0], axis=1).repeat(factors[1], axis=2)


def _projections(array: Array, mm: tuple[float, float, float]) -> Iterator[Array]:
    """The (z, columns) projections of half a turn, of (z, y, x) uint8."""
    depth, ny, nx = array.shape
    rows = np.zeros((ny * nx + 1, depth), np.uint8)  # the last is outside
    rows[:-1] = array.transpose(1, 2, 0).reshape(ny * nx, depth)[:, ::-1]
    pixel = min(mm[1:])
    across = np.arange(int(np.hypot(ny * mm[1], nx * mm[2]) / pixel) + 2, dtype=np.float32)
    across = (across - (len(across) - 1) / 2) * pixel
    along = across[:, None]
    for angle in np.arange(ANGLES // 2) * (2 * np.pi / ANGLES):
        x = np.rint((across * np.cos(angle) - along * np.sin(angle)) / mm[2] + (nx - 1) / 2).astype(np.int32)
        y = np.rint((across * np.sin(angle) + along * np.cos(angle)) / mm[1] + (ny - 1) / 2).astype(np.int32)
        index = np.where((x >= 0) & (x < nx) & (y >= 0) & (y < ny), y * nx + x, ny * nx)
        highest = rows[index[0]]
        for line in index[1:]:
            np.maximum(highest, rows[line], out=highest)
        yield np.ascontiguousarray(highest.T)


def _frame(grey: Array, marks: Array, pixel_mm: tuple[float, float]) -> Array:
    """Enlarged and inverted, with the outlines of what is marked."""
    size = (round(grey.shape[0] * pixel_mm[0] / PIXEL_MM), round(grey.shape[1] * pixel_mm[1] / PIXEL_MM))
    picture = np.repeat(255 - _enlarged(grey, size)[..., None], 3, axis=-1)
    for number, place in enumerate(ndimage.find_objects(marks), start=1):
        if place is not None:
            _outline(picture, marks, number, place)
    return picture


def _outline(picture: Array, marks: Array, number: int, place: tuple[slice, slice]) -> None:
    """Draw into the picture the outline of one number of (rows, columns) marks, which all lie in one place."""
    near = tuple(
        slice(max(0, part.start - 1), min(n, part.stop + 1)) for part, n in zip(place, marks.shape, strict=True)
    )
    scale = [n / m for n, m in zip(picture.shape, marks.shape, strict=False)]
    there = tuple(slice(round(part.start * f), round(part.stop * f)) for part, f in zip(near, scale, strict=True))
    part = picture[there]
    shadow = _enlarged(255 * (marks[near] == number).astype(np.uint8), part.shape[:2]) > 127
    part[shadow & ~ndimage.binary_erosion(shadow)] = rgb(LESION_COLOURS[number - 1])


def _enlarged(image: Array, size: tuple[int, int]) -> Array:
    pillow = image_library()
    return np.asarray(pillow.fromarray(np.ascontiguousarray(image)).resize(size[::-1], pillow.Resampling.BICUBIC))
