"""Progressive dilation against SciPy's plain one, and the eight channels made of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from l2snet.preprocess import means
from l2snet.training.surroundings import ELLIPSOIDS, LESION_LEVEL, coarse_levels, dilate, surroundings
from l2snet.volume import Array


def ellipsoid(semi_axes: tuple[int, int, int]) -> Array:
    """The structuring element, by its definition."""
    grid = np.meshgrid(*(np.arange(-n, n + 1) / n for n in semi_axes), indexing="ij")
    return sum(axis**2 for axis in grid) <= 1 + 1e-9


def plain(lesions: Array) -> Array:
    """Levels by nine dilations with SciPy."""
    region = lesions > 0
    levels = region.astype(np.uint8)
    for step in ELLIPSOIDS:
        for semi_axes in step:
            region = ndimage.binary_dilation(region, ellipsoid(semi_axes))
        levels += region
    return levels


def blobs(seed: int, size: tuple[int, int, int], share: float) -> Array:
    return (np.random.default_rng(seed).random(size) < share).astype(np.uint8)


SIZES = st.tuples(*(st.integers(1, 12) for _ in range(3)))


@given(SIZES, st.integers(0, 99), st.sampled_from([*{s for step in ELLIPSOIDS for s in step}, (2, 3, 5), (3, 1, 2)]))
def test_a_dilation_is_scipys(size: tuple[int, int, int], seed: int, semi_axes: tuple[int, int, int]) -> None:
    mask = blobs(seed, size, 0.02) > 0
    np.testing.assert_array_equal(dilate(mask, semi_axes), ndimage.binary_dilation(mask, ellipsoid(semi_axes)))


@pytest.mark.parametrize("size", [(30, 70, 75), (8, 20, 90), (1, 1, 1)])
def test_levels_are_those_of_plain_dilation(size: tuple[int, int, int]) -> None:
    """Single voxels in the middle and at the edges, where the box of the lesions meets the volume's."""
    for seed in range(3):
        lesions = blobs(seed, size, 1e-4)
        lesions[0, 0, 0] = seed % 2
        np.testing.assert_array_equal(surroundings(lesions), plain(lesions))


def test_one_voxel_reaches_as_far_as_the_semi_axes_add_up() -> None:
    """D1: 2 x (1, 2, 2); D2: + 4 x (1, 3, 3); D3: + 3 x (1, 4, 4), along each axis."""
    lesions = np.zeros((21, 61, 61), np.uint8)
    lesions[10, 30, 30] = 1
    levels = surroundings(lesions)
    assert levels[10, 30, 30] == LESION_LEVEL == 4
    for level, (z, yx) in {3: (2, 4), 2: (6, 16), 1: (9, 28)}.items():
        where = np.argwhere(levels >= level)
        assert (where.max(axis=0) - (10, 30, 30)).tolist() == [z, yx, yx]
        assert ((10, 30, 30) - where.min(axis=0)).tolist() == [z, yx, yx]


def test_on_coarser_voxels_a_small_lesion_stays() -> None:
    """One voxel in blocks of 8: its block is lesion, which fills only an eighth of it; of large lesions by half."""
    lesions = np.zeros((8, 20, 20), np.uint8)
    lesions[4, 8, 8] = 1
    coarse = coarse_levels(surroundings(lesions), (2, 2, 2))
    assert np.argwhere(coarse == LESION_LEVEL).tolist() == [[2, 4, 4]]
    lesions[:] = 0
    lesions[2:6, 4:9, 4:9] = 1
    levels = surroundings(lesions)
    by_half = sum((means(levels >= level, (2, 2, 2)) >= 0.5).astype(int) for level in range(1, LESION_LEVEL + 1))
    np.testing.assert_array_equal(coarse_levels(levels, (2, 2, 2)), by_half)


def test_without_a_lesion_there_are_no_surroundings() -> None:
    levels = surroundings(np.zeros((5, 6, 7), np.uint8))
    assert (levels.shape, levels.dtype, levels.any()) == ((5, 6, 7), np.uint8, False)


def test_the_mask_is_left_as_it_is() -> None:
    lesions = blobs(0, (9, 9, 9), 0.05)
    before = lesions.copy()
    surroundings(lesions)
    np.testing.assert_array_equal(lesions, before)
