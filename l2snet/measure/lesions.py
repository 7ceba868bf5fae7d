"""Which lesions a mask holds, and the numbers of each.

A lesion is an 18-connected component of the mask, as the challenge counts them. Lesions are numbered from the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from l2snet.errors import InputError, MissingPackageError
from l2snet.measure.peak import suv_peak
from l2snet.volume import Array, Geometry, Volume

# 18 neighbours: faces and edges, as the challenge counts components.
NEIGHBOURS: Literal[18] = 18


@dataclass(frozen=True)
class Rules:
    """What of a mask counts as lesion: the least volume of one, and the least SUV of its voxels; 0 leaves all."""

    smallest_ml: float = 0.0
    suv_floor: float = 0.0

    def __post_init__(self) -> None:
        if not self.smallest_ml >= 0:
            raise InputError(f"a smallest lesion of {self.smallest_ml} ml was given; expected 0 or more")
        if not self.suv_floor >= 0:
            raise InputError(f"an SUV floor of {self.suv_floor} was given; expected 0 or more")


@dataclass(frozen=True)
class Lesion:
    """One lesion's numbers.

    Attributes
    ----------
    number : from 1, the largest; its label in the label map and its segment in DICOM SEG.
    volume_ml : voxels times a voxel's volume.
    suv_max, suv_mean : over its voxels.
    suv_peak : highest mean SUV in a sphere of 1 ml whose centre is one of its voxels, see `l2snet.measure.peak`.
    tlg : total lesion glycolysis, SUVmean times volume, in g (cm2 for SUV by body surface).
    centroid_mm : world (L, P, S), mean of its voxels' centres.
    longest_diameter_mm : largest distance between two of its points, its voxels being boxes.
    probability : mean of the network's probability over its voxels, 0 to 1; None where there is no such map.
    """

    number: int
    volume_ml: float
    suv_max: float
    suv_mean: float
    suv_peak: float
    tlg: float
    centroid_mm: tuple[float, float, float]
    longest_diameter_mm: float
    probability: float | None


def label_lesions(mask: Array, suv: Array, voxel_ml: float, rules: Rules | None = None) -> Array:
    """The lesions of a mask by number, the largest first.

    Voxels under the SUV floor go first, then components are found, then those that are too small go.

    Parameters
    ----------
    mask, suv : (z, y, x) on one grid; what is not 0 in the mask is inside.

    Returns
    -------
    (z, y, x) unsigned integers of the smallest type that holds them; 0 is outside.

    Raises
    ------
    MissingPackageError : connected-components-3d is not installed.
    """
    try:
        import cc3d
    except ImportError as error:
        raise MissingPackageError("the lesion table", "measure") from error
    rules = rules or Rules()
    inside = mask > 0
    if rules.suv_floor > 0:
        inside &= suv >= rules.suv_floor
    labels: Array = cc3d.connected_components(inside, connectivity=NEIGHBOURS)
    voxels = np.bincount(labels[inside])
    large = np.flatnonzero(voxels * voxel_ml >= rules.smallest_ml)
    large = large[large > 0]
    numbers = np.zeros(len(voxels), np.min_scalar_type(len(large)))
    numbers[large[np.argsort(-voxels[large], kind="stable")]] = np.arange(1, len(large) + 1)
    if not len(large):
        return np.zeros(mask.shape, np.uint8)
    numbered: Array = numbers[labels]
    return numbered


def measure_lesions(labels: Volume, suv: Array, probability: Array | None = None) -> list[Lesion]:
    """The numbers of every lesion, in order.

    Parameters
    ----------
    labels : as `label_lesions` numbers them, with their grid.
    suv, probability : (z, y, x) on that grid.
    """
    geometry = labels.geometry
    lesions = []
    for number, box, inside in _each(labels.array):
        voxels = np.argwhere(inside) + [part.start for part in box]
        values = suv[box][inside].astype(np.float64)
        left, posterior, superior = (float(v) for v in geometry.world(voxels.mean(axis=0)))
        volume_ml = len(voxels) * geometry.voxel_ml
        lesions.append(
            Lesion(
                number=number,
                volume_ml=volume_ml,
                suv_max=float(values.max()),
                suv_mean=float(values.mean()),
                suv_peak=suv_peak(suv, box, inside, geometry.spacing_mm),
                tlg=float(values.mean()) * volume_ml,
                centroid_mm=(left, posterior, superior),
                longest_diameter_mm=longest_diameter_mm(voxels, geometry),
                probability=None if probability is None else float(probability[box][inside].mean(dtype=np.float64)),
            )
        )
    return lesions


def longest_diameter_mm(voxels: Array, geometry: Geometry) -> float:
    """The largest distance between two points of a set of voxels, each of them a box.

    Parameters
    ----------
    voxels : (n, 3) indices in array order, at least one.
    """
    from scipy.spatial import ConvexHull  # a slow import, which no case without a table needs
    from scipy.spatial.distance import pdist

    # The ends of every row of voxels along x hold all corners of the convex hull.
    rows, where = np.unique(voxels[:, :2], axis=0, return_inverse=True)
    last = np.zeros(len(rows), voxels.dtype)
    first = np.full(len(rows), voxels[:, 2].max())
    np.maximum.at(last, where.ravel(), voxels[:, 2])
    np.minimum.at(first, where.ravel(), voxels[:, 2])
    corners = [
        np.column_stack([rows + np.array((z, y)), x])
        for z in (-0.5, 0.5)
        for y in (-0.5, 0.5)
        for x in (first - 0.5, last + 0.5)
    ]
    points_mm = np.unique(np.concatenate(corners), axis=0) * np.asarray(geometry.spacing_mm)
    return float(pdist(points_mm[ConvexHull(points_mm).vertices]).max())


def _each(labels: Array) -> Iterator[tuple[int, tuple[slice, slice, slice], Array]]:
    """Number, box, and the voxels inside the box (bool), of every lesion."""
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        yield number, box, labels[box] == number
