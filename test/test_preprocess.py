"""Intensity windows, the working grid, the body, padding, and coarser voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.preprocess import (
    WORKING_SPACING_MM,
    Window,
    between_means,
    body_mask,
    fullest,
    means,
    pad_to,
    prepare,
    working_geometry,
)
from l2snet.volume import Geometry, Volume

Phantom = Callable[..., Case]
Reorder = Callable[[Volume], Volume]

TILTED = tuple(tuple(row) for row in Rotation.from_euler("xyz", [10, 5, 20], degrees=True).as_matrix()[:, ::-1])
# With it, a block of 4 x 4 x 4 voxels has 1 ml.
BLOCK_OF_ONE_ML = 1 / 64


# --- windows ---


@pytest.mark.parametrize(
    ("window", "values", "expected"),
    [
        (Window(0.0, 10.0), [-5, 0, 2.5, 10, 20], [0, 0, 0.25, 1, 1]),
        (Window(0.0, 35.0, -1.0, 1.0), [-1, 0, 17.5, 35, 50], [-1, -1, 0, 1, 1]),
        (Window(-100.0, 250.0), [-1024, -100, 75, 250, 3071], [0, 0, 0.5, 1, 1]),
        (Window(0.0, 1.0, 1.0, 0.0), [-1, 0, 0.25, 1, 2], [1, 1, 0.75, 0, 0]),
    ],
)
def test_window(window: Window, values: list[float], expected: list[float]):
    array = np.array(values, np.float32)
    out = window(array)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_array_equal(array, np.array(values, np.float32))


def test_window_of_integers_is_not_rounded():
    np.testing.assert_allclose(Window(-100.0, 250.0)(np.array([75, 76], np.int16)), [0.5, 176 / 350], atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (np.nan, 1.0)])
def test_an_empty_window_is_refused(low: float, high: float):
    with pytest.raises(ValueError, match="is empty"):
        Window(low, high)


# --- working grid ---


@pytest.mark.parametrize("spacing_mm", [WORKING_SPACING_MM, (3.0, 2.03642, 2.03642), (3.014, 2.027, 2.045)])
def test_a_pet_on_the_working_grid_keeps_its_voxels(reorder: Reorder, spacing_mm: tuple[float, float, float]):
    grid = Geometry((4, 5, 6), spacing_mm, (-10.0, 20.0, -700.0))
    stored = reorder(Volume(np.zeros(grid.size), grid)).geometry
    assert working_geometry(stored) == stored.canonical()
    assert working_geometry(stored).matches(grid)


@pytest.mark.parametrize(
    "grid",
    [
        Geometry((4, 5, 6), (3.0, 2.05, 2.05)),  # 0.7 % off
        Geometry((4, 5, 6), (2.0, 2.036, 2.036)),
        Geometry((14, 15, 16), (1.0, 0.9, 0.9)),
        Geometry((4, 5, 6), WORKING_SPACING_MM, direction=TILTED),
    ],
    ids=["nearly", "thin slices", "fine", "oblique"],
)
def test_any_other_pet_is_covered_by_an_aligned_working_grid(reorder: Reorder, grid: Geometry):
    stored = reorder(Volume(np.zeros(grid.size), grid)).geometry
    working = working_geometry(stored)
    assert working.spacing_mm == WORKING_SPACING_MM
    assert working.direction == Geometry((1, 1, 1)).direction
    slack = 2e-3 * np.array(WORKING_SPACING_MM[::-1])
    assert (stored.corners_mm() >= working.corners_mm().min(axis=0) - slack).all()
    assert (stored.corners_mm() <= working.corners_mm().max(axis=0) + slack).all()


# --- body ---


def boxes(shape: tuple[int, int, int], *ranges: tuple[tuple[int, int], ...]) -> np.ndarray:
    """1 inside the given (first, end) ranges of z, y and x, 0 elsewhere."""
    array = np.zeros(shape, np.float32)
    for box in ranges:
        array[tuple(slice(*r) for r in box)] = 1.0
    return array


BODY = ((16, 32), (16, 32), (20, 40))  # 4 x 4 x 5 blocks = 80 ml
BODY_AND_MARGIN = ((12, 36), (12, 36), (16, 44))  # one block more on every side
SHAPE = (48, 48, 100)


def test_body_is_the_warm_blocks_and_one_more():
    mask = body_mask(boxes(SHAPE, BODY), BLOCK_OF_ONE_ML)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, boxes(SHAPE, BODY_AND_MARGIN) == 1)


def test_a_warm_ellipsoid_is_found_with_a_margin_of_one_to_two_blocks():
    radii = (20, 14, 17)
    z, y, x = (np.indices((56, 50, 54)) - np.array([27, 25, 26])[:, None, None, None]) / np.array(radii).reshape(
        3, 1, 1, 1
    )
    body = z**2 + y**2 + x**2 < 1
    mask = body_mask(body.astype(np.float32), BLOCK_OF_ONE_ML)
    assert mask[body].all()
    # A block's voxels are at most 7 voxels from one of its neighbour's: nothing beyond is body.
    assert not mask[~ndimage.binary_dilation(body, np.ones((15, 15, 15)))].any()
    # Blocks that lie inside entirely are warm: 4 voxels around each of them are body.
    inner = ndimage.binary_erosion(body, np.ones((7, 7, 7)))
    assert mask[ndimage.binary_dilation(inner, np.ones((9, 9, 9)))].all()


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 18, 19), (5, 6, 70)])
def test_sizes_need_not_be_multiples_of_a_block(shape: tuple[int, int, int]):
    assert body_mask(np.ones(shape, np.float32), 1.0).all()
    assert body_mask(np.ones(shape, np.float32), 1.0).shape == shape


@pytest.mark.parametrize("end", [41, 42, 44])
def test_a_rest_of_a_block_at_the_end_is_found(end: int):
    # SUV 0.3 in the last voxels alone: their block goes on as it ends, and is not diluted below SUV 0.1 with air.
    suv = 0.3 * boxes((44, 44, end), ((0, 44), (0, 44), (40, end)))
    expected = boxes((44, 44, end), ((0, 44), (0, 44), (36, end)))
    np.testing.assert_array_equal(body_mask(suv, 1.0), expected == 1)


def test_a_hot_marker_in_air_is_ignored():
    suv = boxes(SHAPE, BODY)
    expected = body_mask(suv, BLOCK_OF_ONE_ML)
    suv[4, 4, 90] = 500.0
    np.testing.assert_array_equal(body_mask(suv, BLOCK_OF_ONE_ML), expected)


def test_noise_of_air_is_ignored():
    # A sixth of the voxels is above SUV 0.1, but no block's mean is.
    noise = np.random.default_rng(0).uniform(0, 0.12, SHAPE).astype(np.float32)
    assert (noise > 0.1).mean() > 0.1
    suv = boxes(SHAPE, BODY)
    np.testing.assert_array_equal(body_mask(suv + noise, BLOCK_OF_ONE_ML), boxes(SHAPE, BODY_AND_MARGIN) == 1)
    assert not body_mask(noise, BLOCK_OF_ONE_ML).any()


@pytest.mark.parametrize(
    ("arm", "kept"),
    [
        (((20, 40), (20, 40), (64, 72)), True),  # 5 x 5 x 2 blocks = 50 ml
        (((8, 36), (8, 36), (64, 68)), False),  # 7 x 7 x 1 blocks = 49 ml
    ],
)
def test_a_separate_piece_is_body_from_50_ml_on(arm: tuple[tuple[int, int], ...], kept: bool):
    mask = body_mask(boxes(SHAPE, BODY, arm), BLOCK_OF_ONE_ML)
    margin = tuple((first - 4, end + 4) for first, end in arm)
    expected = boxes(SHAPE, BODY_AND_MARGIN, margin) if kept else boxes(SHAPE, BODY_AND_MARGIN)
    np.testing.assert_array_equal(mask, expected == 1)


def test_blocks_that_touch_at_a_corner_are_one_piece():
    torso = ((8, 24), (8, 24), (8, 24))  # 4 x 4 x 4 blocks = 64 ml
    touching, apart = ((24, 28), (24, 28), (24, 64)), ((28, 32), (28, 32), (28, 68))  # 10 ml
    assert body_mask(boxes(SHAPE, torso, touching), BLOCK_OF_ONE_ML)[26, 26, 60]
    assert not body_mask(boxes(SHAPE, torso, apart), BLOCK_OF_ONE_ML)[30, 30, 60]


def test_where_all_pieces_are_small_the_largest_is_body():
    two_blocks, one_block = ((8, 12), (8, 12), (8, 16)), ((8, 12), (8, 12), (40, 44))
    mask = body_mask(boxes(SHAPE, two_blocks, one_block), BLOCK_OF_ONE_ML)
    np.testing.assert_array_equal(mask, boxes(SHAPE, ((4, 16), (4, 16), (4, 20))) == 1)


def test_a_cold_hollow_belongs_to_the_body():
    suv = boxes(SHAPE, ((4, 44), (4, 44), (20, 80)))
    suv[12:36, 12:36, 32:68] = 0.0  # 6 x 6 x 9 blocks
    np.testing.assert_array_equal(body_mask(suv, BLOCK_OF_ONE_ML), boxes(SHAPE, ((0, 48), (0, 48), (16, 84))) == 1)


# --- prepare ---


def test_the_case_is_cut_to_the_body():
    grid = Geometry(SHAPE, WORKING_SPACING_MM, (-30.0, 20.0, -700.0))
    suv, hu = boxes(SHAPE, BODY), np.random.default_rng(0).normal(0, 300, SHAPE).astype(np.float32)
    body = prepare(Case("name", Volume(suv, grid), Volume(hu, grid)))
    assert body.ct is not None
    assert body.suv.dtype == body.ct.dtype == np.float32
    (z, z_end), (y, y_end), (x, x_end) = BODY_AND_MARGIN
    assert body.geometry == grid.crop((z, y, x), (z_end - z, y_end - y, x_end - x))
    assert body.mask.all()
    np.testing.assert_array_equal(body.suv, suv[z:z_end, y:y_end, x:x_end])
    np.testing.assert_array_equal(body.ct, hu[z:z_end, y:y_end, x:x_end])


def test_the_mask_touches_every_face_of_the_box(phantom: Phantom):
    body = prepare(phantom(Geometry((60, 68, 76), WORKING_SPACING_MM)))
    assert body.suv.size < 60 * 68 * 76
    assert not body.mask.all()
    for axis in range(3):
        touched = body.mask.any(axis=tuple(a for a in range(3) if a != axis))
        assert touched[0]
        assert touched[-1]


def reordered(case: Case, reorder: Reorder) -> Case:
    assert case.ct is not None
    return Case(case.name, reorder(case.suv), reorder(case.ct))


def test_the_order_of_the_axes_changes_nothing(phantom: Phantom, reorder: Reorder):
    expected, body = prepare(phantom()), prepare(reordered(phantom(), reorder))
    np.testing.assert_array_equal(body.suv, expected.suv)
    np.testing.assert_array_equal(body.ct, expected.ct)
    np.testing.assert_array_equal(body.mask, expected.mask)
    assert body.geometry.matches(expected.geometry)


@pytest.mark.parametrize("direction", [Geometry((1, 1, 1)).direction, TILTED], ids=["aligned", "oblique"])
def test_the_order_of_the_axes_changes_nothing_when_resampled(
    phantom: Phantom, reorder: Reorder, direction: tuple[tuple[float, ...], ...]
):
    case = phantom(Geometry((20, 22, 24), (4.0, 3.5, 3.0), (-30.0, 20.0, -700.0), direction))
    expected, body = prepare(case), prepare(reordered(case, reorder))
    assert body.geometry.matches(expected.geometry)
    np.testing.assert_array_equal(body.mask, expected.mask)
    np.testing.assert_allclose(body.suv, expected.suv, atol=1e-4)
    np.testing.assert_allclose(body.ct, expected.ct, atol=0.1)


def test_without_ct_the_body_is_the_same(phantom: Phantom):
    with_ct, without = prepare(phantom()), prepare(phantom(with_ct=False))
    assert without.ct is None
    np.testing.assert_array_equal(without.suv, with_ct.suv)
    np.testing.assert_array_equal(without.mask, with_ct.mask)


def test_whole_grid_keeps_everything(phantom: Phantom):
    case = phantom()
    body = prepare(case, whole_grid=True)
    assert body.mask.all()
    assert body.geometry == case.geometry
    np.testing.assert_array_equal(body.suv, case.suv.array)


def test_beyond_an_oblique_pet_lies_air(phantom: Phantom):
    case = phantom(Geometry((20, 22, 24), WORKING_SPACING_MM, direction=TILTED))
    body = prepare(case, whole_grid=True)
    assert body.ct is not None
    assert body.geometry == working_geometry(case.geometry)
    assert body.suv[0, 0, 0] == 0.0
    assert body.ct[0, 0, 0] == -1024.0
    assert body.ct.max() == pytest.approx(40.0, abs=1e-3)


def test_another_spacing_is_taken_over(phantom: Phantom):
    body = prepare(phantom(), spacing_mm=(6.0, 4.0, 4.0))
    assert body.geometry.spacing_mm == (6.0, 4.0, 4.0)


def test_a_pet_without_body_is_refused(phantom: Phantom):
    case = phantom()
    cold = np.full(case.geometry.size, 0.01, np.float32)
    cold[12, 12, 12] = 0.5  # enough to be SUV, but no body
    with pytest.raises(InputError, match=r"no body was found.*SUV 0\.1"):
        prepare(replace(case, suv=case.suv.with_array(cold)))


# --- padding ---


def test_pad_to_pads_evenly_and_the_rest_at_the_end():
    array = np.ones((2, 3, 4), np.float32)
    padded, undo = pad_to(array, (6, 6), -7.0)
    # 3 to 6: one before, two after; 4 to 6: one and one; the first axis is left alone.
    expected = np.full((2, 6, 6), -7.0)
    expected[:, 1:4, 1:5] = 1
    np.testing.assert_array_equal(padded, expected)
    assert undo == (slice(None), slice(1, 4), slice(1, 5))


@pytest.mark.parametrize("size", [(5, 5, 5), (4, 9, 12), (1, 1, 1), (9, 1, 4)])
def test_pad_to_is_undone(size: tuple[int, int, int]):
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    padded, undo = pad_to(array, size, 0)
    assert padded.shape == tuple(max(n, wanted) for n, wanted in zip(array.shape, size, strict=True))
    assert padded.dtype == array.dtype
    np.testing.assert_array_equal(padded[undo], array)


def test_an_array_that_is_large_enough_is_not_copied():
    array = np.zeros((3, 4))
    padded, undo = pad_to(array, (3, 2), 0.0)
    assert padded is array
    assert padded[undo].shape == (3, 4)


# --- coarser voxels ---


def test_means_by_hand():
    array = np.array([[1, 2, 3, 4, 5], [3, 4, 5, 6, 9]], np.int16)
    # The fifth column is a short block: it repeats itself.
    np.testing.assert_array_equal(means(array, (2, 2)), [[2.5, 4.5, 7.0]])
    np.testing.assert_array_equal(means(array[None], (1, 2)), [[[1.5, 3.5, 5.0], [3.5, 5.5, 9.0]]])
    assert means(array, (2, 2)).dtype == np.float32
    same = np.ones((2, 3), np.float32)
    assert means(same, (1, 1)) is same


def test_fullest_by_hand():
    """A block of two by two: one filled by half, one by less but more than those beside it, one by less than those."""
    mask = np.zeros((2, 10), np.uint8)
    mask[:, 2] = 1
    mask[0, 4] = 1
    mask[0, 8] = 1
    np.testing.assert_array_equal(fullest(mask, (2, 2)), [[False, True, False, False, True]])
    np.testing.assert_array_equal(fullest(mask, (1, 1)), mask > 0)
    assert not fullest(np.zeros((4, 4)), (2, 2)).any()


@pytest.mark.parametrize("diameter_mm", [5, 8, 12])
def test_no_sphere_is_too_small_for_fullest(diameter_mm: float):
    """Wherever it lies on blocks of 6 mm, a sphere has one; half a block alone would lose the small ones."""
    rng = np.random.default_rng(0)
    stride, spacing = (2, 3, 3), np.array([3.0, 2.036, 2.036])
    at = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 36, 36)), indexing="ij"), axis=-1) * spacing
    by_half = 0
    for _ in range(20):
        ball = np.linalg.norm(at - (np.array([36.0, 36.0, 36.0]) + rng.uniform(0, 6, 3)), axis=-1) < diameter_mm / 2
        blocks = fullest(ball, stride)
        assert ndimage.label(blocks, np.ones((3, 3, 3)))[1] == 1
        np.testing.assert_array_less(0, means(ball, stride)[blocks])
        by_half += bool((means(ball, stride) >= 0.5).any())
    assert by_half == 20 if diameter_mm == 12 else by_half < 20


def test_between_means_by_hand():
    """Blocks of two: their centres lie half a voxel beside, so that values mix three to one; held at the ends."""
    back = between_means(np.array([[0.0, 4.0, 8.0]], np.float32), (1, 2), (1, 6))
    np.testing.assert_allclose(back, [[0, 1, 3, 5, 7, 8]])
    assert back.dtype == np.float32
    np.testing.assert_allclose(between_means(np.array([0.0, 4.0], np.float32), (2,), (3,)), [0, 1, 3])


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (3, 1, 4)])
def test_a_ramp_comes_back_from_its_means(stride: tuple[int, int, int]):
    size = (12, 16, 20)
    ramp = np.add.outer(np.add.outer(np.arange(12.0), 2 * np.arange(16.0)), -np.arange(20.0))
    back = between_means(means(ramp, stride), stride, size)
    within = tuple(slice(step // 2, n - step // 2) for n, step in zip(size, stride, strict=True))
    np.testing.assert_allclose(back[within], ramp[within], atol=1e-5)
