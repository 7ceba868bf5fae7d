"""What holds for any grid, window and probability, by hypothesis; windows over a volume are in test_sliding_window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from l2snet.fuse import CONNECTIVITY, adaptive, components, cued
from l2snet.preprocess import Window
from l2snet.volume import Geometry, Volume, read_volume

SPACINGS = st.floats(0.1, 20.0)
SHARES = st.floats(0.0, 1.0, width=32)


@st.composite
def grids(draw: st.DrawFn, largest: int = 6) -> Geometry:
    """Any grid: oblique, or along the world axes; right- or left-handed; axes in any order."""
    degrees = draw(st.tuples(*[st.floats(-180.0, 180.0)] * 3) | st.tuples(*[st.sampled_from([0.0, 90.0, 180.0])] * 3))
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * draw(
        st.tuples(*[st.sampled_from([1.0, -1.0])] * 3)
    )
    return Geometry(
        draw(st.tuples(*[st.integers(1, largest)] * 3)),
        draw(st.tuples(*[SPACINGS] * 3)),
        draw(st.tuples(*[st.floats(-2000.0, 2000.0)] * 3)),
        tuple(tuple(float(c) for c in row) for row in matrix[:, draw(st.permutations(range(3)))]),
    )


def numbered(grid: Geometry) -> Volume:
    return Volume(np.arange(np.prod(grid.size), dtype=np.float32).reshape(grid.size), grid)


def indices(grid: Geometry) -> np.ndarray:
    return np.stack(np.indices(grid.size), axis=-1)


def stored_otherwise(grid: Geometry, order: tuple[int, ...], flips: tuple[bool, ...]) -> Geometry:
    """The grid of the same voxels with their axes in another order, and some of them in the other sense."""
    start = np.array([grid.size[axis] - 1 if flip else 0 for axis, flip in enumerate(flips)])
    matrix = np.array(grid.direction) * np.where(flips, -1, 1)
    return Geometry(
        tuple(grid.size[a] for a in order),
        tuple(grid.spacing_mm[a] for a in order),
        tuple(float(v) for v in grid.world(start)),
        tuple(tuple(float(c) for c in row) for row in matrix[:, order]),
    )


# --- geometry ---


@given(grids())
def test_canonical_axes_are_a_view_of_the_same_places(grid: Geometry):
    canonical = grid.canonical()
    # Every voxel carries its own position: as an array of (z, y, x, world) it must be that of the canonical grid.
    axes, flips = grid.canonical_axes()
    world = grid.world(indices(grid)).transpose(*axes, 3)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    np.testing.assert_allclose(canonical.world(indices(canonical)), world, atol=1e-6)
    assert canonical.canonical().matches(canonical)
    assert canonical.voxel_ml == pytest.approx(grid.voxel_ml)


@given(grids(), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_to_another_order_of_axes_and_back_no_value_changes(grid: Geometry, order: list[int], flips: tuple[bool, ...]):
    volume = numbered(grid)
    back = volume.to_grid(stored_otherwise(grid, tuple(order), flips), outside=-1.0).to_grid(grid, outside=-1.0)
    np.testing.assert_array_equal(back.array, volume.array)


@given(grids(), st.tuples(*[st.floats(0.5, 20.0)] * 3))
def test_a_cover_holds_the_whole_grid(grid: Geometry, spacing_mm: tuple[float, float, float]):
    cover = grid.axis_aligned_cover(spacing_mm)
    assert min(cover.covered(grid)) > 1 - 2e-3 or not grid.is_axis_aligned
    slack = 1e-3 * max(spacing_mm) + 1e-6
    assert (cover.corners_mm().min(axis=0) <= grid.corners_mm().min(axis=0) + slack).all()
    assert (cover.corners_mm().max(axis=0) >= grid.corners_mm().max(axis=0) - slack).all()


@given(grids(), st.floats(-1000.0, 1000.0), st.tuples(*[st.floats(3.0, 12.0)] * 3))
def test_resampling_keeps_a_constant_and_invents_no_value(grid: Geometry, level: float, spacing_mm: tuple[float, ...]):
    constant = Volume(np.full(grid.size, level, np.float32), grid)
    low, high = sorted((np.float32(level), np.float32(0.0)))
    moved = constant.to_grid(grid.axis_aligned_cover(spacing_mm), outside=0.0).array
    assert (moved >= low - 1e-3).all()
    assert (moved <= high + 1e-3).all()


@given(grids())
def test_a_grid_covers_itself_and_nothing_far_away(grid: Geometry):
    assert grid.covered(grid) == pytest.approx((1.0, 1.0, 1.0))
    along = np.array(grid.direction)[:, 0] * grid.spacing_mm[0] * grid.size[0]
    half, far = (
        Geometry(grid.size, grid.spacing_mm, tuple(map(float, grid.origin_mm + share * along)), grid.direction)
        for share in (0.5, 1.5)
    )
    assert half.covered(grid) == pytest.approx((0.5, 1.0, 1.0), abs=1e-6)
    assert far.covered(grid)[0] == 0.0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grids(), st.booleans(), st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]))
def test_our_metaimage_reader_agrees_with_itk(tmp_path: Path, grid: Geometry, compress: bool, dtype: type):
    image = Volume((np.arange(np.prod(grid.size)) % 250).astype(dtype).reshape(grid.size), grid).to_sitk()
    path = tmp_path / "image.mha"
    sitk.WriteImage(image, str(path), useCompression=compress)
    ours, theirs = read_volume(path, "image"), Volume.from_sitk(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.geometry.affine, theirs.geometry.affine, atol=1e-9)


# --- intensity windows ---


@given(st.floats(-1000.0, 1000.0), st.floats(1.0, 3000.0), st.lists(st.floats(-5000.0, 5000.0, width=32), min_size=2))
def test_an_intensity_window_keeps_order_and_bounds(low: float, width: float, numbers: list[float]):
    out = Window(low, low + width)(np.sort(np.array(numbers, np.float32)))
    assert (np.diff(out) >= 0).all()
    assert out.min() >= -1e-3
    assert out.max() <= 1 + 1e-3


# --- fusion ---


def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probability, cue = rng.random((2, *shape), np.float32)
    return probability, cue


PAIRS = st.composite(maps)()


@given(PAIRS, st.tuples(*[SHARES] * 3), st.tuples(*[SHARES] * 2))
def test_a_higher_threshold_never_adds_a_voxel(
    pair: tuple[np.ndarray, np.ndarray], some: tuple[float, float, float], other: tuple[float, float]
):
    on_cue, off_cue, cue_threshold = some
    loose = adaptive(*pair, min(on_cue, other[0]), min(off_cue, other[1]), cue_threshold)
    strict = adaptive(*pair, max(on_cue, other[0]), max(off_cue, other[1]), cue_threshold)
    assert (strict <= loose).all()


@given(PAIRS, SHARES, SHARES, SHARES)
def test_more_probability_never_takes_a_voxel_away(
    pair: tuple[np.ndarray, np.ndarray], on_cue: float, off_cue: float, more: float
):
    probability, cue = pair
    raised = np.maximum(probability, np.float32(more))
    assert (adaptive(probability, cue, on_cue, off_cue) <= adaptive(raised, cue, on_cue, off_cue)).all()


@given(PAIRS, SHARES, SHARES, SHARES, SHARES)
def test_what_is_cued_are_the_components_of_the_adaptive_mask_that_the_cue_sees_and_of_others_its_part(
    pair: tuple[np.ndarray, np.ndarray], on_cue: float, off_cue: float, cue_threshold: float, least_overlap: float
):
    probability, cue = pair
    rule = (on_cue, off_cue, cue_threshold)
    mask, kept = adaptive(probability, cue, *rule), cued(probability, cue, *rule, least_overlap)
    on = cue > np.float32(cue_threshold)
    labels, count = ndimage.label(mask, CONNECTIVITY)
    expected = (mask > 0) & on
    for component in (labels == label for label in range(1, count + 1)):
        if on[component].any() and on[component].sum() >= least_overlap * component.sum():
            expected |= component
    np.testing.assert_array_equal(kept > 0, expected)


@given(PAIRS, SHARES, SHARES, SHARES)
def test_a_mask_lies_between_those_of_either_threshold_alone(
    pair: tuple[np.ndarray, np.ndarray], on_cue: float, off_cue: float, cue_threshold: float
):
    mask = adaptive(*pair, on_cue, off_cue, cue_threshold).astype(bool)
    low, high = (pair[0] > np.float32(edge) for edge in sorted((on_cue, off_cue)))
    assert (mask | ~high).all()
    assert (low | ~mask).all()


@given(PAIRS, st.floats(1.0, 200.0))
def test_components_mark_nothing_but_what_either_network_marks(pair: tuple[np.ndarray, np.ndarray], scale: float):
    probability, cue = pair
    mask = components(probability, cue, scale).astype(bool)
    assert ((probability > 0.5) | (cue > 0.5) | ~mask).all()
