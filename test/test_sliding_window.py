"""Windows: where they lie, how they are weighted and blended, and which are left out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2snet.sliding_window import MIN_WEIGHT, gaussian, positions, slide

STEPS = st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0])


@st.composite
def sizes_and_windows(draw: st.DrawFn, largest: int = 12) -> tuple[tuple[int, ...], tuple[int, ...]]:
    size = draw(st.tuples(*[st.integers(1, largest)] * 3))
    return size, tuple(draw(st.integers(1, n)) for n in size)


def channel(windows: np.ndarray) -> np.ndarray:
    return windows[:, 0]


def depends_on_the_window(windows: np.ndarray) -> np.ndarray:
    """A result that every voxel of the window has a part in."""
    return (
        windows[:, 0] * windows.mean(axis=(1, 2, 3, 4))[:, None, None, None]
        + windows.max(axis=(1, 2, 3, 4), keepdims=True)[:, 0]
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 1.0, shape).astype(np.float32)


# --- positions ---


@pytest.mark.parametrize(
    ("size", "window", "step", "starts"),
    [
        (4, 4, 0.5, [0]),
        (5, 4, 0.5, [0, 1]),
        (10, 4, 0.5, [0, 2, 4, 6]),  # 6 / 2 = 3 steps
        (10, 4, 1.0, [0, 3, 6]),  # 6 / 4 = 1.5, so 2 steps of 3
        (11, 4, 0.5, [0, 2, 4, 5, 7]),  # 7 / 2 = 3.5, so 4 steps of 1.75: 1.75, 3.5 (rounded to even), 5.25
        (12, 4, 1.0, [0, 4, 8]),
        (3, 1, 0.1, [0, 1, 2]),  # at least one voxel
        (243, 128, 0.5, [0, 58, 115]),  # 115 / 64 = 1.8, so 2 steps of 57.5 (rounded to even)
    ],
)
def test_positions_along_an_axis(size: int, window: int, step: float, starts: list[int]):
    assert positions([size], [window], step) == [(start,) for start in starts]


def test_positions_of_the_papers_window():
    starts = positions((243, 289, 238), (128, 192, 160))
    # z: 2 steps of 57.5; y: 97 / 96, so 2 steps of 48.5; x: 78 / 80, so 1 step of 78.
    assert starts == list(product([0, 58, 115], [0, 48, 97], [0, 78]))


@given(sizes_and_windows(), STEPS)
def test_windows_cover_the_volume_and_stay_inside(sizes: tuple[tuple[int, ...], tuple[int, ...]], step: float):
    size, window = sizes
    covered = np.zeros(size, bool)
    for start in positions(size, window, step):
        assert all(0 <= s <= n - w for s, n, w in zip(start, size, window, strict=True))
        covered[tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))] = True
    assert covered.all()


@given(st.integers(1, 300), st.integers(1, 300), STEPS)
def test_windows_are_at_most_a_step_apart_and_none_is_doubled(size: int, window: int, step: float):
    window = min(size, window)
    starts = [start for (start,) in positions([size], [window], step)]
    assert starts[0] == 0
    assert starts[-1] == size - window
    gaps = np.diff(starts)
    assert (gaps >= 1).all()
    # Starts are rounded to voxels, so a step is rounded up.
    assert (gaps <= max(1, np.ceil(window * step))).all()


@pytest.mark.parametrize(("size", "window"), [((4, 4, 4), (4, 5, 4)), ((3, 9, 9), (4, 4, 4))])
def test_a_window_larger_than_the_volume_is_refused(size: tuple[int, ...], window: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"larger than the volume.*pad the volume"):
        positions(size, window)
    with pytest.raises(ValueError, match="larger than the volume"):
        slide(noise(1, *size), window, channel)


@pytest.mark.parametrize("step", [0.0, -0.5, 1.01, np.nan])
def test_an_impossible_step_is_refused(step: float):
    with pytest.raises(ValueError, match=r"step is .*expected more than 0 and at most 1"):
        positions((8, 8, 8), (4, 4, 4), step)


def test_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match="argument 2"):
        positions((8, 8, 8), (4, 4))


# --- weights ---


@pytest.mark.parametrize("window", [(1, 1, 1), (5, 7, 9), (8, 6, 4), (16, 24, 20)])
def test_gaussian_maximum_floor_and_symmetry(window: tuple[int, ...]):
    weight = gaussian(window)
    assert weight.dtype == np.float32
    assert weight.shape == window
    assert weight.max() == 1.0
    assert weight[tuple(n // 2 for n in window)] == 1.0
    assert weight.min() >= np.float32(MIN_WEIGHT)
    for axis in range(3):
        np.testing.assert_allclose(np.flip(weight, axis), weight, rtol=1e-6)


def test_gaussian_by_hand():
    # Sigma is 8 / 8 = 1 voxel and the centre lies between two voxels, whose weight is set to 1:
    # exp(-(1.5^2 - 0.5^2) / 2) = exp(-1), exp(-(2.5^2 - 0.5^2) / 2) = exp(-3), exp(-6).
    half = [np.exp(-6), np.exp(-3), np.exp(-1), 1.0]
    np.testing.assert_allclose(gaussian([8]), [*half, *half[::-1]], rtol=1e-6)


def test_gaussian_is_a_product_over_axes_down_to_its_floor():
    line = gaussian([8])
    weight = gaussian([8, 8])
    np.testing.assert_allclose(weight[2:6, 2:6], np.outer(line, line)[2:6, 2:6], rtol=1e-6)
    assert weight[0, 0] == np.float32(0.001)  # exp(-12) without the floor


# --- slide ---


@given(sizes_and_windows(), STEPS, st.integers(1, 5))
def test_identity_reassembles_the_image(sizes: tuple[tuple[int, ...], tuple[int, ...]], step: float, batch: int):
    size, window = sizes
    image = noise(2, *size)
    out = slide(image, window, channel, step=step, batch=batch)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, image[0], rtol=1e-5)


def test_overlapping_windows_are_blended_by_the_gaussian():
    # Windows of 8 at 0 and 4 answer 1 and 3. Voxel 4 is the fifth of the first window (weight 1) and the first of the
    # second (exp(-6)); at voxel 5 the weights are exp(-1) and exp(-3).
    answers = iter([1.0, 3.0])

    def predict(windows: np.ndarray) -> np.ndarray:
        return np.full((1, 1, 1, 8), next(answers), np.float32)

    out = slide(noise(1, 1, 1, 12), (1, 1, 8), predict)[0, 0]
    near, far = np.exp([-1.0, -3.0])
    fifth, sixth = (1 + 3 * np.exp(-6)) / (1 + np.exp(-6)), (near + 3 * far) / (near + far)
    expected = [1, 1, 1, 1, fifth, sixth, 4 - sixth, 4 - fifth, 3, 3, 3, 3]
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_predict_gets_stacked_windows_of_all_channels():
    shapes, image = [], noise(2, 4, 4, 20)

    def predict(windows: np.ndarray) -> np.ndarray:
        shapes.append(windows.shape)
        return windows[:, 1]

    out = slide(image, (4, 4, 4), predict, step=1.0, batch=2)
    assert shapes == [(2, 2, 4, 4, 4), (2, 2, 4, 4, 4), (1, 2, 4, 4, 4)]
    np.testing.assert_allclose(out, image[1], rtol=1e-6)


@pytest.mark.parametrize("batch", [2, 3, 7, 1000])
def test_the_batch_size_changes_nothing(batch: int):
    image = noise(2, 9, 10, 11)
    alone = slide(image, (4, 5, 6), depends_on_the_window)
    np.testing.assert_allclose(slide(image, (4, 5, 6), depends_on_the_window, batch=batch), alone, rtol=1e-6)


@given(sizes_and_windows(largest=9), STEPS, st.integers(0, 2**32 - 1), st.floats(0.001, 0.3))
def test_inside_a_mask_the_result_is_that_of_every_window(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], step: float, seed: int, share: float
):
    size, window = sizes
    mask = np.random.default_rng(seed).random(size) < share
    image = noise(1, *size)
    everywhere = slide(image, window, depends_on_the_window, step=step)
    masked = slide(image, window, depends_on_the_window, mask, step)
    np.testing.assert_allclose(masked, everywhere * mask, rtol=1e-6)


@pytest.mark.parametrize(
    ("voxels", "windows"),
    [([], 0), ([9], 1), ([3, 12], 2), ([7, 8], 2), ([0, 4, 8, 12], 4)],
)
def test_windows_that_hold_no_mask_are_not_run(voxels: list[int], windows: int):
    # Windows at 0, 4, 8 and 12 do not overlap.
    mask = np.zeros((4, 4, 16), bool)
    mask[2, 1, voxels] = True
    run = []

    def predict(batch: np.ndarray) -> np.ndarray:
        run.extend(batch)
        return np.ones((len(batch), 4, 4, 4), np.float32)

    out = slide(noise(1, 4, 4, 16), (4, 4, 4), predict, mask, step=1.0, batch=3)
    assert len(run) == windows
    np.testing.assert_allclose(out, mask.astype(np.float32), rtol=1e-6)


def test_the_image_is_left_as_it_was():
    image = noise(1, 6, 6, 6)
    before = image.copy()
    slide(image, (4, 4, 4), depends_on_the_window, np.ones((6, 6, 6), bool))
    np.testing.assert_array_equal(image, before)
