"""The challenge's numbers, by hand and against a naive definition."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from l2snet.evaluation.metrics import dice, false_negative_ml, false_positive_ml

SHAPE = (4, 5, 6)
EMPTY = np.zeros(SHAPE, np.uint8)


def mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    array = EMPTY.copy()
    for voxel in voxels:
        array[voxel] = 1
    return array


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (EMPTY, EMPTY, 1.0),
        (mask((0, 0, 0)), EMPTY, 0.0),
        (EMPTY, mask((0, 0, 0)), 0.0),
        (mask((0, 0, 0)), mask((0, 0, 0)), 1.0),
        (mask((0, 0, 0)), mask((0, 0, 1)), 0.0),
        (mask((0, 0, 0), (0, 0, 1)), mask((0, 0, 1)), 2 / 3),  # 2 x 1 / (2 + 1)
        (mask((0, 0, 0), (0, 0, 1), (0, 0, 2)), mask((0, 0, 2), (0, 0, 3)), 2 / 5),  # 2 x 1 / (3 + 2)
    ],
    ids=["both empty", "no prediction", "no truth", "same", "apart", "2/3", "2/5"],
)
def test_dice(truth: np.ndarray, prediction: np.ndarray, expected: float):
    assert dice(truth, prediction) == pytest.approx(expected)
    assert dice(prediction, truth) == pytest.approx(expected)


# One predicted component of 2 voxels touches the truth, one of 3 does not; one true component of 1 voxel is missed.
TRUTH = mask((0, 0, 0), (0, 0, 1), (3, 4, 5))
PREDICTION = mask((0, 0, 1), (0, 0, 2), (2, 0, 0), (2, 0, 1), (2, 0, 2))


@pytest.mark.parametrize("voxel_ml", [1.0, 3.0 * 2.036 * 2.036 / 1000, 0.5])
def test_volumes_of_untouched_components(voxel_ml: float):
    assert false_positive_ml(TRUTH, PREDICTION, voxel_ml) == pytest.approx(3 * voxel_ml)
    assert false_negative_ml(TRUTH, PREDICTION, voxel_ml) == pytest.approx(1 * voxel_ml)


def test_volumes_of_empty_masks():
    assert false_positive_ml(EMPTY, EMPTY, 1.0) == 0
    assert false_negative_ml(EMPTY, EMPTY, 1.0) == 0
    # Everything is false: 5 predicted voxels without truth, 3 true ones without prediction.
    assert false_positive_ml(EMPTY, PREDICTION, 2.0) == 10
    assert false_negative_ml(EMPTY, PREDICTION, 2.0) == 0
    assert false_positive_ml(TRUTH, EMPTY, 2.0) == 0
    assert false_negative_ml(TRUTH, EMPTY, 2.0) == 6


def test_full_masks():
    full = np.ones(SHAPE, bool)
    assert dice(full, full) == 1
    assert false_positive_ml(full, full, 1.0) == 0
    assert false_positive_ml(EMPTY, full, 1.0) == 4 * 5 * 6
    assert false_negative_ml(full, mask((1, 1, 1)), 1.0) == 0


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
    assert false_positive_ml(one, two, 1.0) == untouched
    assert false_negative_ml(two, one, 1.0) == untouched


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_any_type_of_mask_will_do(dtype: type):
    truth, prediction = TRUTH.astype(dtype), PREDICTION.astype(dtype)
    assert dice(truth, prediction) == pytest.approx(2 / 8)
    assert false_positive_ml(truth, prediction, 1.0) == 3
    assert false_negative_ml(truth, prediction, 1.0) == 1


def naive_dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    a, b = (set(map(tuple, np.argwhere(m))) for m in (truth, prediction))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


def naive_untouched(subject: np.ndarray, other: np.ndarray) -> int:
    """Voxels of the subject from which no walk over its faces and edges reaches a voxel of the other."""
    left, there = (set(map(tuple, np.argwhere(m).tolist())) for m in (subject, other))
    steps = [step for step in product((-1, 0, 1), repeat=3) if 1 <= np.abs(step).sum() <= 2]
    count = 0
    while left:
        component, border = set(), [left.pop()]
        while border:
            voxel = border.pop()
            component.add(voxel)
            near = {tuple(v + s for v, s in zip(voxel, step, strict=True)) for step in steps} & left
            left -= near
            border.extend(near)
        count += 0 if component & there else len(component)
    return count


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5))
    sparse = st.sampled_from([False, False, False, True])
    first, second = (draw(arrays(bool, shape, elements=sparse, fill=st.nothing())) for _ in range(2))
    return first, second


@given(two_masks(), st.sampled_from([0.001, 0.0124, 1.0]))
def test_metrics_are_the_naive_definition(masks: tuple[np.ndarray, np.ndarray], voxel_ml: float):
    truth, prediction = masks
    assert dice(truth, prediction) == pytest.approx(naive_dice(truth, prediction))
    assert false_positive_ml(truth, prediction, voxel_ml) == pytest.approx(
        naive_untouched(prediction, truth) * voxel_ml
    )
    assert false_negative_ml(truth, prediction, voxel_ml) == pytest.approx(
        naive_untouched(truth, prediction) * voxel_ml
    )
