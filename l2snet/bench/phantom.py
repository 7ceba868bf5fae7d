"""A whole body of ellipsoids, the same on every machine: what a benchmark runs on where there is no other body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l2snet.case import AIR_HU, Case
from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.volume import Array, Geometry, Volume

# (z, y, x) of a whole-body case of FDG-PET-CT-Lesions, skull to thigh.
WHOLE_BODY = (326, 400, 400)
SMALL_BODY = (64, 64, 64)
NOISE, NOISE_OF_CT_HU = 0.1, 15.0  # standard deviation: a share of the SUV, and HU
# Centre and half axes (z, y, x) as shares of the grid, SUV and HU; later ones lie over earlier ones.
ELLIPSOIDS: Sequence[tuple[tuple[float, float, float], tuple[float, float, float], float, float]] = (
    ((0.50, 0.50, 0.50), (0.42, 0.15, 0.24), 0.6, -90.0),  # trunk, fat
    ((0.50, 0.50, 0.50), (0.40, 0.13, 0.21), 0.9, 45.0),  # trunk, muscle
    ((0.50, 0.50, 0.25), (0.33, 0.05, 0.05), 0.8, 45.0),  # arms
    ((0.50, 0.50, 0.75), (0.33, 0.05, 0.05), 0.8, 45.0),
    ((0.11, 0.50, 0.42), (0.10, 0.10, 0.09), 0.7, 45.0),  # thighs
    ((0.11, 0.50, 0.58), (0.10, 0.10, 0.09), 0.7, 45.0),
    ((0.90, 0.50, 0.50), (0.09, 0.12, 0.09), 1.0, 40.0),  # head
    ((0.92, 0.50, 0.50), (0.06, 0.09, 0.07), 7.0, 35.0),  # brain
    ((0.68, 0.50, 0.42), (0.12, 0.09, 0.06), 0.4, -800.0),  # lungs
    ((0.68, 0.50, 0.58), (0.12, 0.09, 0.06), 0.4, -800.0),
    ((0.62, 0.46, 0.53), (0.04, 0.04, 0.04), 3.5, 45.0),  # heart
    ((0.50, 0.48, 0.43), (0.06, 0.08, 0.08), 2.2, 60.0),  # liver
    ((0.44, 0.55, 0.43), (0.04, 0.02, 0.02), 5.0, 40.0),  # kidneys
    ((0.44, 0.55, 0.57), (0.04, 0.02, 0.02), 5.0, 40.0),
    ((0.22, 0.47, 0.50), (0.03, 0.04, 0.04), 15.0, 10.0),  # bladder
    ((0.50, 0.58, 0.50), (0.30, 0.02, 0.02), 1.5, 250.0),  # spine
)
LESIONS = 12


def whole_body(size: tuple[int, int, int] = WHOLE_BODY, seed: int = 0) -> Case:
    """A body with hot lesions, on the working grid; it is no anatomy, and fills the grid as a patient does.

    Parameters
    ----------
    size : (z, y, x) voxels.
    seed : of lesions and noise.
    """
    rng = np.random.default_rng(seed)
    suv, ct = np.zeros(size, np.float32), np.full(size, AIR_HU, np.float32)
    for centre, half, uptake, hu in ELLIPSOIDS:
        _fill(suv, centre, half, uptake)
        _fill(ct, centre, half, hu)
    for _ in range(LESIONS):
        centre = tuple(rng.uniform((0.2, 0.42, 0.35), (0.8, 0.58, 0.65)))
        _fill(suv, centre, (0.02, 0.02, 0.02), float(rng.uniform(4.0, 12.0)))
    inside = suv > 0
    count = int(inside.sum())
    suv[inside] *= 1 + NOISE * rng.standard_normal(count, np.float32).clip(-3, 3)
    ct[inside] += NOISE_OF_CT_HU * rng.standard_normal(count, np.float32)
    geometry = Geometry(size, WORKING_SPACING_MM)
    return Case("phantom", Volume(suv, geometry), Volume(ct, geometry))


def _fill(array: Array, centre: Sequence[float], half: Sequence[float], value: float) -> None:
    """Set the voxels of an ellipsoid, which is given in shares of the array."""
    middle, radius = (np.array(shares) * array.shape for shares in (centre, half))
    low, high = np.maximum(np.floor(middle - radius), 0), np.minimum(np.ceil(middle + radius) + 1, array.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    axes = np.ogrid[box]
    distance = sum(((axis - m) / r) ** 2 for axis, m, r in zip(axes, middle, radius, strict=True))
    array[box][distance < 1] = value
