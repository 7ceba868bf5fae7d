"""Painting on a grid: smooth random fields, tubes, ellipsoids, and changes of resolution.

Positions are (z, y, x) in mm from the centre of the grid's first voxel; z runs to the superior, y to the posterior and
x to the patient's left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from l2snet.volume import Array

Point = Sequence[float] | Array
Spacing = tuple[float, float, float]
# A Gaussian's full width at half maximum over its standard deviation.
FWHM_PER_SIGMA = 2.3548


@dataclass(frozen=True)
class Canvas:
    """Labels that are painted in place.

    Attributes
    ----------
    labels : (z, y, x) uint8.
    spacing_mm : (z, y, x).
    """

    labels: Array
    spacing_mm: Spacing

    def box(self, low_mm: Array, high_mm: Array) -> tuple[tuple[slice, ...], list[Array]] | None:
        """The part of the grid between two corners and its open (z, y, x) coordinates; None if it is empty."""
        return box_of(self.labels.shape, self.spacing_mm, low_mm, high_mm)

    def tube(self, points_mm: Array, radii_mm: Array | float, value: int, over: Array | None = None) -> None:
        """Paint a chain of capsules.

        Parameters
        ----------
        points_mm : (n, 3).
        radii_mm : (n,) or one radius.
        over : (256,) bool, the labels that may be painted over; None for all.
        """
        points = np.asarray(points_mm, np.float32)
        radii = np.broadcast_to(np.asarray(radii_mm, np.float32), len(points))
        for start, end, first, last in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            reach = max(first, last)
            found = self.box(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
            if found is None:
                continue
            inside = _capsule_depth(found[1], start, end, first, last) > 0
            self._paint(found[0], inside, value, over)

    def ellipsoid(
        self, centre_mm: Point, semi_mm: Point, value: int, over: Array | None = None, rotation: Array | None = None
    ) -> None:
        """Paint an ellipsoid with semi-axes `semi_mm`, turned by a (3, 3) `rotation`."""
        found = self.box(*_ball_corners(centre_mm, max(semi_mm) if rotation is not None else semi_mm))
        if found is not None:
            self._paint(found[0], ellipsoid_level(found[1], centre_mm, semi_mm, rotation) < 1, value, over)

    def plate(self, corners_mm: Array, thickness_mm: float, value: int, over: Array | None = None) -> None:
        """Paint a flat triangle (3, 3) with a thickness, as a fan of tubes."""
        first, second, third = np.asarray(corners_mm, np.float32)
        steps = max(2, int(np.linalg.norm(third - second) / max(thickness_mm, 2.5)) + 1)
        for part in np.linspace(0, 1, steps):
            self.tube(np.stack([first, second + part * (third - second)]), thickness_mm / 2, value, over)

    def _paint(self, box: tuple[slice, ...], inside: Array, value: int, over: Array | None) -> None:
        here = self.labels[box]
        if over is not None:
            inside = inside & over[here]
        here[inside] = value


def by(z_mm: float, y_mm: float, x_mm: float) -> Array:
    """An offset to add to a point: up, to the back, to the patient's left."""
    return np.array([z_mm, y_mm, x_mm])


def box_of(
    shape: tuple[int, ...], spacing_mm: Spacing, low_mm: Array, high_mm: Array
) -> tuple[tuple[slice, ...], list[Array]] | None:
    """Slices between two corners in mm, and the open float32 coordinates of their voxels; None if empty."""
    slices, coordinates = [], []
    for axis, (n, step, low, high) in enumerate(zip(shape, spacing_mm, low_mm, high_mm, strict=True)):
        start, stop = max(0, int(np.ceil(low / step))), min(n, int(high / step) + 1)
        if start >= stop:
            return None
        slices.append(slice(start, stop))
        where = np.arange(start, stop, dtype=np.float32) * np.float32(step)
        coordinates.append(where.reshape([-1 if k == axis else 1 for k in range(3)]))
    return tuple(slices), coordinates


def raise_tube(field: Array, spacing_mm: Spacing, points_mm: Array, radii_mm: Array | float) -> None:
    """Raise a (z, y, x) depth field in place to the depth inside a chain of capsules (mm, positive inside)."""
    points = np.asarray(points_mm, np.float32)
    radii = np.broadcast_to(np.asarray(radii_mm, np.float32), len(points))
    for start, end, first, last in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        reach = max(first, last) + 2 * max(spacing_mm)
        found = box_of(field.shape, spacing_mm, np.minimum(start, end) - reach, np.maximum(start, end) + reach)
        if found is not None:
            here = field[found[0]]
            np.maximum(here, _capsule_depth(found[1], start, end, first, last), out=here)


def raise_ellipsoid(field: Array, spacing_mm: Spacing, centre_mm: Point, semi_mm: Point) -> None:
    """Raise a (z, y, x) depth field in place to the depth inside an ellipsoid (mm, approximate)."""
    low, high = _ball_corners(centre_mm, semi_mm)
    margin = 2 * max(spacing_mm)
    found = box_of(field.shape, spacing_mm, low - margin, high + margin)
    if found is not None:
        here = field[found[0]]
        level = ellipsoid_level(found[1], centre_mm, semi_mm)
        np.maximum(here, (1 - np.sqrt(level)) * np.float32(min(semi_mm)), out=here)


def ellipsoid_level(coordinates: list[Array], centre_mm: Point, semi_mm: Point, rotation: Array | None = None) -> Array:
    """Squared distance from an ellipsoid's centre in units of its semi-axes: 1 on the surface."""
    dz, dy, dx = (c - np.float32(m) for c, m in zip(coordinates, centre_mm, strict=True))
    if rotation is not None:
        turn = np.asarray(rotation, np.float32)
        dz, dy, dx = (turn[row, 0] * dz + turn[row, 1] * dy + turn[row, 2] * dx for row in range(3))
    semi_z, semi_y, semi_x = (np.float32(s) for s in semi_mm)
    level: Array = (dz / semi_z) ** 2 + (dy / semi_y) ** 2 + (dx / semi_x) ** 2
    return level


def curve(points_mm: Sequence[Point] | Array, step_mm: float = 6.0) -> Array:
    """(n, 3) points about `step_mm` apart on a smooth curve through the given ones (Catmull-Rom)."""
    points = np.asarray(points_mm, float)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    pieces = []
    for before, start, end, after in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        count = max(1, int(np.linalg.norm(end - start) / step_mm + 0.5))
        t = (np.arange(count) / count)[:, None]
        bend = (2 * before - 5 * start + 4 * end - after) * t**2 + (3 * start - before - 3 * end + after) * t**3
        pieces.append(start + 0.5 * ((end - before) * t + bend))
    return np.concatenate([*pieces, points[-1:]])


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: Spacing, length_mm: float) -> Array:
    """(z, y, x) float32 random field of mean 0 and variance near 1 that varies over about `length_mm`."""
    step = max(length_mm / 2, min(spacing_mm))
    size = tuple(int(np.ceil((n - 1) * s / step)) + 3 for n, s in zip(shape, spacing_mm, strict=True))
    coarse = rng.standard_normal(size, np.float32)
    blurred = gaussian(coarse, (step * 0.7,) * 3, (step,) * 3)
    field = resize(blurred, (step,) * 3, shape, spacing_mm, -step)
    return field / np.float32(max(float(blurred.std()) * 0.8, 1e-6))


def gaussian(array: Array, sigma_mm: Spacing, spacing_mm: Spacing) -> Array:
    """(z, y, x) float32, blurred with a Gaussian; reflection at the borders."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    image.SetSpacing(tuple(float(s) for s in spacing_mm[::-1]))
    variance = [max(float(s), 1e-3) ** 2 for s in sigma_mm[::-1]]
    if min(array.shape) < 4:
        return np.array(array, np.float32)
    smoothed = sitk.DiscreteGaussian(image, variance=variance, maximumKernelWidth=64, maximumError=0.01)
    out: Array = sitk.GetArrayFromImage(smoothed)
    return out


def resize(
    array: Array,
    spacing_mm: Spacing,
    shape: tuple[int, ...],
    target_mm: Spacing,
    origin_mm: float | Point = 0.0,
    nearest: bool = False,
) -> Array:
    """Voxels on a grid of another spacing.

    Parameters
    ----------
    origin_mm : where this array's first voxel lies in the target's coordinates.
    """
    origin = (origin_mm,) * 3 if isinstance(origin_mm, float | int) else origin_mm
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(tuple(float(s) for s in spacing_mm[::-1]))
    image.SetOrigin(tuple(float(o) for o in reversed(origin)))
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape[::-1]])
    resampler.SetOutputSpacing(tuple(float(s) for s in target_mm[::-1]))
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    out: Array = sitk.GetArrayFromImage(resampler.Execute(image))
    return out


def random_rotation(rng: np.random.Generator) -> Array:
    """(3, 3) float64 rotation, uniform over all."""
    a, b, c, d = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (c * c + d * d), 2 * (b * c - d * a), 2 * (b * d + c * a)],
            [2 * (b * c + d * a), 1 - 2 * (b * b + d * d), 2 * (c * d - b * a)],
            [2 * (b * d - c * a), 2 * (c * d + b * a), 1 - 2 * (b * b + c * c)],
        ]
    )


def _capsule_depth(coordinates: list[Array], start: Array, end: Array, first: float, last: float) -> Array:
    axis = end - start
    length = float(axis @ axis)
    offsets = [c - np.float32(s) for c, s in zip(coordinates, start, strict=True)]
    if length < 1e-6:
        return np.float32(max(first, last)) - np.sqrt(sum(o * o for o in offsets))
    along = sum(o * np.float32(a / length) for o, a in zip(offsets, axis, strict=True))
    along = np.clip(along, 0, 1)
    squared = sum((o - along * np.float32(a)) ** 2 for o, a in zip(offsets, axis, strict=True))
    depth: Array = np.float32(first) + along * np.float32(last - first) - np.sqrt(squared)
    return depth


def _ball_corners(centre_mm: Point, semi_mm: Point | float) -> tuple[Array, Array]:
    centre, semi = np.asarray(centre_mm, float), np.asarray(semi_mm, float)
    return centre - semi, centre + semi
