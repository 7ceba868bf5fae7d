"""The numbers of a table, pure functions on (z, y, x) masks on one grid (paper section 4.2, autoPET's evaluation).

A lesion is an 18-connected component of the truth. It is found when the prediction touches it, in at least one voxel; a
predicted component that touches no true voxel is a false positive. FPV and FNV are the volumes of the second kind and
of the lesions not found (https://github.com/lab-midas/autoPET, val_script.py).

Labelling and confusion need the packages of the extra `evaluate`; they are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from l2snet.errors import MissingPackageError
from l2snet.volume import Array

# 18 neighbours: faces and edges, as the challenge counts components.
NEIGHBOURS: Literal[18] = 18
# Spacings such as 2.036 mm are not exact in binary; a distance of exactly the tolerance is within it.
ROUNDING_MM = 1e-6
UNDEFINED = float("nan")


@dataclass(frozen=True)
class Confusion:
    """Voxels that both masks have (true positive), only the prediction, and only the truth."""

    true_positive: int
    false_positive: int
    false_negative: int

    @property
    def dice(self) -> float:
        """Foreground Dice, 2 TP / (2 TP + FP + FN): 0 when one mask is empty, NaN when both are."""
        total = 2 * self.true_positive + self.false_positive + self.false_negative
        return 2 * self.true_positive / total if total else UNDEFINED


@dataclass(frozen=True)
class Components:
    """The 18-connected components of one mask, against another.

    Attributes
    ----------
    labels : (z, y, x) unsigned integers; 0 is outside, component k is number k.
    voxels : (n,) int64, the size of components 1 to n.
    overlap : (n,) int64, how many of those voxels the other mask has.
    """

    labels: Array
    voxels: Array
    overlap: Array

    @property
    def untouched(self) -> Array:
        """(n,) bool: components without a voxel of the other mask."""
        untouched: Array = self.overlap == 0
        return untouched

    def found(self, least_overlap: float) -> Array:
        """(n,) bool: components of which the other mask has a voxel, and at least this fraction (0 to 1)."""
        found: Array = (self.overlap > 0) & (self.overlap >= least_overlap * self.voxels)
        return found


@dataclass(frozen=True)
class Scores:
    """What one predicted mask is worth; a number that is undefined is NaN.

    Attributes
    ----------
    dice : foreground Dice; undefined without a lesion (challenge2024).
    fpv_ml : volume of predicted components that touch no lesion.
    fnv_ml : volume of lesions that no prediction touches; undefined without a lesion (challenge2024).
    sensitivity : found lesions / lesions; undefined without a lesion.
    precision : predicted components that touch a lesion / predicted components; undefined without a prediction.
    false_positives : number of predicted components that touch no lesion.
    tmtv_error_ml : total metabolic tumour volume of the prediction less that of the truth.
    volume_error : that difference / the true volume; undefined without a lesion.
    surface_dice : share of both surfaces that lies within the tolerance of the other; undefined without a lesion, or
        when it was not asked for.
    truth_ml, prediction_ml : volumes of the masks.
    lesions : number of lesions.
    """

    dice: float
    fpv_ml: float
    fnv_ml: float
    sensitivity: float
    precision: float
    false_positives: float
    tmtv_error_ml: float
    volume_error: float
    surface_dice: float
    truth_ml: float
    prediction_ml: float
    lesions: float

    def row(self) -> dict[str, float]:
        """Column to number, in the order above."""
        return asdict(self)


def measure(
    truth: Array,
    prediction: Array,
    spacing_mm: Sequence[float],
    surface_mm: float | None = None,
    least_overlap: float = 0.0,
) -> Scores:
    """Every number of a case.

    Parameters
    ----------
    truth, prediction : (z, y, x) masks on one grid, of any type; what is not 0 is inside.
    spacing_mm : (z, y, x) of the grid.
    surface_mm : tolerance of the surface Dice; None leaves it out.
    least_overlap : fraction of a lesion, 0 to 1, that the prediction must cover for the lesion to count as found in
        `sensitivity`. 0 asks for one voxel, as FNV does.

    Raises
    ------
    MissingPackageError : the extra `evaluate` is not installed.
    """
    truth, prediction = _boxed(truth, prediction)
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    counts = confusion(truth, prediction)
    truth_ml = (counts.true_positive + counts.false_negative) * voxel_ml
    prediction_ml = (counts.true_positive + counts.false_positive) * voxel_ml
    # One after the other, so that the labels of one mask alone are held.
    lesions, found, missed = _counted(components(truth, prediction), least_overlap)
    marks, _, wrong = _counted(components(prediction, truth), least_overlap)
    untouched = len(wrong)
    return Scores(
        dice=counts.dice if lesions else UNDEFINED,
        fpv_ml=float(wrong.sum()) * voxel_ml,
        fnv_ml=float(missed.sum()) * voxel_ml if lesions else UNDEFINED,
        sensitivity=found / lesions if lesions else UNDEFINED,
        precision=(marks - untouched) / marks if marks else UNDEFINED,
        false_positives=float(untouched),
        tmtv_error_ml=prediction_ml - truth_ml,
        volume_error=(prediction_ml - truth_ml) / truth_ml if lesions else UNDEFINED,
        surface_dice=surface_dice(truth, prediction, spacing_mm, surface_mm)
        if lesions and surface_mm is not None
        else UNDEFINED,
        truth_ml=truth_ml,
        prediction_ml=prediction_ml,
        lesions=float(lesions),
    )


def _counted(parts: Components, least_overlap: float) -> tuple[int, int, Array]:
    """Number of components, number found, and the sizes in voxels of those untouched."""
    return len(parts.voxels), int(parts.found(least_overlap).sum()), parts.voxels[parts.untouched]


def confusion(truth: Array, prediction: Array) -> Confusion:
    """Voxels of two (z, y, x) masks on which they agree and differ.

    Raises
    ------
    MissingPackageError : grand-challenge-metrics is not installed.
    """
    try:
        from grand_challenge_metrics.stats import calculate_confusion_matrix
    except ImportError as error:
        raise MissingPackageError("evaluation", "evaluate") from error
    truth, prediction = np.asarray(truth, bool), np.asarray(prediction, bool)
    # It goes over its input for every entry, so it gets only the voxels that are in a mask. Its Dice is float32 and
    # warns of 0/0, so Dice is taken from its counts.
    either = truth | prediction
    matrix = calculate_confusion_matrix(truth[either], prediction[either], [0, 1])
    return Confusion(int(matrix[1, 1]), int(matrix[0, 1]), int(matrix[1, 0]))


def components(mask: Array, other: Array) -> Components:
    """Label a (z, y, x) mask, and count each component's voxels and those that the other mask has, in one pass.

    Raises
    ------
    MissingPackageError : connected-components-3d is not installed.
    """
    try:
        import cc3d
    except ImportError as error:
        raise MissingPackageError("evaluation", "evaluate") from error
    mask, other = np.asarray(mask, bool), np.asarray(other, bool)
    labels, count = cc3d.connected_components(mask, connectivity=NEIGHBOURS, return_N=True)
    inside, touches = labels[mask], other[mask]
    voxels, overlap = (
        np.bincount(found, minlength=count + 1)[1:].astype(np.int64) for found in (inside, inside[touches])
    )
    return Components(labels, voxels, overlap)


def surface_dice(truth: Array, prediction: Array, spacing_mm: Sequence[float], tolerance_mm: float) -> float:
    """Share of both masks' surface voxels that lie within a tolerance of the other's surface.

    A surface voxel has a face towards a voxel outside its mask, or towards the image's border; distances are between
    voxel centres (Nikolov et al. 2018, doi:10.2196/26151, with voxels in place of surface elements).

    Parameters
    ----------
    truth, prediction : (z, y, x) masks on one grid.
    spacing_mm : (z, y, x) of the grid.
    tolerance_mm : not negative.

    Returns
    -------
    0 when one mask is empty, NaN when both are.
    """
    from scipy.spatial import cKDTree

    surfaces = [np.argwhere(_surface(mask.astype(bool))) * np.asarray(spacing_mm) for mask in (truth, prediction)]
    total = sum(map(len, surfaces))
    if not all(map(len, surfaces)):
        return 0.0 if total else UNDEFINED
    near = 0
    for here, there in (surfaces, surfaces[::-1]):
        distance, _ = cKDTree(there).query(here, distance_upper_bound=tolerance_mm + ROUNDING_MM)
        near += int(np.isfinite(distance).sum())
    return near / total


def _surface(mask: Array) -> Array:
    """(z, y, x) bool: voxels with a face towards the outside."""
    inside = mask.copy()
    padded = np.pad(mask, 1)
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return mask & ~inside


def _boxed(truth: Array, prediction: Array) -> tuple[Array, Array]:
    """Both masks as bool, cut to the box that holds them: most of a body is neither."""
    truth, prediction = np.asarray(truth, bool), np.asarray(prediction, bool)
    either = truth | prediction
    box: tuple[slice, ...] = ()
    for axis in range(3):
        inside = np.flatnonzero(either[box].any(axis=tuple({0, 1, 2} - {axis})))
        box += (slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0),)
    return np.ascontiguousarray(truth[box]), np.ascontiguousarray(prediction[box])
