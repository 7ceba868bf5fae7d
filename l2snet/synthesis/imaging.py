"""From the true SUV of a body to a reconstructed PET: motion, point spread, attenuation errors, beds, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2snet.synthesis.anatomy import Anatomy
from l2snet.synthesis.drawing import FWHM_PER_SIGMA, Spacing, gaussian, resize
from l2snet.synthesis.physiology import log_uniform
from l2snet.synthesis.tissues import GASES, Tissue, among
from l2snet.volume import Array

REFERENCE_SUV = 2.0


@dataclass(frozen=True)
class Scanner:
    """How a body is imaged.

    Attributes
    ----------
    fwhm_mm : point spread with the filter after reconstruction, (z, y, x).
    noise : standard deviation in the liver, over its mean. noise_fwhm_mm : its correlation, (z, y, x).
    streaks : share of the noise that runs across the body where it is wide.
    ringing : overshoot at edges, as reconstructions that model the point spread show it.
    bed_mm : distance between bed positions; 0 for continuous motion. bed_noise : extra noise where they join.
    bed_step : difference in scale between beds.
    breathing_mm : how far the diaphragm moves during the PET.
    mismatch_mm : how much higher the diaphragm is in the PET than in the CT; negative when it is lower.
    scatter : error of the scatter correction around very hot places.
    """

    fwhm_mm: Spacing
    noise: float
    noise_fwhm_mm: Spacing
    streaks: float
    ringing: float
    bed_mm: float
    bed_noise: float
    bed_step: float
    breathing_mm: float
    mismatch_mm: float
    scatter: float


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Old and new scanners, short and long acquisitions."""
    plane, axial = rng.uniform(4.0, 8.8), rng.uniform(0.85, 1.15)
    correlation = rng.uniform(0.65, 1.1)
    fwhm: Spacing = (float(plane * axial), float(plane), float(plane))
    return Scanner(
        fwhm_mm=fwhm,
        noise=log_uniform(rng, 0.05, 0.38),
        noise_fwhm_mm=(
            float(max(3.0, fwhm[0] * correlation * rng.uniform(0.6, 1.0))),
            *(2 * (max(3.5, plane * correlation),)),
        ),
        streaks=float(rng.choice([0.0, rng.uniform(0.2, 0.8)])),
        ringing=float(rng.choice([0.0, rng.uniform(0.1, 0.7)])),
        bed_mm=float(rng.choice([0.0, rng.uniform(95, 220)], p=[0.25, 0.75])),
        bed_noise=float(rng.uniform(0.0, 0.8)),
        bed_step=float(rng.uniform(0.0, 0.04)),
        breathing_mm=float(rng.uniform(0, 18)),
        mismatch_mm=float(np.clip(rng.normal(6, 10), -14, 28)),
        scatter=float(rng.choice([0.0, rng.uniform(0.02, 0.12)])),
    )


def image_pet(
    suv: Array,
    anatomy: Anatomy,
    scanner: Scanner,
    shape: tuple[int, ...],
    spacing_mm: Spacing,
    rng: np.random.Generator,
) -> Array:
    """Reconstruct the PET of a body on the scanner's grid.

    Parameters
    ----------
    suv : (z, y, x) float32 true SUV on the anatomy's grid; it is used up.
    shape, spacing_mm : the scanner's grid, whose first voxel lies where the anatomy's does.

    Returns
    -------
    (z, y, x) float32 SUV, not negative.
    """
    _breathe(suv, anatomy, scanner)
    sigma: Spacing = tuple(f / FWHM_PER_SIGMA for f in scanner.fwhm_mm)  # type: ignore[assignment]
    suv = gaussian(suv, sigma, anatomy.spacing_mm)
    _miscorrect(suv, anatomy, scanner, rng)
    if scanner.ringing:
        suv += np.float32(scanner.ringing) * (suv - gaussian(suv, sigma, anatomy.spacing_mm))
    depth = anatomy.depth_mm
    if shape != suv.shape:
        suv, depth = (resize(a, anatomy.spacing_mm, shape, spacing_mm) for a in (suv, depth))
    if scanner.scatter:
        _scatter(suv, scanner, spacing_mm)
    _add_noise(suv, depth, scanner, spacing_mm, rng)
    np.maximum(suv, 0, out=suv)
    return suv


def dome_weight(anatomy: Anatomy) -> Array:
    """(z,) how much each level takes part in breathing: most at the diaphragm, less towards apex and pelvis."""
    marks = anatomy.marks
    z = np.arange(anatomy.tissues.shape[0]) * anatomy.spacing_mm[0]
    knots = (marks.bladder_top, marks.kidney_low, marks.dome - 10, marks.dome + 20, marks.apex - 30)
    order = np.maximum.accumulate(np.asarray(knots) + np.arange(5) * 1e-3)
    weight: Array = np.interp(z, order, (0.0, 0.55, 1.0, 0.9, 0.0))
    return weight


def _breathe(suv: Array, anatomy: Anatomy, scanner: Scanner) -> None:
    """Average the levels that breathing moves up and down, in place; the wall moves less than what is inside."""
    weight = dome_weight(anatomy)
    levels = np.flatnonzero(weight > 0.05)
    shift = round(0.5 * scanner.breathing_mm / anatomy.spacing_mm[0])
    if not shift or len(levels) < 2 * shift + 2:
        return
    slab = slice(int(levels[0]), int(levels[-1]) + 1)
    here = suv[slab]
    inside = np.clip(anatomy.cavity_mm[slab] / 20, 0, 1) * weight[slab, None, None].astype(np.float32)
    moved = here.copy()
    # The chest rests longer at the end of expiration than at that of inspiration.
    moved[shift:] += 0.7 * here[:-shift]
    moved[:shift] += 0.7 * here[:1]
    moved[:-shift] += 0.7 * here[shift:]
    moved[-shift:] += 0.7 * here[-1:]
    moved /= np.float32(2.4)
    moved -= here
    moved *= inside
    here += moved


def _miscorrect(suv: Array, anatomy: Anatomy, scanner: Scanner, rng: np.random.Generator) -> None:
    """Attenuation corrected with a CT whose diaphragm stands elsewhere: a cold or a hot band, in place."""
    shift = round(scanner.mismatch_mm / anatomy.spacing_mm[0])
    levels = np.flatnonzero(dome_weight(anatomy) > 0.3)
    if not shift or len(levels) < 3 * abs(shift) + 2:
        return
    slab = slice(int(levels[0]), int(levels[-1]) + 1)
    thin = among(*GASES, Tissue.LUNG)[anatomy.tissues[slab]]
    # With a deeper breath in the CT, lung stands there where the PET has liver.
    assumed = np.roll(thin, -shift, axis=0)
    rolled_in = slice(-shift, None) if shift > 0 else slice(None, -shift)
    assumed[rolled_in] = thin[rolled_in]
    error = thin[::2, ::2, ::2].astype(np.float32) - assumed[::2, ::2, ::2]
    steps: Spacing = tuple(2 * s for s in anatomy.spacing_mm)  # type: ignore[assignment]
    error = gaussian(error, (9.0, 12.0, 12.0), steps)
    suv[slab] *= np.exp(np.float32(rng.uniform(0.1, 0.55)) * resize(error, steps, thin.shape, anatomy.spacing_mm))


def _scatter(suv: Array, scanner: Scanner, spacing_mm: Spacing) -> None:
    """Too much scatter taken away around very hot places leaves them in a cold halo, in place."""
    stride = max(1, round(8 / spacing_mm[1]))
    coarse = ndimage.uniform_filter(suv, (1, stride, stride))[:, ::stride, ::stride]
    steps: Spacing = (spacing_mm[0], spacing_mm[1] * stride, spacing_mm[2] * stride)
    halo = gaussian(np.maximum(coarse - 6, 0), (12.0, 30.0, 30.0), steps)
    suv *= 1 - np.float32(scanner.scatter) * np.minimum(resize(halo, steps, suv.shape, spacing_mm), 4.0)


def _add_noise(suv: Array, depth: Array, scanner: Scanner, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Correlated noise that grows with the activity, the depth in the body and the edges of beds; in place."""
    # Neighbouring voxels share counts, however large they are.
    sigma: Spacing = tuple(  # type: ignore[assignment]
        max(f, 1.3 * s) / FWHM_PER_SIGMA for f, s in zip(scanner.noise_fwhm_mm, spacing_mm, strict=True)
    )
    noise = _unit(gaussian(rng.standard_normal(suv.shape, np.float32), sigma, spacing_mm))
    if scanner.streaks:
        across = _unit(ndimage.uniform_filter1d(noise, max(3, int(9 * sigma[2] / spacing_mm[2])), axis=2))
        across *= (np.float32(scanner.streaks) * _width(depth))[:, None, None]
        noise += across
    # Iterative reconstructions leave a skewed noise: spikes upwards, never far below zero.
    noise += np.float32(0.12) * (noise * noise - 1)
    beds, steps = _beds(suv.shape[0], scanner, spacing_mm, rng)
    noise *= (np.float32(scanner.noise) * beds)[:, None, None].astype(np.float32)
    noise *= np.float32(0.75) + np.clip(depth, 0, 150) * np.float32(0.4 / 80)
    suv *= steps[:, None, None].astype(np.float32)
    size = np.float32(0.8) * suv
    size += np.float32(0.2) * np.sqrt(np.maximum(suv, 0) * np.float32(REFERENCE_SUV))
    size += np.float32(0.004)
    size *= noise
    suv += size


def _beds(count: int, scanner: Scanner, spacing_mm: Spacing, rng: np.random.Generator) -> tuple[Array, Array]:
    """(z,) noise over its usual, and (z,) scale of each level."""
    z = np.arange(count) * spacing_mm[0]
    if not scanner.bed_mm:
        return np.ones(count), np.ones(count)
    place = (z + rng.uniform(0, scanner.bed_mm)) / scanner.bed_mm
    edge = np.abs(place % 1 - 0.5) * 2
    scale = 1 + scanner.bed_step * rng.normal(0, 1, int(place.max()) + 2)
    smooth = ndimage.gaussian_filter1d(scale[place.astype(int)], max(6 / spacing_mm[0], 0.5))
    return 1 + scanner.bed_noise * edge**6, smooth


def _width(depth: Array) -> Array:
    """(z,) float32: 0 where the body is narrow, 1 where it is widest (shoulders, hips)."""
    across = (depth > 0).any(axis=1).sum(axis=1).astype(np.float32)
    span = np.maximum(across.max(), 1)
    share: Array = np.clip(across / span, 0, 1) ** 3
    return share


def _unit(noise: Array) -> Array:
    noise /= np.float32(max(float(noise[::3, ::3, ::3].std()), 1e-6))
    return noise
