"""Grids and voxels: world positions, axis orders, resampling, reading and writing."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from l2snet.errors import InputError, OutputError
from l2snet.volume import Geometry, Volume, read_volume, write_volume

Reorder = Callable[[Volume], Volume]

SUPERIOR_POSTERIOR_LEFT = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
# Every size and spacing differs, so that axes cannot be mixed up without notice.
PLAIN = Geometry((2, 3, 4), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0))
SUFFIXES = (".mha", ".nii.gz", ".nrrd")


def oblique(size: tuple[int, int, int] = (5, 6, 7), degrees: tuple[float, ...] = (10.0, -20.0, 35.0)) -> Geometry:
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()[:, ::-1]
    return Geometry(size, (3.0, 2.0, 1.5), (10.0, -20.0, 30.0), tuple(tuple(row) for row in matrix))


def indices(geometry: Geometry) -> np.ndarray:
    return np.stack(np.indices(geometry.size), axis=-1)


def numbered(geometry: Geometry) -> Volume:
    return Volume(np.arange(np.prod(geometry.size), dtype=np.float32).reshape(geometry.size), geometry)


def ramp(geometry: Geometry) -> Volume:
    """2 L - P + 3 S + 5 at every voxel."""
    return Volume((geometry.world(indices(geometry)) @ [2.0, -1.0, 3.0] + 5.0).astype(np.float32), geometry)


def value_at(volume: Volume, world: np.ndarray) -> np.ndarray:
    """The voxel at each world position, found by the inverse of the affine alone."""
    grid = volume.geometry
    index = (world - grid.origin_mm) @ np.linalg.inv(np.array(grid.direction) * grid.spacing_mm).T
    nearest = np.rint(index).astype(int)
    np.testing.assert_allclose(index, nearest, atol=1e-6)
    return volume.array[tuple(np.moveaxis(nearest, -1, 0))]


# --- Geometry ---


def test_world_position_of_an_axial_voxel():
    # x runs to L in 1 mm, y to P in 2 mm, z to S in 3 mm.
    np.testing.assert_allclose(PLAIN.world(np.array([1, 2, 3])), [10 + 3, 20 + 4, 30 + 3])


def test_world_position_follows_the_direction():
    # Array axis 0 (3 mm) to the right, axis 1 (2 mm) to the superior, axis 2 (1 mm) to the anterior.
    grid = replace(PLAIN, direction=((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)))
    np.testing.assert_allclose(grid.world(np.array([1, 2, 3])), [10 - 3, 20 - 3, 30 + 4])


def test_world_positions_agree_with_simpleitk():
    grid = oblique()
    image = numbered(grid).to_sitk()
    for z, y, x in ((0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 6), (1, 2, 3)):
        np.testing.assert_allclose(grid.world(np.array([z, y, x])), image.TransformIndexToPhysicalPoint((x, y, z)))


def test_affine_is_direction_times_spacing():
    expected = [[0, 0, 1, 10], [0, 2, 0, 20], [3, 0, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(PLAIN.affine, expected)


def test_corners_are_half_a_voxel_outside_the_first_and_last_centres():
    corners = PLAIN.corners_mm()
    assert corners.shape == (8, 3)
    np.testing.assert_allclose(corners.min(axis=0), [9.5, 19.0, 28.5])
    np.testing.assert_allclose(corners.max(axis=0), [13.5, 25.0, 34.5])


def test_str_is_in_the_order_that_viewers_show():
    assert str(PLAIN) == "4 x 3 x 2 voxels of 1 x 2 x 3 mm at (10.0, 20.0, 30.0), axes [1 0 0; 0 1 0; 0 0 1]"


def test_voxel_ml():
    assert PLAIN.voxel_ml == pytest.approx(0.006)


@pytest.mark.parametrize("wrong", [0.0, -2.0, np.nan, np.inf])
@pytest.mark.parametrize("axis", range(3))
def test_impossible_spacing_is_refused(wrong: float, axis: int):
    spacing = [3.0, 2.0, 1.0]
    spacing[axis] = wrong
    with pytest.raises(InputError, match=f"spacing.*{wrong:g}.*positive"):
        Geometry((2, 3, 4), tuple(spacing))


def test_a_grid_may_begin_a_kilometre_away_and_no_further():
    assert replace(PLAIN, origin_mm=(1e6, -1e6, 0.0)).origin_mm == (1e6, -1e6, 0.0)
    with pytest.raises(InputError, match=r"^an origin of \(0\.0, -1000001\.0, 0\.0\) mm was found; .* up to 1e\+06$"):
        replace(PLAIN, origin_mm=(0.0, -1000001.0, 0.0))


@pytest.mark.parametrize("wrong", [0, -1])
@pytest.mark.parametrize("axis", range(3))
def test_an_empty_grid_is_refused(wrong: int, axis: int):
    size = [2, 3, 4]
    size[axis] = wrong
    with pytest.raises(InputError, match="no voxels"):
        Geometry(tuple(size))


@pytest.mark.parametrize(
    "direction",
    [
        ((0.0, 0.0, 2.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        ((0.0, 0.0, 1.0), (0.0, 1.0, 0.1), (1.0, 0.0, 0.0)),
        ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),
        ((0.0, 0.0, np.nan), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        ((0.0, 1.0), (1.0, 0.0)),
    ],
    ids=["scaled", "sheared", "singular", "nan", "2D"],
)
def test_directions_that_are_not_orthonormal_are_refused(direction: tuple[tuple[float, ...], ...]):
    with pytest.raises(InputError, match="not orthonormal"):
        replace(PLAIN, direction=direction)


def test_a_direction_rounded_to_four_digits_is_accepted():
    rounded = tuple(tuple(round(c, 4) for c in row) for row in oblique().direction)
    assert replace(oblique(), direction=rounded).direction == rounded


def test_directions_may_be_a_thousandth_from_orthonormal():
    z, x = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
    # The product of the second column and the third is the cosine.
    assert replace(PLAIN, direction=(z, (0.0, 1.0, 0.001), x)).direction[1][2] == 0.001
    with pytest.raises(InputError, match="not orthonormal"):
        replace(PLAIN, direction=(z, (0.0, 1.0, 0.0011), x))


def test_only_an_oblique_grid_is_not_axis_aligned(reorder: Reorder):
    assert reorder(numbered(PLAIN)).geometry.is_axis_aligned
    assert not reorder(numbered(oblique())).geometry.is_axis_aligned


@pytest.mark.parametrize(
    ("degrees", "aligned"), [(0.03, True), (0.1, False), (90.0, True), (179.97, True), (45.0, False)]
)
def test_a_tilt_that_moves_a_cosine_by_a_thousandth_is_oblique(degrees: float, aligned: bool):
    # sin(0.03 degrees) = 0.0005, sin(0.1 degrees) = 0.0017
    assert oblique(degrees=(degrees, 0.0, 0.0)).is_axis_aligned is aligned


# --- axis orders ---


def test_canonical_keeps_every_voxel_in_its_place(reorder: Reorder):
    stored = reorder(numbered(PLAIN))
    canonical = stored.canonical()
    assert canonical.geometry.direction == SUPERIOR_POSTERIOR_LEFT
    assert canonical.geometry.size == PLAIN.size
    assert canonical.geometry.spacing_mm == PLAIN.spacing_mm
    world = canonical.geometry.world(indices(canonical.geometry))
    np.testing.assert_array_equal(canonical.array, value_at(stored, world))
    np.testing.assert_array_equal(canonical.array, numbered(PLAIN).array)
    assert np.shares_memory(canonical.array, stored.array)


def test_canonical_axes_of_an_oblique_grid_lie_nearest_to_superior_posterior_left(reorder: Reorder):
    stored = reorder(numbered(oblique()))
    canonical = stored.canonical()
    np.testing.assert_allclose(canonical.geometry.direction, oblique().direction)
    world = canonical.geometry.world(indices(canonical.geometry))
    np.testing.assert_array_equal(canonical.array, value_at(stored, world))


def test_canonical_of_canonical_is_itself(reorder: Reorder):
    once = reorder(numbered(PLAIN)).geometry.canonical()
    assert once.canonical() == once


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (25.0, 0.0, 0.0), (-40.0, 0.0, 0.0), (10.0, -20.0, 15.0)])
def test_the_coronal_axis_is_found_from_the_direction_cosines(reorder: Reorder, degrees: tuple[float, ...]):
    grid = reorder(numbered(oblique(degrees=degrees))).geometry
    axes, flips = grid.canonical_axes()
    towards_posterior = np.array(grid.direction)[1]
    assert axes[1] == np.argmax(np.abs(towards_posterior))
    assert flips[1] == (towards_posterior[axes[1]] < 0)


# --- the same grid, or not ---


@pytest.mark.parametrize(("apart_mm", "same"), [(0.0, True), (0.19, True), (-0.19, True), (0.21, False)])
@pytest.mark.parametrize("axis", range(3))
def test_matches_to_a_tenth_of_the_smallest_voxel(axis: int, apart_mm: float, same: bool):
    grid = Geometry((4, 5, 6), (3.0, 2.0, 2.0))  # a tenth of 2 mm
    origin = [0.0, 0.0, 0.0]
    origin[axis] = apart_mm
    moved = replace(grid, origin_mm=tuple(origin))
    assert grid.matches(moved) is same
    assert moved.matches(grid) is same


def test_a_tenth_of_a_voxel_itself_matches():
    grid = Geometry((2, 3, 4), (10.0, 10.0, 10.0))  # a tenth is 1 mm, exactly
    assert grid.matches(replace(grid, origin_mm=(1.0, 0.0, 0.0)))


def test_matches_counts_the_drift_at_the_far_corner():
    grid = Geometry((2, 2, 400), (3.0, 2.03642, 2.03642))
    # 399.5 voxels x 0.00042 mm = 0.17 mm, under the 0.2036 mm allowed; x 0.00058 mm = 0.23 mm, over them.
    assert grid.matches(replace(grid, spacing_mm=(3.0, 2.03642, 2.03600)))
    assert not grid.matches(replace(grid, spacing_mm=(3.0, 2.03642, 2.03700)))


def test_other_sizes_and_senses_do_not_match():
    assert not PLAIN.matches(replace(PLAIN, size=(2, 3, 5)))
    flipped = replace(PLAIN, direction=((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)))
    assert not PLAIN.matches(flipped)


# --- crop and cover ---


def test_crop_begins_at_the_given_voxel():
    box = PLAIN.crop((1, -2, 3), (5, 6, 7))
    # 1 x 3 mm up, 2 x 2 mm forward, 3 x 1 mm left.
    assert box == Geometry((5, 6, 7), (3.0, 2.0, 1.0), (13.0, 16.0, 33.0))


def test_crop_of_an_oblique_grid_keeps_places():
    box = oblique().crop((1, 2, 3), (2, 2, 2))
    np.testing.assert_allclose(box.world(indices(box)), oblique().world(indices(box) + np.array([1, 2, 3])))
    assert box.crop((-1, -2, -3), (5, 6, 7)).matches(oblique())


LARGER = replace(PLAIN, size=(5, 6, 7))
# Where a box begins in a grid of (5, 6, 7) voxels, and its size.
BOXES = {
    "inside": ((1, 2, 3), (3, 3, 2)),
    "around": ((-1, -2, -1), (8, 9, 9)),
    "across its edge": ((-1, 2, 4), (4, 2, 6)),
    "along its side": ((0, 0, 2), (5, 6, 9)),
    "beside": ((9, 0, 0), (2, 6, 7)),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("grid", [LARGER, oblique()], ids=["aligned", "oblique"])
@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_voxels_are_moved_between_boxes_of_one_grid(
    reorder: Reorder, grid: Geometry, box: tuple[tuple[int, ...], tuple[int, ...]], kind: type,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    stored = Volume(numbered(grid).array.astype(kind), grid)
    start, size = box
    target = reorder(numbered(grid.crop(start, size))).geometry
    index = np.rint((target.world(indices(target)) - grid.origin_mm) @ np.linalg.inv(grid.affine[:3, :3]).T).astype(int)
    inside = ((index >= 0) & (index < grid.size)).all(axis=-1)
    expected = np.full(target.size, 9, kind)
    expected[inside] = stored.array[tuple(index[inside].T)]
    monkeypatch.setattr("SimpleITK.ResampleImageFilter", lambda: pytest.fail("voxels were interpolated"))
    for source in (stored, reorder(stored)):
        found = source.to_grid(target, outside=9)
        assert found.geometry == target
        np.testing.assert_array_equal(found.array, expected)


@pytest.mark.parametrize(("apart", "moved"), [(0.09, True), (0.11, False)])
def test_voxels_a_tenth_of_one_apart_are_interpolated(apart: float, moved: bool):
    stored = numbered(LARGER)
    shifted = replace(LARGER.crop((1, 1, 1), (2, 2, 2)), origin_mm=(11.0 + apart, 22.0, 33.0))
    found = stored.to_grid(shifted, outside=-1.0).array
    assert np.array_equal(found, stored.array[1:3, 1:3, 1:3]) is moved


def test_cover_of_an_aligned_grid():
    grid = Geometry((10, 20, 30), (3.0, 2.0, 2.0))
    # 30 x 40 x 60 mm from (z, y, x) = (-1.5, -1, -1); in 4 x 2 x 5 mm that is 7.5, 20 and 12 voxels.
    # The half voxel too much along z (2 mm) is shared: the grid begins at -2.5, its first centre at -0.5.
    assert grid.axis_aligned_cover((4.0, 2.0, 5.0)) == Geometry((8, 20, 12), (4.0, 2.0, 5.0), (1.5, 0.0, -0.5))


def test_cover_with_the_same_spacing_adds_no_slice():
    grid = Geometry((7, 11, 13), (3.0, 2.036, 2.036), (-123.4, 56.7, -890.1))
    cover = grid.axis_aligned_cover(grid.spacing_mm)
    assert cover.matches(grid)


@pytest.mark.parametrize("degrees", [(10.0, -20.0, 35.0), (45.0, 0.0, 0.0), (0.0, 90.0, 1.0), (170.0, 80.0, -60.0)])
def test_cover_holds_all_corners_of_an_oblique_grid_and_not_a_voxel_more(reorder: Reorder, degrees: tuple[float, ...]):
    grid = reorder(numbered(oblique(degrees=degrees))).geometry
    spacing = np.array([2.5, 1.5, 2.0])
    cover = grid.axis_aligned_cover(tuple(spacing))
    assert cover.direction == SUPERIOR_POSTERIOR_LEFT
    low, high = cover.corners_mm().min(axis=0), cover.corners_mm().max(axis=0)
    slack = 1e-3 * spacing[::-1]
    assert (grid.corners_mm() >= low - slack).all()
    assert (grid.corners_mm() <= high + slack).all()
    extent = np.ptp(grid.corners_mm(), axis=0)
    assert (high - low < extent + spacing[::-1]).all()


def test_cover_has_at_least_one_voxel():
    speck = Geometry((1, 1, 1), (0.5, 0.5, 0.5))
    assert speck.axis_aligned_cover((1000.0, 5.0, 0.5)).size == (1, 1, 1)


def test_covered_is_the_share_along_each_axis_of_the_other():
    # 6 mm along z, 6 along y, 4 along x; moved by 1.5 mm up, 3 mm forward and out along x.
    moved = replace(PLAIN, origin_mm=(10.0 + 4.0, 20.0 - 3.0, 30.0 + 1.5))
    assert moved.covered(PLAIN) == pytest.approx((0.75, 0.5, 0.0))
    assert PLAIN.covered(PLAIN.crop((0, 0, 0), (1, 1, 1))) == pytest.approx((1.0, 1.0, 1.0))
    assert PLAIN.crop((1, 0, 3), (1, 2, 4)).covered(PLAIN) == pytest.approx((1 / 2, 2 / 3, 1 / 4))
    gone = replace(PLAIN, origin_mm=(100.0, 200.0, 300.0))
    assert gone.covered(PLAIN) == (0.0, 0.0, 0.0)
    # Along the other's axes, wherever these run: its y spans 9 to 15 mm of L, of which PLAIN reaches 9.5 to 13.5.
    turned = replace(PLAIN, direction=((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)))
    assert PLAIN.covered(turned) == pytest.approx((1.0, 4 / 6, 1.0))


# --- Volume, to_grid ---


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 5\).*\(2, 3, 4\)"):
        Volume(np.zeros((2, 3, 5)), PLAIN)


def test_with_array_keeps_the_grid():
    assert numbered(PLAIN).with_array(np.ones(PLAIN.size)).geometry is PLAIN


@pytest.mark.parametrize("grid", [PLAIN, oblique()], ids=["aligned", "oblique"])
def test_voxels_are_moved_and_not_interpolated_between_axis_orders(reorder: Reorder, grid: Geometry):
    # Large odd integers, which interpolation in float32 would not keep.
    volume = Volume((2 * np.arange(np.prod(grid.size)) + 2**30 + 1).reshape(grid.size), grid)
    stored = reorder(volume)
    moved = volume.to_grid(stored.geometry, outside=-1.0)
    assert moved.geometry is stored.geometry
    np.testing.assert_array_equal(moved.array, stored.array)
    back = moved.to_grid(grid, outside=-1.0)
    np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize(
    "target",
    [
        Geometry((4, 5, 6), (1.1, 0.7, 0.9), (1.3, 2.2, 3.1)),
        Geometry((3, 3, 3), (2.0, 2.0, 2.0), (4.0, 6.0, 8.0), oblique().direction),
    ],
    ids=["aligned", "oblique"],
)
def test_linear_interpolation_of_a_ramp_is_exact(reorder: Reorder, target: Geometry):
    source = reorder(ramp(Geometry((8, 9, 10), (3.0, 2.0, 1.5), (0.0, -1.0, 1.0))))
    np.testing.assert_allclose(source.to_grid(target, outside=np.nan).array, ramp(target).array, atol=1e-3)


def test_outside_takes_the_given_value():
    source = numbered(Geometry((2, 3, 4)))
    target = Geometry((2, 3, 4), origin_mm=(2.0, 0.0, 0.0))  # two voxels to the left
    moved = source.to_grid(target, outside=-1024.0).array
    np.testing.assert_allclose(moved[:, :, :2], source.array[:, :, 2:], rtol=1e-6)
    np.testing.assert_array_equal(moved[:, :, 2:], -1024.0)


def test_nearest_keeps_labels():
    source = Volume(np.array([[[3, 7]] * 2] * 2, np.uint8), Geometry((2, 2, 2)))
    target = Geometry((1, 1, 4), (1.0, 1.0, 0.3), (0.05, 0.0, 0.0))  # x = 0.05, 0.35, 0.65, 0.95
    moved = source.to_grid(target, outside=0.0, nearest=True).array
    assert moved.dtype == np.uint8
    assert moved.ravel().tolist() == [3, 3, 7, 7]


def test_oblique_round_trip_of_a_ramp_is_exact_inside():
    grid = Geometry((20, 22, 24), (3.0, 2.0, 2.0), (-20.0, -20.0, -30.0))
    source = ramp(grid)
    centre = grid.corners_mm().mean(axis=0)
    tilted = Geometry((44, 44, 44), (2.0, 2.0, 2.0), direction=oblique().direction)
    tilted = replace(tilted, origin_mm=tuple(centre - tilted.corners_mm().mean(axis=0)))
    back = source.to_grid(tilted, outside=0.0).to_grid(grid, outside=0.0)
    # A voxel is interpolated from tilted ones up to a diagonal of 3.5 mm away: those must have been inside.
    inner = (slice(2, -2), slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(back.array[inner], source.array[inner], atol=2e-3)
    assert back.geometry is grid


# --- files ---


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("grid", [PLAIN, oblique()], ids=["aligned", "oblique"])
def test_files_keep_voxels_and_grid(tmp_path: Path, suffix: str, compress: bool, grid: Geometry):
    volume = numbered(grid)
    write_volume(volume, tmp_path / f"new folder/image{suffix}", compress)
    back = read_volume(tmp_path / f"new folder/image{suffix}", "PET")
    assert back.array.dtype == np.float32
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry.size == grid.size
    np.testing.assert_allclose(back.geometry.world(indices(grid)), grid.world(indices(grid)), atol=1e-4)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == [f"image{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_keep_every_axis_order(tmp_path: Path, suffix: str, reorder: Reorder):
    stored = reorder(numbered(PLAIN))
    write_volume(stored, tmp_path / f"image{suffix}", compress=False)
    back = read_volume(tmp_path / f"image{suffix}", "PET")
    assert back.geometry.matches(stored.geometry)
    np.testing.assert_array_equal(back.array, stored.array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_voxels_of_any_type_are_read_as_float32(tmp_path: Path, dtype: type):
    volume = numbered(PLAIN).with_array(np.arange(24, dtype=dtype).reshape(2, 3, 4))
    write_volume(volume, tmp_path / "image.mha", compress=True)
    back = read_volume(tmp_path / "image.mha", "CT").array
    assert back.dtype == np.float32
    assert back.ravel().tolist() == list(range(24))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64, np.float32, np.float64])
def test_integers_may_stay_as_the_file_has_them(tmp_path: Path, suffix: str, dtype: type):
    volume = Volume((numbered(PLAIN).array % 100).astype(dtype), PLAIN)
    write_volume(volume, tmp_path / f"image{suffix}", compress=True)
    found = read_volume(tmp_path / f"image{suffix}", "PET", keep_integers=True)
    assert found.array.dtype == (dtype if np.issubdtype(dtype, np.integer) else np.float32)
    assert found.geometry.matches(PLAIN)
    np.testing.assert_array_equal(found.array, volume.array)


def test_scaled_integers_are_no_integers(tmp_path: Path):
    """A NIfTI file of bytes 0 to 9 with a slope of 0.5 holds 0 to 4.5."""
    values = np.arange(10, dtype=np.uint8).reshape(1, 2, 5)
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header.set_slope_inter(0.5, 0.0)
    nibabel.save(image, tmp_path / "image.nii.gz")
    found = read_volume(tmp_path / "image.nii.gz", "PET", keep_integers=True).array
    np.testing.assert_array_equal(found, values.T / np.float32(2))


# What is left of a file of 1.4 MB of voxels: all, or fewer bytes; or a byte of it damaged.
@pytest.mark.parametrize(
    ("suffix", "change", "whole"),
    [
        (".nii", lambda raw: raw, True),
        (".nii", lambda raw: raw[:-1], False),
        (".nii", lambda raw: b"", False),
        (".nii.gz", lambda raw: raw, True),
        (".nii.gz", lambda raw: raw[:-1], False),  # of the packing's own end
        (".nii.gz", lambda raw: raw[: len(raw) // 2], False),
        (".nii.gz", lambda raw: raw[:10] + b"\xff" + raw[11:], False),  # no kind of block that deflate has
    ],
)
def test_a_nifti_that_itk_cut_off_without_a_word_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, change: Callable[[bytes], bytes], whole: bool
):
    volume = Volume(np.random.default_rng(0).random((70, 70, 70), np.float32), Geometry((70, 70, 70)))
    write = sitk.WriteImage

    def write_and_change(image: sitk.Image, name: str, **options: bool) -> None:
        write(image, name, **options)
        Path(name).write_bytes(change(Path(name).read_bytes()))

    monkeypatch.setattr(sitk, "WriteImage", write_and_change)
    if whole:
        write_volume(volume, tmp_path / f"image{suffix}", compress=True)
        return
    with pytest.raises(OutputError, match=r"\(the file was cut off; is the disk full\?\); choose"):
        write_volume(volume, tmp_path / f"image{suffix}", compress=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spacing_mm", [0.25, 0.5, 4.0])
def test_a_nifti_may_have_small_voxels(tmp_path: Path, spacing_mm: float):
    grid = Geometry((2, 3, 4), (spacing_mm,) * 3)
    write_volume(numbered(grid), tmp_path / "image.nii", compress=False)
    assert read_volume(tmp_path / "image.nii", "PET").geometry.matches(grid)


def test_a_nifti_whose_axes_lead_nowhere_is_refused(tmp_path: Path):
    write_volume(numbered(PLAIN), tmp_path / "image.nii", compress=False)
    raw = bytearray((tmp_path / "image.nii").read_bytes())
    struct.pack_into("<12f", raw, 280, *[0.0] * 12)  # srow_x, srow_y, srow_z
    (tmp_path / "image.nii").write_bytes(raw)
    with pytest.raises(InputError, match=r"^PET: image\.nii: a voxel spacing of \(0\.0, 0\.0, 0\.0\) mm was found"):
        read_volume(tmp_path / "image.nii", "PET")


def test_a_nifti_that_says_nothing_of_its_place_is_read_as_simpleitk_does(tmp_path: Path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.float32).reshape(4, 3, 2), None)
    image.header.set_zooms((1, 2, 3))
    image.header["qoffset_x"] = 7
    nibabel.save(image, tmp_path / "image.nii")
    ours = read_volume(tmp_path / "image.nii", "PET")
    theirs = Volume.from_sitk(sitk.ReadImage(str(tmp_path / "image.nii")))
    assert ours.geometry == theirs.geometry == Geometry((2, 3, 4), (3.0, 2.0, 1.0))
    np.testing.assert_array_equal(ours.array, theirs.array)


NRRD_TYPES = {
    **dict.fromkeys(("int8_t", "signed char"), sitk.sitkInt8),
    **dict.fromkeys(("uint8_t", "uchar"), sitk.sitkUInt8),
    **dict.fromkeys(("int16_t", "short int", "signed short int"), sitk.sitkInt16),
    **dict.fromkeys(("uint16_t", "unsigned short int"), sitk.sitkUInt16),
    **dict.fromkeys(("int32_t", "signed int"), sitk.sitkInt32),
    **dict.fromkeys(("uint32_t", "unsigned int"), sitk.sitkUInt32),
    **dict.fromkeys(("int64_t", "longlong", "long long int", "signed long long int"), sitk.sitkInt64),
    **dict.fromkeys(("uint64_t", "ulonglong", "unsigned long long int"), sitk.sitkUInt64),
}


@pytest.mark.parametrize("name", NRRD_TYPES)
def test_nrrd_knows_a_type_by_many_names(tmp_path: Path, name: str):
    path = tmp_path / "image.nrrd"
    sitk.WriteImage(sitk.Cast(numbered(PLAIN).to_sitk(), NRRD_TYPES[name]), str(path))
    lines = path.read_bytes().split(b"\n")
    lines[next(n for n, line in enumerate(lines) if line.startswith(b"type:"))] = f"type: {name}".encode()
    path.write_bytes(b"\n".join(lines))
    np.testing.assert_array_equal(read_volume(path, "PET").array, numbered(PLAIN).array)


def test_negative_int16_hu_are_kept(tmp_path: Path):
    hu = np.full((2, 3, 4), -1024, np.int16)
    write_volume(Volume(hu, PLAIN), tmp_path / "ct.nii.gz", compress=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nii.gz", "CT").array, -1024.0)


def noise() -> Volume:
    """Voxels that do not compress, so that half of the file is half of the voxels."""
    size = (12, 14, 16)
    return Volume(np.random.default_rng(0).normal(size=size).astype(np.float32), Geometry(size))


def cut(path: Path, keep: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.05])
@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".mha", False), (".mha", True), (".nii", False), (".nii.gz", True), (".nrrd", False), (".nrrd", True)],
)
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, suffix: str, compress: bool, keep: float):
    path = tmp_path / f"image{suffix}"
    write_volume(noise(), path, compress)
    read_volume(path, "PET")
    cut(path, keep)
    with pytest.raises(InputError, match=rf"PET: image{suffix}.*cut off"):
        read_volume(path, "PET")


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"CT: there is no file .*none\.mha"):
        read_volume(tmp_path / "none.mha", "CT")


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="CT: there is no file"):
        read_volume(tmp_path, "CT")


def test_an_unknown_ending_is_refused_with_those_that_are_read(tmp_path: Path):
    (tmp_path / "image.png").touch()
    with pytest.raises(InputError, match=r"\(its ending is none of \.mha, \.mhd, \.nii, \.nii\.gz, \.nrrd\)$"):
        read_volume(tmp_path / "image.png", "PET")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sitk, "WriteImage", lambda *_, **options: None)  # it would end the process
    path = tmp_path / (b"caf\xe9".decode("utf-8", "surrogateescape") + ".mha")
    with pytest.raises(OutputError, match=r"cannot be written: its name, or a folder's, is not UTF-8; rename it$"):
        write_volume(numbered(PLAIN), path, compress=False)
    try:
        path.write_bytes(metaimage())
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    with pytest.raises(InputError, match=r"\(its name, or a folder's, is not UTF-8; rename it\)$"):
        read_volume(path, "PET")


@pytest.mark.parametrize("suffix", [".mha", ".nii.gz", ".nrrd", ".txt"])
@pytest.mark.parametrize("content", [b"", b"this is no image\n"], ids=["empty", "text"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"PET: image{suffix} cannot be read"):
        read_volume(path, "PET")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (sitk.Image([4, 5], sitk.sitkFloat32), "2D image with 1 value"),
        (sitk.Image([4, 5, 6, 2], sitk.sitkFloat32), "4D image with 1 value"),
        (sitk.Image([4, 5, 6], sitk.sitkVectorFloat32, 3), "3D image with 3 value"),
    ],
    ids=["2D", "4D", "vectors"],
)
def test_what_is_not_3d_and_scalar_is_refused(tmp_path: Path, image: sitk.Image, found: str):
    sitk.WriteImage(image, str(tmp_path / "image.mha"))
    with pytest.raises(InputError, match=rf"PET: image\.mha: it is a {found}.*expected a 3D image with one"):
        read_volume(tmp_path / "image.mha", "PET")


@pytest.mark.parametrize("values", [3, 1])
def test_a_nrrd_of_vectors_is_refused(tmp_path: Path, values: int):
    """Three axes, of which ITK takes the first for the values of a voxel; as written, in a space without a name."""
    path = tmp_path / "image.nrrd"
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkVectorFloat32, 3), str(path))
    header = path.read_bytes().replace(b"sizes: 3", f"sizes: {values}".encode())
    path.write_bytes(header)
    with pytest.raises(InputError, match="no field 'space'"):
        read_volume(path, "PET")
    path.write_bytes(header.replace(b"space dimension: 2", b"space: LPS"))
    with pytest.raises(InputError, match=r"image\.nrrd"):
        read_volume(path, "PET")


@pytest.mark.parametrize(
    ("name", "signs"),
    [("left-posterior-superior", (1, 1, 1)), ("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))],
)
def test_a_nrrd_lies_where_its_space_says(tmp_path: Path, name: str, signs: tuple[int, ...]):
    path = tmp_path / "image.nrrd"
    write_volume(numbered(PLAIN), path, compress=False)
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", name.encode()))
    first = read_volume(path, "PET").geometry.world(np.zeros(3))
    np.testing.assert_allclose(first, PLAIN.world(np.zeros(3)) * signs)


@pytest.mark.parametrize(
    ("field", "instead", "words"),
    [
        (b"space: left-posterior-superior\n", b"", "no field 'space'"),
        (b"space: left-posterior-superior\n", b"space: scanner-xyz\n", "its space is 'scanner-xyz'; expected right-"),
        (b"space: left-posterior-superior\n", b"space: \xff\n", "its space is 'ÿ'; expected right-"),
        (b"space directions:", b"spacings: 1 1 1\n#", "no field 'space directions'"),
    ],
)
def test_a_nrrd_that_does_not_say_where_it_lies_is_refused(tmp_path: Path, field: bytes, instead: bytes, words: str):
    path = tmp_path / "image.nrrd"
    write_volume(numbered(PLAIN), path, compress=False)
    before = path.read_bytes()
    assert field in before
    path.write_bytes(before.replace(field, instead))
    with pytest.raises(InputError, match=rf"PET: image\.nrrd: .*{words}"):
        read_volume(path, "PET")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_that_are_not_finite_are_refused(tmp_path: Path, bad: float, suffix: str):
    array = np.ones(PLAIN.size, np.float32)
    array[0, 0, :2] = bad
    write_volume(Volume(array, PLAIN), tmp_path / f"image{suffix}", compress=False)
    with pytest.raises(InputError, match=rf"PET: image{suffix} holds 2 voxels that are NaN or infinite"):
        read_volume(tmp_path / f"image{suffix}", "PET")


def test_float64_beyond_float32_is_refused(tmp_path: Path):
    array = np.ones(PLAIN.size)
    array[0, 0, 0] = 1e300
    write_volume(Volume(array, PLAIN), tmp_path / "image.mha", compress=False)
    with pytest.raises(InputError, match="1 voxels that are NaN or infinite"):
        read_volume(tmp_path / "image.mha", "PET")


def metaimage(spacing: str = "1 2 3", matrix: str = "1 0 0 0 1 0 0 0 1", size: str = "2 2 2") -> bytes:
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = {matrix}\nOffset = 0 0 0\nElementSpacing = {spacing}\nDimSize = {size}\n"
        "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    )
    return header.encode() + struct.pack("<8f", *range(8))


def test_a_header_written_by_hand_is_read(tmp_path: Path):
    (tmp_path / "image.mha").write_bytes(metaimage())
    volume = read_volume(tmp_path / "image.mha", "PET")
    assert volume.geometry == Geometry((2, 2, 2), (3.0, 2.0, 1.0))
    assert volume.array.ravel().tolist() == list(range(8))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"= LOCAL", b"= Local"),
        (b"= LOCAL", b"= local"),
        (b" = ", b" : "),
        (b"CompressedData", b"a line of text\nCompressedData"),
        (b"NDims", b"HeaderSize = -1\nNDims"),
    ],
    ids=["Local", "local", "colons", "text", "HeaderSize"],
)
def test_a_header_of_another_writer_is_read_as_simpleitk_does(tmp_path: Path, old: bytes, new: bytes):
    path = tmp_path / "image.mha"
    path.write_bytes(metaimage().replace(old, new))
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert read_volume(path, "PET").array.ravel().tolist() == theirs.ravel().tolist() == list(range(8))


def test_bytes_behind_the_voxels_are_passed_over(tmp_path: Path):
    (tmp_path / "image.mha").write_bytes(metaimage() + b"more\n")
    assert read_volume(tmp_path / "image.mha", "PET").array.ravel().tolist() == list(range(8))


@pytest.mark.parametrize("named", ["image.raw", "./image.raw", "ü b.raw"])
@pytest.mark.parametrize(("size", "prefix"), [("0", b""), ("-1", b""), ("-1", b"some header\n")])
def test_voxels_beside_a_header(tmp_path: Path, named: str, size: str, prefix: bytes):
    header, voxels = metaimage()[:-32], metaimage()[-32:]
    header = header.replace(b"NDims", f"HeaderSize = {size}\nNDims".encode())
    (tmp_path / "image.mhd").write_bytes(header.replace(b"LOCAL\n", named.encode()))
    (tmp_path / named).write_bytes(prefix + voxels)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "image.mhd")))
    found = read_volume(tmp_path / "image.mhd", "PET").array
    assert found.ravel().tolist() == theirs.ravel().tolist() == list(range(8))


@pytest.mark.parametrize("named", ["../image.raw", "folder/image.raw", "", ".", "..", "/image.raw", "a\0.raw"])
def test_voxels_anywhere_else_are_refused(tmp_path: Path, named: str):
    (tmp_path / "image.mhd").write_bytes(metaimage()[:-32].replace(b"LOCAL", named.encode()))
    for folder in (tmp_path, tmp_path.parent, tmp_path / "folder"):
        folder.mkdir(exist_ok=True)
        (folder / "image.raw").write_bytes(bytes(32))
    with pytest.raises(InputError, match=r"expected LOCAL, or for a \.mhd one file in its folder"):
        read_volume(tmp_path / "image.mhd", "PET")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"spacing": "0 2 3"}, "spacing"),
        ({"spacing": "1 2 0"}, "spacing"),
        ({"spacing": "nan 2 3"}, "spacing"),
        ({"matrix": "1 0.5 0 0 1 0 0 0 1"}, "orthonormal"),
        ({"size": "2 2 0"}, "no voxels"),
    ],
    ids=["zero", "zero slices", "nan", "sheared", "no slices"],
)
def test_a_header_with_an_impossible_grid_is_refused_by_name(tmp_path: Path, changes: dict[str, str], found: str):
    (tmp_path / "image.mha").write_bytes(metaimage(**changes))
    with pytest.raises(InputError, match=found) as refusal:
        read_volume(tmp_path / "image.mha", "PET")
    # Two files are read: the sentence must say which one it is about.
    assert str(refusal.value).startswith("PET: image.mha")


# --- writing ---


@pytest.mark.parametrize("name", ["mask.png", "mask", "mask.mha.part"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str):
    with pytest.raises(OutputError, match=rf"{name} has no known ending; expected one of .mha, .nii, .nii.gz, .nrrd$"):
        write_volume(numbered(PLAIN), tmp_path / name, compress=True)
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_is_replaced(tmp_path: Path):
    write_volume(ramp(oblique()), tmp_path / "image.mha", compress=True)
    write_volume(numbered(PLAIN), tmp_path / "image.mha", compress=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "image.mha", "PET").array, numbered(PLAIN).array)


def test_compression_shrinks_the_file(tmp_path: Path):
    mask = Volume(np.zeros((20, 20, 20), np.uint8), Geometry((20, 20, 20)))
    write_volume(mask, tmp_path / "plain.mha", compress=False)
    write_volume(mask, tmp_path / "small.mha", compress=True)
    assert (tmp_path / "plain.mha").stat().st_size > 8000
    assert (tmp_path / "small.mha").stat().st_size < 1000


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_volume(numbered(PLAIN), tmp_path / "image.mha", compress=False)

    def half_written(image: sitk.Image, name: str, **options: object) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("sitk::ERROR:\nNo space left on device")

    monkeypatch.setattr("l2snet.volume.sitk.WriteImage", half_written)
    with pytest.raises(OutputError, match=r"image\.mha cannot be written \(No space left on device\)"):
        write_volume(ramp(PLAIN), tmp_path / "image.mha", compress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["image.mha"]
    np.testing.assert_array_equal(read_volume(tmp_path / "image.mha", "PET").array, numbered(PLAIN).array)


def test_a_folder_in_the_files_place_is_an_output_error(tmp_path: Path):
    (tmp_path / "image.mha").mkdir()
    with pytest.raises(OutputError, match=r"image\.mha cannot be written"):
        write_volume(numbered(PLAIN), tmp_path / "image.mha", compress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["image.mha"]


@pytest.mark.parametrize("below", ["image.mha", "deeper/image.mha"])
def test_a_file_in_the_folders_place_is_an_output_error(tmp_path: Path, below: str):
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(OutputError, match=r"image\.mha cannot be written"):
        write_volume(numbered(PLAIN), tmp_path / "folder" / below, compress=False)
    assert (tmp_path / "folder").read_text() == "in the way"


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nii", ".nii.gz", ".nrrd"])
def test_no_file_of_another_name_is_left(tmp_path: Path, suffix: str):
    try:
        write_volume(numbered(PLAIN), tmp_path / f"image{suffix}", compress=False)
    except OutputError:
        assert suffix == ".mhd"  # two files cannot be renamed at once: refusing is fair
    assert all(path.name.startswith("image.") for path in tmp_path.iterdir())
