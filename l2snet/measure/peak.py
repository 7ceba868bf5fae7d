"""SUVpeak: the highest mean SUV in a sphere of 1 ml, centred on any voxel of the lesion.

Wahl et al. 2009 (PERCIST, doi:10.2967/jnumed.108.057307): "the largest possible mean value of a 1-cm3 spherical volume
of interest positioned within the tumor"; the IBSI calls it the global intensity peak. The sphere may reach beyond the
lesion. A voxel counts by the part of it that lies within the sphere, and what lies beyond the image does not count.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from l2snet.volume import Array

SPHERE_MM = (1000.0 * 3.0 / (4.0 * math.pi)) ** (1.0 / 3.0)
# A voxel is cut into so many parts along z and y, and the sphere's chord in each is taken as it is; within 0.1%.
PARTS = 20


def suv_peak(
    suv: Array, box: tuple[slice, slice, slice], inside: Array, spacing_mm: tuple[float, float, float]
) -> float:
    """SUVpeak of one lesion.

    Parameters
    ----------
    suv : (z, y, x) of the whole image.
    box : where the lesion lies in it.
    inside : bool, of the box's shape; its voxels.
    spacing_mm : (z, y, x).
    """
    weights = sphere_weights(spacing_mm)
    reach = [n // 2 for n in weights.shape]
    near = tuple(
        slice(max(0, part.start - n), min(size, part.stop + n))
        for part, n, size in zip(box, reach, suv.shape, strict=True)
    )
    sums = ndimage.correlate(suv[near].astype(np.float64), weights, mode="constant")
    known = ndimage.correlate(np.ones(sums.shape), weights, mode="constant") if _is_cut(near, box, reach) else 1.0
    here = tuple(slice(p.start - n.start, p.stop - n.start) for p, n in zip(box, near, strict=True))
    return float((sums / known)[here][inside].max())


def sphere_weights(spacing_mm: tuple[float, float, float]) -> Array:
    """(z, y, x) float64, of sum 1: which share of a sphere of 1 ml about the middle voxel each voxel has."""
    # Voxel k reaches from k - 1/2 to k + 1/2 spacings.
    reach = [math.ceil(SPHERE_MM / s + 0.5) - 1 for s in spacing_mm]
    z, y = (
        ((np.arange((2 * n + 1) * PARTS) + 0.5) / PARTS - n - 0.5) * s
        for n, s in zip(reach[:2], spacing_mm[:2], strict=True)
    )
    chords = np.sqrt(np.maximum(SPHERE_MM**2 - z[:, None] ** 2 - y**2, 0.0))[..., None]
    borders = (np.arange(2 * reach[2] + 2) - reach[2] - 0.5) * spacing_mm[2]
    lengths = np.diff(np.clip(borders, -chords, chords))
    nz, ny, nx = (2 * n + 1 for n in reach)
    shares = lengths.reshape(nz, PARTS, ny, PARTS, nx).mean(axis=(1, 3))
    weights: Array = shares / shares.sum()
    return weights


def _is_cut(near: tuple[slice, ...], box: tuple[slice, ...], reach: list[int]) -> bool:
    """Whether the sphere reaches beyond the image somewhere."""
    return any(
        part.start - inner.start < n or inner.stop - part.stop < n
        for inner, part, n in zip(near, box, reach, strict=True)
    )
