"""From the density of a body to a CT on the PET's grid: breath-hold, noise, streaks, metal, field of view, table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2snet.case import AIR_HU
from l2snet.synthesis.anatomy import Anatomy
from l2snet.synthesis.drawing import Canvas, Spacing, box_of, by, gaussian, resize
from l2snet.synthesis.imaging import Scanner, dome_weight
from l2snet.synthesis.tissues import BONES, Tissue, among
from l2snet.volume import Array

MAX_HU = 3071.0
AIR_AROUND_HU = -1000.0


@dataclass(frozen=True)
class CTScan:
    """How the CT is taken.

    Attributes
    ----------
    noise_hu : standard deviation in soft tissue on the PET's grid.
    sharpness_mm : standard deviation of its blur.
    view_mm : diameter of its field of view. padding_hu : the value outside of it.
    table : 0 for none, 1 a curved, 2 a flat one; table_drop_mm below the back, its shell of table_hu.
    dental, hip : metal there (hip: -1 right, 1 left, 0 none).
    shift_mm : how far the whole body moved between CT and PET, (z, y, x).
    """

    noise_hu: float
    sharpness_mm: float
    view_mm: float
    padding_hu: float
    table: int
    table_drop_mm: float
    table_hu: float
    dental: bool
    hip: int
    shift_mm: Spacing


def draw_ct_scan(rng: np.random.Generator) -> CTScan:
    """Low dose to diagnostic."""
    shift = rng.normal(0, 1.2, 3)
    return CTScan(
        noise_hu=float(rng.uniform(6, 28)),
        sharpness_mm=float(rng.uniform(0.7, 1.7)),
        view_mm=float(rng.choice([500.0, 700.0, 780.0], p=[0.5, 0.3, 0.2])),
        padding_hu=float(rng.choice([AIR_HU, AIR_HU, -3024.0], p=[0.5, 0.4, 0.1])),
        table=int(rng.choice(3, p=[0.1, 0.6, 0.3])),
        table_drop_mm=float(rng.uniform(2, 18)),
        table_hu=float(rng.uniform(-500, 250)),
        dental=bool(rng.random() < 0.4),
        hip=int(rng.choice([0, -1, 1], p=[0.86, 0.07, 0.07])),
        shift_mm=(float(shift[0]), float(shift[1]), float(shift[2])),
    )


def plant_metal(anatomy: Anatomy, suv: Array, hu: Array, scan: CTScan, rng: np.random.Generator) -> None:
    """A hip prosthesis and tooth fillings, in place; what is metal takes nothing up."""
    canvas = Canvas(anatomy.tissues, anatomy.spacing_mm)
    if scan.hip:
        hip, knee = anatomy.outline.legs[0 if scan.hip < 0 else 1][:2]
        bone = among(*BONES, Tissue.CARTILAGE)
        stem = hip + by(-70, 6, scan.hip * 46)
        canvas.ellipsoid(tuple(hip), (25, 25, 25), Tissue.METAL, bone)
        canvas.tube(
            np.array([hip, hip + by(-18, 6, scan.hip * 36), stem]), np.array([9.0, 11.0, 9.0]), Tissue.METAL, bone
        )
        canvas.tube(np.array([stem, 0.7 * stem + 0.3 * knee]), np.array([9.0, 6.0]), Tissue.METAL, bone)
    if scan.dental:
        teeth = np.argwhere(anatomy.tissues == Tissue.TOOTH)
        for _ in range(int(rng.integers(1, 8)) if len(teeth) else 0):
            spot = teeth[rng.integers(len(teeth))] * np.asarray(anatomy.spacing_mm)
            canvas.ellipsoid(tuple(spot), rng.uniform(2.5, 5, 3), Tissue.METAL, among(Tissue.TOOTH))
    metal = anatomy.tissues == Tissue.METAL
    hu[metal] = MAX_HU
    suv[metal] = 0.3


def image_ct(
    hu: Array,
    anatomy: Anatomy,
    scanner: Scanner,
    scan: CTScan,
    shape: tuple[int, ...],
    spacing_mm: Spacing,
    rng: np.random.Generator,
) -> Array:
    """The CT of the body on the scanner's grid (see `image_pet`), (z, y, x) float32 HU, without table."""
    hu = _hold_breath(hu, anatomy, scanner)
    sigma = max(scan.sharpness_mm, 0.3 * max(spacing_mm))
    hu = gaussian(hu, (sigma, sigma, sigma), anatomy.spacing_mm)
    depth = anatomy.depth_mm
    if shape != hu.shape or any(abs(s) > 0.3 for s in scan.shift_mm):
        hu = resize(hu, anatomy.spacing_mm, shape, spacing_mm, scan.shift_mm)
    if shape != depth.shape:
        depth = resize(depth, anatomy.spacing_mm, shape, spacing_mm)
    _streak_metal(hu, anatomy, spacing_mm, rng)
    _add_noise(hu, depth, scan, spacing_mm, rng)
    return np.clip(hu, AIR_HU, MAX_HU, out=hu)


def _hold_breath(hu: Array, anatomy: Anatomy, scanner: Scanner) -> Array:
    """Move what is inside the trunk down (or up) by the mismatch at the diaphragm, less away from it."""
    weight = dome_weight(anatomy) * scanner.mismatch_mm / anatomy.spacing_mm[0]
    levels = np.flatnonzero(np.abs(weight) > 0.3)
    if not len(levels):
        return hu
    slab = slice(int(levels[0]), int(levels[-1]) + 1)
    inside = np.clip(anatomy.cavity_mm[slab] / 25, 0, 1)
    levels_here = np.arange(slab.start, slab.stop, dtype=np.float32)[:, None, None]
    source = levels_here + inside * weight[slab, None, None].astype(np.float32)
    index = np.clip(np.rint(source), 0, hu.shape[0] - 1).astype(np.intp)
    moved = hu.copy()
    moved[slab] = np.take_along_axis(hu, index, axis=0)
    return moved


def _streak_metal(hu: Array, anatomy: Anatomy, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Bright and dark rays around metal, in the slices that hold it; in place."""
    metal = np.argwhere(anatomy.tissues[::2, ::2, ::2] == Tissue.METAL) * 2 * np.asarray(anatomy.spacing_mm)
    if not len(metal):
        return
    strength = rng.uniform(60, 450)
    rays = rng.integers(3, 14)
    for level in np.arange(metal[:, 0].min(), metal[:, 0].max() + spacing_mm[0], spacing_mm[0]):
        here = metal[np.abs(metal[:, 0] - level) < anatomy.spacing_mm[0] * 1.1]
        found = box_of(
            hu.shape, spacing_mm, np.array([level, -1e4, -1e4]), np.array([level + 0.99 * spacing_mm[0], 1e4, 1e4])
        )
        if not len(here) or found is None:
            continue
        _, y, x = found[1]
        for centre in (here[:, 1:].mean(axis=0), here[rng.integers(len(here)), 1:]):
            away = np.hypot(y - centre[0], x - centre[1])
            angle = np.arctan2(y - centre[0], x - centre[1])
            rise = np.cos(2 * angle) * 0.6 + 0.6 * np.cos(rays * angle + rng.uniform(0, 6))
            change = strength * rise * np.exp(-away / rng.uniform(25, 70))
            tissue = hu[found[0]] > -900
            hu[found[0]] += np.where(tissue, change, 0.3 * change).astype(np.float32)


def _add_noise(hu: Array, depth: Array, scan: CTScan, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Noise that grows with the width of the body, with streaks across the shoulders; in place."""
    across = (depth > 0).any(axis=1).sum(axis=1) * spacing_mm[2]
    level = np.clip(across / 400, 0.5, 1.6).astype(np.float32)
    noise = rng.standard_normal(hu.shape, np.float32)
    wide = np.flatnonzero(level > 1.15)
    if len(wide):
        slab = slice(int(wide[0]), int(wide[-1]) + 1)
        streaks = ndimage.uniform_filter1d(noise[slab], max(3, int(70 / spacing_mm[2])), axis=2)
        streaks *= (np.clip(level[slab] - 1.1, 0, 1) * 4)[:, None, None]
        noise[slab] += streaks
    noise *= (np.float32(scan.noise_hu) * level)[:, None, None]
    # Air is less noisy than what is inside the body.
    noise *= np.clip(0.3 + depth / 12, 0.3, 1.0)
    hu += noise


def surroundings(shape: tuple[int, ...], spacing_mm: Spacing, table_y: float, middle_x: float, scan: CTScan) -> Array:
    """(y, x) float32 HU of an empty slice: air and the table; `table_y` and `middle_x` in mm on that grid."""
    plane = np.full(shape, AIR_AROUND_HU, np.float32)
    if not scan.table:
        return plane
    y = (np.arange(shape[0]) * spacing_mm[1])[:, None] - table_y - scan.table_drop_mm
    x = (np.arange(shape[1]) * spacing_mm[2])[None, :] - middle_x
    half = 215.0
    top = y + (0.00055 * x * x if scan.table == 1 else 0.0)
    inside = (top > 0) & (top < 45 - (0.0006 * x * x if scan.table == 1 else 0)) & (np.abs(x) < half)
    plane[inside] = -930
    shell = (top > -2.5) & (top < 2.5) & (np.abs(x) < half)
    bottom = (np.abs(y - 42 + np.abs(x) * (0.18 if scan.table == 2 else 0.1)) < 2.5) & (np.abs(x) < half)
    plane[shell | (bottom & (top > 0))] = scan.table_hu
    return plane


def outside_view(shape: tuple[int, ...], spacing_mm: Spacing, scan: CTScan) -> Array:
    """(y, x) bool: beyond the CT's round field of view, which is centred on the grid."""
    y, x = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm[1:], strict=True))
    beyond: Array = y[:, None] ** 2 + x[None, :] ** 2 > (scan.view_mm / 2) ** 2
    return beyond
