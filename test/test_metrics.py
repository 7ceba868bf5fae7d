"""The numbers of a table, by hand and against a naive definition."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from l2snet.errors import MissingPackageError
from l2snet.evaluation.compare import agreement
from l2snet.evaluation.metrics import Confusion, _boxed, components, confusion, measure, surface_dice

SHAPE = (4, 5, 6)
EMPTY = np.zeros(SHAPE, np.uint8)
FULL = np.ones(SHAPE, np.uint8)
CUBE_MM = (10.0, 10.0, 10.0)  # a voxel of 1 ml


def mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    array = EMPTY.copy()
    for voxel in voxels:
        array[voxel] = 1
    return array


def nan_or(value: float) -> object:
    return pytest.approx(value, nan_ok=True)


NAN = float("nan")


@pytest.mark.parametrize(
    ("truth", "prediction", "expected", "same"),
    [
        (EMPTY, EMPTY, NAN, 1.0),
        (mask((0, 0, 0)), EMPTY, 0.0, 0.0),
        (EMPTY, mask((0, 0, 0)), 0.0, 0.0),
        (mask((0, 0, 0)), mask((0, 0, 0)), 1.0, 1.0),
        (FULL, FULL, 1.0, 1.0),
        (mask((0, 0, 0)), mask((0, 0, 1)), 0.0, 0.0),
        (mask((0, 0, 0), (0, 0, 1)), mask((0, 0, 1)), 2 / 3, 2 / 3),  # 2 x 1 / (2 + 1)
        (mask((0, 0, 0), (0, 0, 1), (0, 0, 2)), mask((0, 0, 2), (0, 0, 3)), 2 / 5, 2 / 5),  # 2 x 1 / (3 + 2)
    ],
    ids=["both empty", "no prediction", "no truth", "same", "full", "apart", "2/3", "2/5"],
)
def test_dice(truth: np.ndarray, prediction: np.ndarray, expected: float, same: float):
    assert confusion(truth, prediction).dice == nan_or(expected)
    assert confusion(prediction, truth).dice == nan_or(expected)
    assert agreement(truth, prediction) == pytest.approx(same)


def test_confusion_counts_voxels():
    # Truth has 3 voxels, the prediction 2, one of them true.
    found = confusion(mask((0, 0, 0), (0, 0, 1), (0, 0, 2)), mask((0, 0, 2), (3, 3, 3)))
    assert found == Confusion(true_positive=1, false_positive=1, false_negative=2)


# Two lesions, of 2 voxels and of 1. Three predicted components: of 2 voxels, which touches the first lesion; of 3 and
# of 1, which touch none. The second lesion is missed.
TRUTH = mask((0, 0, 0), (0, 0, 1), (3, 4, 5))
PREDICTION = mask((0, 0, 1), (0, 0, 2), (2, 0, 0), (2, 0, 1), (2, 0, 2), (0, 4, 0))


@pytest.mark.parametrize(
    ("spacing_mm", "voxel_ml"),
    [(CUBE_MM, 1.0), ((3.0, 2.036, 2.036), 3.0 * 2.036 * 2.036 / 1000), ((5.0, 1.0, 4.0), 0.02)],
    ids=["1 ml", "autoPET", "anisotropic"],
)
def test_every_number_of_a_case(spacing_mm: tuple[float, float, float], voxel_ml: float):
    assert measure(TRUTH, PREDICTION, spacing_mm).row() == {
        "dice": pytest.approx(2 * 1 / (3 + 6)),
        "fpv_ml": pytest.approx((3 + 1) * voxel_ml),
        "fnv_ml": pytest.approx(1 * voxel_ml),
        "sensitivity": 1 / 2,
        "precision": pytest.approx(1 / 3),
        "false_positives": 2,
        "tmtv_error_ml": pytest.approx((6 - 3) * voxel_ml),
        "volume_error": pytest.approx((6 - 3) / 3),
        "surface_dice": nan_or(NAN),  # not asked for
        "truth_ml": pytest.approx(3 * voxel_ml),
        "prediction_ml": pytest.approx(6 * voxel_ml),
        "lesions": 2,
    }


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        # Without a lesion, Dice, FNV, lesion sensitivity and relative error are undefined; without a prediction,
        # precision is.
        (EMPTY, EMPTY, (NAN, 0, NAN, NAN, NAN, 0, 0, NAN, NAN)),
        (EMPTY, PREDICTION, (NAN, 6, NAN, NAN, 0, 3, 6, NAN, NAN)),
        (TRUTH, EMPTY, (0, 0, 3, 0, NAN, 0, -3, -1, 0)),
        (TRUTH, TRUTH, (1, 0, 0, 1, 1, 0, 0, 0, 1)),
        (FULL, FULL, (1, 0, 0, 1, 1, 0, 0, 0, 1)),
        (EMPTY, FULL, (NAN, 120, NAN, NAN, 0, 1, 120, NAN, NAN)),
        # One voxel of 120: Dice 2 / 121; every surface voxel of the full mask but itself and its three neighbours is
        # more than 10 mm away. The 4 x 5 x 6 block has 120 - 2 x 3 x 4 = 96 surface voxels: (1 + 4) / (1 + 96).
        (FULL, mask((0, 0, 0)), (2 / 121, 0, 0, 1, 1, 0, -119, -119 / 120, 5 / 97)),
        # Both lesions, and nothing else, in one: 2 x 3 / (3 + 120).
        (TRUTH, FULL, (6 / 123, 0, 0, 1, 1, 0, 117, 39, None)),
    ],
    ids=["both empty", "no truth", "no prediction", "same", "both full", "full, no truth", "one of all", "all"],
)
def test_degenerate_cases(truth: np.ndarray, prediction: np.ndarray, expected: tuple[float | None, ...]):
    found = list(measure(truth, prediction, CUBE_MM, surface_mm=10.0).row().values())
    for value, wanted in zip(found, expected, strict=False):
        assert wanted is None or value == nan_or(wanted)


def test_the_prediction_may_have_to_cover_a_part_of_a_lesion():
    """One voxel of a lesion of 4 is found; the challenge's FNV is as before."""
    truth = mask((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3))
    for least, sensitivity in ((0.0, 1), (0.25, 1), (0.26, 0), (1.0, 0)):
        scores = measure(truth, mask((0, 0, 3)), CUBE_MM, least_overlap=least)
        assert (scores.sensitivity, scores.fnv_ml, scores.precision) == (sensitivity, 0, 1)
    assert measure(truth, truth, CUBE_MM, least_overlap=1.0).sensitivity == 1


@pytest.mark.parametrize(
    ("neighbour", "untouched"),
    [
        ((2, 2, 3), 0),  # a face: one component, which touches
        ((2, 3, 3), 0),  # an edge: too
        ((3, 3, 2), 0),
        ((3, 3, 3), 1),  # a corner: two components by 18-connectivity (one by 26), the second is untouched
    ],
    ids=["face", "edge", "other edge", "corner"],
)
def test_components_are_18_connected(neighbour: tuple[int, int, int], untouched: int):
    one, two = mask((2, 2, 2)), mask((2, 2, 2), neighbour)
    assert measure(one, two, CUBE_MM).fpv_ml == untouched
    assert measure(two, one, CUBE_MM).fnv_ml == untouched
    assert measure(two, one, CUBE_MM).lesions == 1 + untouched


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_type_and_order_of_mask_will_do(dtype: type, order: str):
    found = measure(TRUTH.astype(dtype, order=order), PREDICTION.astype(dtype, order=order), CUBE_MM)
    assert (found.dice, found.fpv_ml, found.fnv_ml) == (pytest.approx(2 / 9), 4, 1)


def test_each_component_has_its_own_counts():
    parts = components(PREDICTION, TRUTH)
    by_size = sorted(zip(parts.voxels.tolist(), parts.overlap.tolist(), strict=True))
    assert by_size == [(1, 0), (2, 1), (3, 0)]
    assert parts.voxels.dtype == parts.overlap.dtype == np.int64  # counts, not measures
    np.testing.assert_array_equal(parts.labels > 0, PREDICTION > 0)


def test_what_is_counted_is_the_smallest_box_around_both_masks():
    boxed = _boxed(mask((1, 2, 3), (1, 2, 4)), mask((2, 4, 3)))
    assert [array.shape for array in boxed] == [(2, 3, 2)] * 2  # z 1 to 2, y 2 to 4, x 3 to 4
    assert [np.argwhere(array).tolist() for array in boxed] == [[[0, 0, 0], [0, 0, 1]], [[1, 2, 0]]]
    assert [array.shape for array in _boxed(EMPTY, EMPTY)] == [(0, 0, 0)] * 2


@pytest.mark.parametrize(("count", "package"), [(confusion, "grand_challenge_metrics.stats"), (components, "cc3d")])
def test_without_its_packages_evaluation_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, count: Callable[..., object], package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError) as refused:
        count(TRUTH, PREDICTION)
    assert str(refused.value) == str(MissingPackageError("evaluation", "evaluate"))


def line(start: int, stop: int) -> np.ndarray:
    """Voxels start to stop along x; in a line one voxel thick, all are surface."""
    array = np.zeros((3, 3, 12), bool)
    array[1, 1, start:stop] = True
    return array


@pytest.mark.parametrize(
    ("spacing_mm", "tolerance_mm", "expected"),
    [
        # Truth is x = 2..5, prediction x = 4..9. On the other's surface lie 4 and 5, of both.
        ((1.0, 1.0, 1.0), 0.0, (2 + 2) / 10),
        ((1.0, 1.0, 1.0), 0.9, (2 + 2) / 10),
        ((1.0, 1.0, 1.0), 1.0, (3 + 3) / 10),  # 3 of the truth and 6 of the prediction are 1 mm away
        ((1.0, 1.0, 1.0), 2.0, (4 + 4) / 10),
        ((1.0, 1.0, 1.0), 4.0, 1.0),  # the furthest, x = 9, is 4 mm from x = 5
        ((1.0, 1.0, 2.036), 2.0, (2 + 2) / 10),  # a voxel along x is now 2.036 mm
        ((1.0, 1.0, 2.036), 2.036, (3 + 3) / 10),
        ((5.0, 5.0, 1.0), 1.0, (3 + 3) / 10),  # spacing across the line does not matter
    ],
)
def test_surface_dice_along_a_line(spacing_mm: tuple[float, float, float], tolerance_mm: float, expected: float):
    assert surface_dice(line(2, 6), line(4, 10), spacing_mm, tolerance_mm) == pytest.approx(expected)
    assert surface_dice(line(4, 10), line(2, 6), spacing_mm, tolerance_mm) == pytest.approx(expected)


def test_surface_dice_without_a_surface():
    assert math.isnan(surface_dice(EMPTY, EMPTY, CUBE_MM, 1.0))
    assert surface_dice(EMPTY, FULL, CUBE_MM, 1.0) == surface_dice(FULL, EMPTY, CUBE_MM, 1.0) == 0.0


def test_surface_dice_looks_at_the_surface_alone():
    """The middle of a block of 3 x 3 x 3 is not of its 26 surface voxels."""
    block = np.zeros((5, 5, 5), bool)
    block[1:4, 1:4, 1:4] = True
    centre = np.zeros_like(block)
    centre[2, 2, 2] = True
    # The surface is at least 1 mm from the centre, 6 of its voxels (the faces) just that.
    assert surface_dice(block, centre, (1, 1, 1), 0.0) == 0
    assert surface_dice(block, centre, (1, 1, 1), 1.0) == pytest.approx((6 + 1) / (26 + 1))


def naive_components(subject: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Sets of voxels that a walk over faces and edges reaches from one another."""
    left = set(map(tuple, np.argwhere(subject).tolist()))
    steps = [step for step in product((-1, 0, 1), repeat=3) if 1 <= np.abs(step).sum() <= 2]
    found = []
    while left:
        component, border = set(), [left.pop()]
        while border:
            voxel = border.pop()
            component.add(voxel)
            near = {tuple(v + s for v, s in zip(voxel, step, strict=True)) for step in steps} & left
            left -= near
            border.extend(near)
        found.append(component)
    return found


def naive_surface_dice(
    truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> float:
    surfaces = []
    for here in (truth, prediction):
        voxels = set(map(tuple, np.argwhere(here).tolist()))
        faces = [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)]
        surfaces.append(
            [
                v
                for v in voxels
                if any(tuple(a + b for a, b in zip(v, face, strict=True)) not in voxels for face in faces)
            ]
        )
    near = sum(
        any(math.dist(np.multiply(v, spacing), np.multiply(w, spacing)) <= tolerance + 1e-9 for w in there)
        for here, there in (surfaces, surfaces[::-1])
        for v in here
    )
    return near / sum(map(len, surfaces))


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
    sparse = st.sampled_from([False, False, False, True])
    first, second = (draw(arrays(bool, shape, elements=sparse, fill=st.nothing())) for _ in range(2))
    return first, second


@given(
    two_masks(),
    st.sampled_from([(1.0, 1.0, 1.0), (3.0, 2.036, 2.036), (0.5, 4.0, 1.5)]),
    st.sampled_from([0.0, 1.0, 2.036, 3.7]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_metrics_are_the_naive_definition(
    masks: tuple[np.ndarray, np.ndarray], spacing_mm: tuple[float, float, float], surface_mm: float, least: float
):
    truth, prediction = masks
    voxel_ml = math.prod(spacing_mm) / 1000
    true, predicted = (set(map(tuple, np.argwhere(m).tolist())) for m in masks)
    lesions, marks = naive_components(truth), naive_components(prediction)
    wrong = [mark for mark in marks if not mark & true]
    found = [lesion for lesion in lesions if lesion & predicted and len(lesion & predicted) / len(lesion) >= least]
    missed_ml = sum(len(lesion) for lesion in lesions if not lesion & predicted) * voxel_ml
    scores = measure(truth, prediction, spacing_mm, surface_mm, least)
    assert scores.lesions == len(lesions)
    assert scores.false_positives == len(wrong)
    assert scores.fpv_ml == pytest.approx(sum(map(len, wrong)) * voxel_ml)
    assert scores.precision == nan_or((len(marks) - len(wrong)) / len(marks) if marks else NAN)
    assert scores.tmtv_error_ml == pytest.approx((len(predicted) - len(true)) * voxel_ml)
    assert scores.truth_ml == pytest.approx(len(true) * voxel_ml)
    assert scores.prediction_ml == pytest.approx(len(predicted) * voxel_ml)
    if true:
        assert scores.dice == pytest.approx(2 * len(true & predicted) / (len(true) + len(predicted)))
        assert scores.fnv_ml == pytest.approx(missed_ml)
        assert scores.sensitivity == pytest.approx(len(found) / len(lesions))
        assert scores.volume_error == pytest.approx(len(predicted) / len(true) - 1)
        assert scores.surface_dice == pytest.approx(naive_surface_dice(truth, prediction, spacing_mm, surface_mm))
    else:
        undefined = (scores.dice, scores.fnv_ml, scores.sensitivity, scores.volume_error, scores.surface_dice)
        assert all(math.isnan(value) for value in undefined)
