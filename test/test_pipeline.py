"""The whole method with networks whose answer is known: geometry, skipping of air, folds, fusion, sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from known_weights import write_known_weights

from l2snet.backend import Network
from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.localize import localize
from l2snet.mirror import mirror_axes
from l2snet.pipeline import L2SNet, Segmentation
from l2snet.preprocess import WORKING_SPACING_MM, LogScale, Window, between_means, means, prepare
from l2snet.segment import flips, segment
from l2snet.volume import Geometry, Volume
from l2snet.weights import CONFIG, LOCALIZER, SEGMENTER, NetworkConfig, read_config, write_sums


def config(network: str, **changes: object) -> NetworkConfig:
    segmenter = network == SEGMENTER
    default = NetworkConfig(
        network=network,
        architecture={},
        pet=Window(0.0, 10.0),
        ct=Window(-100.0, 250.0) if segmenter else None,
        window=(16, 16, 16) if segmenter else None,
        multiple=8 if segmenter else 32,
        thresholds={"on_cue": 0.1, "off_cue": 0.5} if segmenter else {"cue": 0.5},
    )
    return replace(default, **changes)


def pet_network(network: str, **changes: object) -> Network:
    """Probability = PET / 10, voxel by voxel."""
    return Network(config(network, **changes), "0" * 64, "test", lambda batch: batch[:, :1].copy())


def neighbour_network() -> Network:
    """Probability from the whole window: the PET channel blurred far by a running mean, so that content matters."""

    def run(batch: np.ndarray) -> np.ndarray:
        blurred = batch[:, :1]
        for axis in (2, 3, 4):
            blurred = (blurred + np.roll(blurred, 3, axis) + np.roll(blurred, -3, axis)) / 3
        return (blurred + batch.mean(axis=(1, 2, 3, 4), keepdims=True)).astype(np.float32)

    return Network(config(SEGMENTER), "0" * 64, "test", run)


def body_case(
    size: tuple[int, int, int] = (40, 44, 48),
    spacing_mm: tuple[float, float, float] = WORKING_SPACING_MM,
    direction: np.ndarray | None = None,
    ct: bool = True,
) -> Case:
    """A warm ellipsoid of SUV 1 with a hot ball of SUV 8 to the left, in front and above."""
    matrix = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float) if direction is None else direction
    centre = (np.array(size) - 1) / 2
    origin = -(matrix * np.array(spacing_mm)) @ centre
    geometry = Geometry(
        size, spacing_mm, tuple(float(v) for v in origin), tuple(tuple(float(c) for c in row) for row in matrix)
    )
    world = geometry.world(np.stack(np.indices(size), axis=-1))
    left, posterior, superior = np.moveaxis(world, -1, 0)
    inside = (left / 38) ** 2 + (posterior / 32) ** 2 + (superior / 45) ** 2 < 1
    hot = (left - 14) ** 2 + (posterior + 8) ** 2 + (superior - 12) ** 2 < 9**2
    suv = np.where(hot, 8.0, np.where(inside, 1.0, 0.0)).astype(np.float32)
    hu = np.where(inside, 40.0, -1000.0).astype(np.float32)
    return Case("body", Volume(suv, geometry), Volume(hu, geometry) if ct else None)


def method(**changes: object) -> L2SNet:
    return L2SNet([pet_network(LOCALIZER)], [pet_network(SEGMENTER)], **changes)


ORIENTATIONS = [
    np.eye(3)[:, list(axes)] * np.array(signs)
    for axes in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


@pytest.mark.parametrize("direction", ORIENTATIONS, ids=lambda d: "".join("LPS"[i] for i in np.abs(d).argmax(axis=0)))
def test_the_result_is_on_the_pets_own_grid_whatever_its_orientation(direction: np.ndarray) -> None:
    """The voxelwise networks say SUV / 10, so the mask is exactly SUV > 1 on the cue and > 5 off it: the hot ball."""
    spacing = np.abs(direction).T @ np.array(WORKING_SPACING_MM[::-1])
    size = tuple(int(n) for n in np.abs(direction).T @ np.array([48, 44, 40]))
    case = body_case(size, tuple(float(s) for s in spacing), direction)
    result = method().segment(case)
    assert result.mask.geometry == case.geometry
    assert result.mask.array.dtype == np.uint8
    np.testing.assert_array_equal(result.mask.array, case.suv.array > 5)
    np.testing.assert_allclose(result.probability.array, case.suv.array / 10, atol=1e-6)
    assert result.notes == ()


@pytest.mark.parametrize("size", [(40, 44, 48), (41, 45, 47), (14, 44, 30)])
def test_a_network_of_coarser_voxels_sees_means_and_its_answer_is_brought_back(size: tuple[int, int, int]) -> None:
    body = prepare(body_case(size))
    seen: list[tuple[int, ...]] = []

    def run(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape[2:])
        return batch[:, :1].copy()

    settings = config(SEGMENTER, stride=(1, 2, 2), window=(16, 8, 16))
    probability = segment(body, Network(settings, "", "", run))
    assert set(seen) == {(16, 8, 16)}
    assert probability.shape == body.suv.shape
    expected = between_means(means(body.suv / 10, (1, 2, 2)), (1, 2, 2), body.suv.shape)
    np.testing.assert_allclose(probability, expected * body.mask, atol=1e-6)


@pytest.mark.parametrize("angle", [7.0, 30.0, -55.0])
@pytest.mark.parametrize("spacing_mm", [(3.0, 2.036, 2.036), (3.27, 4.69, 4.69)])
def test_an_oblique_scan_is_segmented_where_the_lesion_is(angle: float, spacing_mm: tuple[float, float, float]) -> None:
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    matrix = rotation @ tilt @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float)
    size = (56, 60, 60) if spacing_mm[1] < 3 else (40, 30, 30)
    case = body_case(size, spacing_mm, matrix)
    result = method().segment(case)
    truth, found = case.suv.array > 5, result.mask.array > 0
    assert result.mask.geometry == case.geometry
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.85
    centres = [case.geometry.world(np.argwhere(mask)).mean(axis=0) for mask in (truth, found)]
    assert np.abs(centres[0] - centres[1]).max() < 1.0  # mm
    assert result.notes != ()


def test_the_coronal_slices_are_coronal_and_upright() -> None:
    """What the 2D network is given, seen from outside: z runs up, x to the left, one slice per posterior position."""
    seen: list[np.ndarray] = []

    def run(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.copy())
        return np.zeros_like(batch[:, :1])

    direction = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]], float)  # array axes run to I, L and A
    case = body_case((40, 48, 44), (3.0, 2.036, 2.036), direction)
    body = prepare(case)
    localize(body, Network(config(LOCALIZER), "", "", run))
    slices = np.concatenate(seen)[:, 0]
    assert len(slices) == body.suv.shape[1]
    where = np.argwhere(slices > 0.7).mean(axis=0)  # (y, z, x) of the hot ball, in slices padded to (64, 64)
    middle = np.array([(len(slices) - 1) / 2, 31.5, 31.5])
    assert where[0] < middle[0]  # in front: towards anterior, low y
    assert where[1] > middle[1]  # above: high z
    assert where[2] > middle[2]  # left: high x


def test_neighbouring_slices_are_stacked_and_clamped_at_the_ends() -> None:
    body = prepare(body_case())
    body = replace(body, suv=np.broadcast_to(np.arange(body.suv.shape[1])[None, :, None], body.suv.shape) / 10.0)
    body = replace(body, mask=np.ones(body.suv.shape, bool))
    depth = body.suv.shape[1]
    stack = Network(config(LOCALIZER, slices=3, pet=Window(0, 100)), "", "", lambda b: b.mean(axis=1, keepdims=True))
    cue = localize(body, stack)
    # The mean of y-1, y, y+1 is y, but the first slice sees 0, 0, 1 and the last n-2, n-1, n-1.
    expected = np.arange(depth, dtype=float)
    expected[0], expected[-1] = 1 / 3, depth - 1 - 1 / 3
    np.testing.assert_allclose(cue[5, :, 5] * 1000, expected, atol=1e-3)


@pytest.mark.parametrize(("stride", "slices"), [(3, 1), (5, 1), (3, 3), (7, 5)])
@pytest.mark.parametrize("depth", [2, 21, 22, 23])
@pytest.mark.parametrize("flip", [False, True])
def test_of_every_slice_stride_the_middle_slice_is_run_with_its_own_neighbours(
    stride: int, slices: int, depth: int, flip: bool
) -> None:
    body = prepare(body_case())
    suv = body.suv[:, :depth]
    body = replace(body, suv=suv, mask=np.ones(suv.shape, bool), ct=None)
    count = 0

    def run(batch: np.ndarray) -> np.ndarray:
        nonlocal count
        count += len(batch)
        return batch.mean(axis=1, keepdims=True)

    beyond = np.pad(suv, ((0, 0), (0, -depth % stride), (0, 0)), mode="edge")
    longer = replace(body, suv=beyond, mask=np.ones(beyond.shape, bool))
    whole = localize(longer, Network(config(LOCALIZER, slices=slices), "", "", run), flip)[:, stride // 2 :: stride]
    count = 0
    cue = localize(body, Network(config(LOCALIZER, slices=slices, slice_stride=stride), "", "", run), flip)
    assert count == -(-depth // stride)
    np.testing.assert_allclose(cue, between_means(whole, (1, stride, 1), suv.shape), atol=1e-6)


def test_slices_have_the_size_of_training() -> None:
    """Shorter ones are padded with air, longer ones run in overlapping parts; a voxel's result is blended of both."""
    body = prepare(body_case())
    tall, _, wide = body.suv.shape
    seen: set[tuple[int, ...]] = set()

    def run(batch: np.ndarray) -> np.ndarray:
        seen.add(batch.shape[2:])
        return batch[:, :1] * 2

    for window in ((96, 96), (32, 64), (32, 32)):
        seen.clear()
        localizer = Network(config(LOCALIZER, window=window), "", "", run)
        assert tall > 32 < wide
        expected = 2 * localizer.config.pet(body.suv) * body.mask
        np.testing.assert_allclose(localize(body, localizer), expected, atol=1e-6)
        assert seen == {window}


def test_skipping_air_changes_nothing_inside_the_body() -> None:
    body = prepare(body_case())
    mask = body.mask & (np.indices(body.mask.shape).sum(axis=0) < 50)  # a ragged body, so that windows are left out
    everything = replace(body, mask=np.ones(body.mask.shape, bool))
    network = neighbour_network()
    calls = {"some": 0, "all": 0}

    def counted(name: str) -> Network:
        def run(batch: np.ndarray) -> np.ndarray:
            calls[name] += len(batch)
            return network.run(batch)

        return replace(network, run=run)

    some = segment(replace(body, mask=mask), counted("some"))
    all_windows = segment(everything, counted("all"))
    assert calls["some"] < calls["all"]
    np.testing.assert_array_equal(some[mask], all_windows[mask])
    assert not some[~mask].any()
    mask[:, : mask.shape[1] // 3] = False  # whole slices are left out
    for stride in (1, 3):
        network = replace(pet_network(LOCALIZER), config=config(LOCALIZER, slice_stride=stride))
        calls = {"some": 0, "all": 0}
        some = localize(replace(body, mask=mask), counted("some"))
        np.testing.assert_array_equal(some[mask], localize(everything, counted("all"))[mask])
        assert calls["some"] < calls["all"]


def test_the_batch_size_changes_no_voxel() -> None:
    body = prepare(body_case())
    np.testing.assert_array_equal(
        segment(body, neighbour_network(), batch=1), segment(body, neighbour_network(), batch=5)
    )
    localizer = pet_network(LOCALIZER)
    np.testing.assert_array_equal(localize(body, localizer, batch=1), localize(body, localizer, batch=7))


def test_folds_are_averaged() -> None:
    def constant(network: str, value: float) -> Network:
        return Network(config(network), "", "", lambda b: np.full_like(b[:, :1], value))

    folds = L2SNet(
        [constant(LOCALIZER, 0.2), constant(LOCALIZER, 0.6)], [constant(SEGMENTER, 0.1), constant(SEGMENTER, 0.5)]
    )
    case = body_case()
    result = folds.segment(case)
    inside = case.suv.array > 0
    np.testing.assert_allclose(result.probability.array[inside], 0.3, atol=1e-6)
    np.testing.assert_allclose(result.cue.array[inside], 0.4, atol=1e-6)
    assert not result.mask.array.any()  # cue 0.4 is not above 0.5, so 0.3 is held against 0.5


def test_mirroring_averages_every_flip() -> None:
    """A network that answers with the first voxel's PET along x: mirrored, each voxel sees both ends of its window."""

    def first_x(batch: np.ndarray) -> np.ndarray:
        return np.broadcast_to(batch[:, :1, ..., :1], batch[:, :1].shape).astype(np.float32)

    body = prepare(body_case((16, 16, 16), ct=False))
    body = replace(body, suv=np.zeros((16, 16, 16), np.float32), mask=np.ones((16, 16, 16), bool), ct=None)
    body.suv[..., -1] = 10.0
    network = Network(config(SEGMENTER), "", "", first_x)
    np.testing.assert_array_equal(segment(body, network), 0.0)
    passes = [segment(body, network, flip) for flip in flips((0, 1, 2))]
    assert len(passes) == 8
    np.testing.assert_allclose(np.mean(passes, axis=0), 0.5)  # half of the eight flips turn x round


@pytest.mark.parametrize("ct", [True, False])
def test_around_a_body_smaller_than_the_window_lies_air(ct: bool) -> None:
    """As the network's own intensities have it, whatever they make of air; a CT that is missing is zeros there too."""
    body = prepare(body_case(ct=ct))
    tall = body.suv.shape[0] + 8
    seen: list[np.ndarray] = []

    def run(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.copy())
        return batch[:, :1]

    window = (tall + -tall % 8, 96, 96)
    pet, hu = LogScale(0.5), Window(-1000.0, 1000.0, -1.0, 1.0)
    segment(body, Network(config(SEGMENTER, pet=pet, ct=hu, window=window, multiple=8), "", "", run))
    (image,) = np.concatenate(seen)
    corner = image[:, 0, 0, 0]
    np.testing.assert_allclose(corner, [-1.0, -1.0 if ct else 0.0])
    assert image[0].min() == -1.0


def test_mirroring_flips_only_what_training_flipped() -> None:
    calls = []

    def record(batch: np.ndarray) -> np.ndarray:
        calls.append(batch)
        return np.zeros_like(batch[:, :1])

    case = body_case((16, 16, 16), ct=False)
    networks = [Network(config(SEGMENTER, mirror_axes=axes), "", "", record) for axes in ((2,), (1, 2))]
    L2SNet([pet_network(LOCALIZER)], networks[:1], mirror=True).segment(case)
    plain, flipped = calls
    assert mirror_axes(networks) == (2,)  # what all of several mirrored
    np.testing.assert_array_equal(flipped, plain[..., ::-1])


@pytest.mark.parametrize("size", [(619, 20, 20), (6, 40, 40), (40, 5, 40), (2, 2, 2)])
def test_any_size_is_segmented(size: tuple[int, int, int]) -> None:
    geometry = Geometry(size, WORKING_SPACING_MM)
    suv = np.ones(size, np.float32)
    suv[tuple(n // 2 for n in size)] = 9.0
    result = method().segment(Case("any", Volume(suv, geometry)))
    np.testing.assert_array_equal(result.mask.array, suv > 5)
    assert "CT" in result.notes[0]


def test_one_slice_is_refused() -> None:
    with pytest.raises(InputError, match="one slice thick"):
        Case("thin", Volume(np.ones((1, 40, 40), np.float32), Geometry((1, 40, 40))))


def test_without_a_ct_the_segmenter_sees_zeros() -> None:
    seen: list[np.ndarray] = []

    def run(batch: np.ndarray) -> np.ndarray:
        seen.append(batch[:, 1].copy())
        return batch[:, :1].copy()

    segment(prepare(body_case(ct=False)), Network(config(SEGMENTER), "", "", run))
    assert not np.concatenate(seen).any()
    seen.clear()
    segment(prepare(body_case(ct=True)), Network(config(SEGMENTER), "", "", run))
    assert np.concatenate(seen).max() == pytest.approx(140 / 350)


def test_the_cue_says_which_components_are_kept() -> None:
    """By default, and in what calibration and tables compare; the paper's rule keeps both."""
    grid = body_case().geometry
    probability, cue = np.zeros((2, *grid.size), np.float32)
    probability[2:4, 5, 5] = probability[8:10, 5, 5] = 0.6
    cue[3, 5, 5] = 0.8
    suv = Volume(probability, grid)
    result = Segmentation("two", suv.with_array(np.zeros(grid.size, np.uint8)), suv, suv.with_array(cue))
    alone, both = np.zeros((2, *grid.size), np.uint8)
    alone[2:4, 5, 5] = both[2:4, 5, 5] = both[8:10, 5, 5] = 1
    l2snet = method()
    assert l2snet.settings["fusion"] == "cued"
    rows = l2snet.rows(result)
    np.testing.assert_array_equal(rows["L2SNet, cued"], alone)
    np.testing.assert_array_equal(rows["L2SNet, off-cue 0.5"], both)
    thresholds = l2snet.thresholds()
    np.testing.assert_array_equal(l2snet.threshold(result, thresholds), alone)
    np.testing.assert_array_equal(replace(l2snet, fusion="components").threshold(result, thresholds), alone)
    np.testing.assert_array_equal(replace(l2snet, fusion="adaptive").threshold(result, thresholds), both)


def test_off_cue_and_fusion_are_options() -> None:
    case = body_case()
    low = L2SNet([Network(config(LOCALIZER), "", "", np.zeros_like)], [pet_network(SEGMENTER)])
    assert not low.segment(case).mask.array.any()  # a cue of nothing
    low = replace(low, fusion="adaptive")
    assert low.segment(case).mask.array.sum() == (case.suv.array > 5).sum()
    assert not replace(low, off_cue=0.9).segment(case).mask.array.any()  # the hottest voxel is 0.8
    assert replace(low, off_cue=0.9).thresholds()["off_cue"] == 0.9
    # By components nothing is above 0.9, so a sure part is missing and only the highest voxel of each is kept.
    marks = replace(low, fusion="components").segment(case).mask.array
    assert marks.sum() == 1
    assert case.suv.array[marks > 0] == 8


def test_every_slice_sets_the_stride_of_the_weights_aside(tmp_path: Path) -> None:
    weights = write_known_weights(tmp_path)
    folder = weights / LOCALIZER
    known = replace(read_config(folder), slice_stride=3)
    (folder / CONFIG).write_text(known.to_json(), "utf-8")
    write_sums(folder)
    for every_slice, stride in ((False, 3), (True, 1)):
        found = L2SNet.from_weights([weights], "cpu", every_slice=every_slice)
        assert found.localizers[0].config == replace(known, slice_stride=stride)
        assert found.settings["slice_stride"] == stride


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"fusion": "vote"}, "fusion"), ({"off_cue": 1.5}, "off-cue"), ({"segmenters": []}, "at least one")],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(method(), **changes)


def test_a_body_in_the_whole_grid_gives_the_same_mask() -> None:
    case = body_case()
    np.testing.assert_array_equal(method(whole_grid=True).segment(case).mask.array, method().segment(case).mask.array)


# Time limit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only networks move on."""
    fake = SimpleNamespace(now=0.0)
    for module in ("pipeline", "mirror"):
        monkeypatch.setattr(f"l2snet.{module}.time", SimpleNamespace(perf_counter=lambda: fake.now))
    return fake


def slow_network(network: str, seconds: float, clock: SimpleNamespace) -> Network:
    """Probability = PET / 10, after so many seconds."""

    def run(batch: np.ndarray) -> np.ndarray:
        clock.now += seconds
        return batch[:, :1].copy()

    return Network(config(network, window=(16, 16, 16) if network == SEGMENTER else (32, 32)), "", "", run)


@pytest.mark.parametrize(
    ("deadline", "passes", "note"),
    [
        # One window a pass, 10 s each, after 16 s of slices; a second pass of slices, then seven of windows.
        (None, 8, ()),
        (112.1, 8, ()),
        (111.9, 7, ("the time limit left out 1 of 8 mirrored passes",)),
        (52.1, 2, ("the time limit left out 6 of 8 mirrored passes",)),
        (41.9, 2, ("the time limit left out 7 of 8 mirrored passes",)),  # slices take longer
        (0.0, 1, ("the time limit left out 8 of 8 mirrored passes",)),
    ],
)
def test_a_time_limit_leaves_out_mirrored_passes_and_never_the_case(
    clock: SimpleNamespace, deadline: float | None, passes: int, note: tuple[str, ...]
) -> None:
    case = body_case((16, 16, 16), ct=False)
    slices = -(-prepare(case).suv.shape[1] // 8)  # batches of eight
    localizer = slow_network(LOCALIZER, 16.0 / slices, clock)
    calls = []
    segmenter = slow_network(SEGMENTER, 10.0, clock)
    counted = replace(segmenter, run=lambda batch: (calls.append(batch), segmenter.run(batch))[1])
    result = L2SNet([localizer], [counted], mirror=True, deadline=deadline).segment(case)
    assert len(calls) == passes
    assert result.notes[1:] == note
    np.testing.assert_allclose(result.probability.array, case.suv.array / 10, atol=1e-6)
    np.testing.assert_allclose(result.cue.array, case.suv.array / 10, atol=1e-6)


def test_without_mirroring_a_time_limit_changes_nothing(clock: SimpleNamespace) -> None:
    case = body_case()
    late = L2SNet([slow_network(LOCALIZER, 9.0, clock)], [slow_network(SEGMENTER, 9.0, clock)], deadline=1.0)
    result = late.segment(case)
    assert result.notes == ()
    np.testing.assert_array_equal(result.mask.array, case.suv.array > 5)


def test_the_body_of_a_case_on_the_working_grid_is_no_copy() -> None:
    case = body_case()
    body = prepare(case)
    assert np.shares_memory(body.suv, case.suv.array)
    assert np.shares_memory(body.ct, case.ct.array)
