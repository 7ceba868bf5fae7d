"""The adaptive threshold and the released component rules, on volumes small enough to work out by hand.

The component rules are tested on one line of voxels (1, 1, n): a component is then a run of voxels.
"""

from __future__ import annotations

import numpy as np
import pytest

from l2snet.fuse import adaptive, components, cued

Runs = dict[tuple[int, int], float]
LENGTH = 400


# --- adaptive ---


@pytest.mark.parametrize("off_cue", [0.5, 0.9])
@pytest.mark.parametrize(
    ("probability", "cue", "expected"),
    [
        # On the cue (above 0.5) from above 0.1 on, whatever the threshold off it.
        (0.10, 0.51, {0.5: 0, 0.9: 0}),
        (0.11, 0.51, {0.5: 1, 0.9: 1}),
        (0.11, 1.00, {0.5: 1, 0.9: 1}),
        (0.00, 1.00, {0.5: 0, 0.9: 0}),
        # A cue of exactly 0.5 is off.
        (0.11, 0.50, {0.5: 0, 0.9: 0}),
        (0.50, 0.50, {0.5: 0, 0.9: 0}),
        (0.51, 0.50, {0.5: 1, 0.9: 0}),
        (0.90, 0.00, {0.5: 1, 0.9: 0}),
        (0.91, 0.00, {0.5: 1, 0.9: 1}),
    ],
)
def test_adaptive_at_the_thresholds(probability: float, cue: float, expected: dict[float, int], off_cue: float):
    shape = (1, 1, 1)
    mask = adaptive(np.full(shape, probability, np.float32), np.full(shape, cue, np.float32), off_cue=off_cue)
    assert mask.item() == expected[off_cue]


def test_adaptive_has_the_papers_thresholds_unless_told():
    probability = np.array([[[0.1, 0.11, 0.5, 0.51]] * 2], np.float32)
    cue = np.array([[[0.51] * 4, [0.5] * 4]], np.float32)
    assert adaptive(probability, cue).tolist() == [[[0, 1, 1, 1], [0, 0, 0, 1]]]


def test_adaptive_takes_all_thresholds_from_its_arguments():
    probability = np.array([[[0.25, 0.35, 0.65, 0.75]] * 2], np.float32)
    cue = np.array([[[0.15] * 4, [0.25] * 4]], np.float32)
    mask = adaptive(probability, cue, on_cue=0.3, off_cue=0.7, cue_threshold=0.2)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[[0, 0, 0, 1], [0, 1, 1, 1]]]


def test_adaptive_marks_nothing_off_the_cue_at_1():
    sure, cue = np.ones((1, 1, 2), np.float32), np.array([[[0.4, 0.6]]], np.float32)
    assert adaptive(sure, cue, off_cue=1.0).tolist() == [[[0, 1]]]


def test_adaptive_never_adds_when_a_threshold_rises():
    rng = np.random.default_rng(0)
    probability, cue = rng.random((2, 6, 7, 8), np.float32)
    loose, strict = (adaptive(probability, cue, off_cue=off).astype(bool) for off in (0.5, 0.9))
    assert (loose | ~strict).all()
    assert (loose != strict).sum() == ((cue <= 0.5) & (probability > 0.5) & (probability <= np.float32(0.9))).sum()


# --- cued ---


def test_cued_keeps_components_whole_of_which_the_cue_has_some():
    probability = line({(2, 10): 0.6, (20, 30): 0.6, (24, 25): 0.2, (40, 45): 0.2})
    cue = line({(9, 12): 0.8, (24, 25): 0.8, (40, 42): 0.8, (60, 70): 0.8})
    mask = cued(probability, cue, on_cue=0.1, off_cue=0.5, cue_threshold=0.7)
    assert mask.dtype == np.uint8
    # The faint voxel of the second lies on the cue and joins its halves; of the third only what lies on the cue.
    assert np.flatnonzero(mask[0, 0]).tolist() == [*span(2, 10), *span(20, 30), 40, 41]


def test_cued_leaves_of_a_component_only_the_cue_where_that_is_a_small_part_of_it():
    probability, cue = line({(0, 30): 0.9, (40, 70): 0.9}), line({(4, 6): 0.8, (44, 47): 0.8})
    assert np.flatnonzero(cued(probability, cue, least_overlap=0.1)).tolist() == [4, 5, *span(40, 70)]
    assert np.flatnonzero(cued(probability, cue, least_overlap=0.0)).tolist() == [*span(0, 30), *span(40, 70)]
    assert np.flatnonzero(cued(probability, cue, least_overlap=0.11)).tolist() == [4, 5, 44, 45, 46]


def test_cued_asks_for_a_fiftieth_by_default():
    probability, cue = np.ones((2, 150, 1, 1), np.float32)
    for seen, kept in ((2, 2), (3, 150)):
        assert cued(probability, cue * (np.arange(150) < seen)[:, None, None]).sum() == kept


def test_cued_leaves_out_components_that_the_cue_is_beside():
    probability, cue = line({(2, 10): 0.6, (20, 30): 0.9}), line({(11, 19): 1.0, (20, 30): 0.5})
    assert adaptive(probability, cue, cue_threshold=0.5).sum() == 18
    assert not cued(probability, cue, cue_threshold=0.5).any()


def test_cued_counts_edges_but_not_corners_as_contact():
    for corner, kept in (((0, 1, 1), 2), ((1, 1, 1), 1)):
        probability, cue = np.zeros((2, 2, 2, 2), np.float32)
        probability[0, 0, 0] = probability[corner] = cue[0, 0, 0] = 1
        assert cued(probability, cue).sum() == kept


def test_cued_marks_what_adaptive_does_where_nothing_is_marked_off_the_cue():
    probability, cue = np.random.default_rng(1).random((2, 9, 8, 7), np.float32)
    np.testing.assert_array_equal(cued(probability, cue, off_cue=1.0), adaptive(probability, cue, off_cue=1.0))
    assert not cued(np.zeros((3, 3, 3), np.float32), np.ones((3, 3, 3), np.float32)).any()


# --- components ---


def line(runs: Runs) -> np.ndarray:
    """(1, 1, LENGTH) float32, zero but for `value` at first <= x < end; later runs overwrite earlier ones."""
    array = np.zeros((1, 1, LENGTH), np.float32)
    for (first, end), value in runs.items():
        array[0, 0, first:end] = value
    return array


def marked(probability: Runs, cue: Runs, scale: float = 1.0) -> list[int]:
    mask = components(line(probability), line(cue), scale)
    assert mask.dtype == np.uint8
    assert mask.shape == (1, 1, LENGTH)
    assert set(np.unique(mask)) <= {0, 1}
    return np.flatnonzero(mask[0, 0]).tolist()


def span(first: int, end: int) -> list[int]:
    return list(range(first, end))


# A sure lesion of 60 voxels on the cue: it passes rule 1, is kept whole by rule 2, and is the largest cue component.
SURE: Runs = {(0, 60): 0.95}
SURE_CUE: Runs = {(0, 60): 1.0}


def test_nothing_gives_nothing():
    assert marked({}, {}) == []


def test_a_sure_lesion_on_the_cue_is_kept_whole():
    assert marked(SURE, SURE_CUE) == span(0, 60)


# Rule 1: largest above 0.9 under 50 voxels, and largest above 0.5 under 150.


def test_rule_1_small_in_both_counts_is_empty_even_where_the_cue_is():
    assert marked({(0, 149): 0.6, (0, 49): 0.95}, {(0, 400): 1.0}) == []


def test_rule_1_fifty_high_voxels_are_enough():
    # 149 / 50 is more than 2.25: rule 2 keeps the part above 0.9.
    assert marked({(0, 149): 0.6, (0, 50): 0.95}, {(0, 149): 1.0}) == span(0, 50)


def test_rule_1_a_hundred_and_fifty_low_voxels_are_enough():
    # 49 above 0.9 and 150 / 49 is more than 2.25: the part above 0.9.
    assert marked({(0, 150): 0.6, (0, 49): 0.95}, {(0, 150): 1.0}) == span(0, 49)


def test_rule_1_counts_single_components_and_not_their_sum():
    assert marked({(0, 49): 0.95, (60, 109): 0.95, (200, 340): 0.6}, {(0, 400): 1.0}) == []


def test_rule_1_thresholds_are_strict():
    # float32 0.9 and 0.5 are not above the thresholds: no component at all.
    assert marked({(0, 60): 0.5, (100, 300): 0.5}, {(0, 400): 1.0}) == []
    # 60 voxels of exactly 0.9 are not high, and 60 low ones are too few.
    assert marked({(0, 60): 0.9}, {(0, 60): 1.0}) == []


def test_rule_1_no_component_has_no_size_however_large_a_voxel_is():
    # A voxel counts for 200: one above 0.9, or above 0.5, would do; here none is, and the cue is left alone.
    assert marked({(0, 5): 0.3}, {(0, 5): 1.0}, 200.0) == []
    assert marked({(0, 1): 0.95}, {(0, 1): 1.0}, 200.0) == [0]


# Rule 2: each component above 0.5.


def test_rule_2_fewer_than_20_high_voxels_leave_the_highest_one():
    other = {(100, 119): 0.95, (105, 106): 0.99}  # 19 voxels
    assert marked({**SURE, **other}, {**SURE_CUE, (100, 119): 1.0}) == [*span(0, 60), 105]


def test_rule_2_twenty_high_voxels_are_kept():
    other = {(100, 120): 0.95, (105, 106): 0.99}
    assert marked({**SURE, **other}, {**SURE_CUE, (100, 120): 1.0}) == [*span(0, 60), *span(100, 120)]


def test_rule_2_no_cue_leaves_the_highest_voxel():
    assert marked({(0, 60): 0.95, (33, 34): 0.97}, {}) == [33]


def test_rule_2_a_cue_of_exactly_one_half_is_none():
    assert marked({(0, 60): 0.95, (33, 34): 0.97}, {(0, 60): 0.5}) == [33]


def test_rule_2_one_voxel_of_cue_is_enough_wherever_it_lies():
    # The cue is on the faint part.
    assert marked({(0, 60): 0.95, (60, 70): 0.6}, {(69, 70): 0.51}) == span(0, 70)


def test_rule_2_of_tied_voxels_the_first_is_marked():
    assert marked({(10, 70): 0.95}, {}) == [10]


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        (45, 45),  # 45 / 20 is exactly 2.25: all of it
        (46, 20),  # more than 2.25: the 20 voxels above 0.9
    ],
)
def test_rule_2_a_spread_component_keeps_its_high_part(size: int, kept: int):
    other = {(100, 100 + size): 0.6, (100, 120): 0.95}
    cue = {**SURE_CUE, (100, 100 + size): 1.0}
    assert marked({**SURE, **other}, cue) == [*span(0, 60), *span(100, 100 + kept)]


def angle_and_island(angle: float, island: float) -> np.ndarray:
    """(1, 60, 60): two edges of the plane, 119 voxels, and apart from them, but within their box, 5 x 5 voxels."""
    array = np.zeros((1, 60, 60), np.float32)
    array[0, 0, :], array[0, :, 0] = angle, angle
    array[0, 10:15, 10:15] = island
    return array


def test_rule_2_counts_no_voxels_of_another_component_in_its_box():
    # The angle: 50 of 119 voxels above 0.9, so only these. With the island's 25 it would be kept whole.
    # The island is off the cue: its highest voxel.
    probability = angle_and_island(0.6, 0.95)
    probability[0, 0, :50], probability[0, 12, 12] = 0.95, 0.97
    mask = components(probability, angle_and_island(1.0, 0.0))
    expected = np.zeros_like(mask)
    expected[0, 0, :50], expected[0, 12, 12] = 1, 1
    np.testing.assert_array_equal(mask, expected)


def test_rule_2_takes_no_highest_voxel_from_another_component_in_its_box():
    probability = angle_and_island(0.95, 0.98)
    probability[0, 30, 0], probability[0, 12, 12] = 0.96, 0.99
    mask = components(probability, np.zeros_like(probability))
    assert np.argwhere(mask).tolist() == [[0, 12, 12], [0, 30, 0]]


def test_rule_3_a_result_in_the_box_beside_a_cue_does_not_make_it_done():
    # The island is a lesion of 25 sure voxels; the cue on the angle is missed, at 0.2, highest at (30, 0).
    probability = angle_and_island(0.2, 0.95)
    probability[0, 30, 0] = 0.3
    probability[0, 20:28, 20:28] = 0.95  # 64 voxels off the cue for rule 1: their first one
    mask = components(probability, angle_and_island(1.0, 1.0))
    expected = np.zeros_like(mask)
    expected[0, 10:15, 10:15], expected[0, 20, 20], expected[0, 30, 0] = 1, 1, 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(("step", "joined"), [((0, 1, 1), True), ((1, 1, 1), False)], ids=["edge", "corner"])
def test_components_are_18_connected(step: tuple[int, int, int], joined: bool):
    # Two bars of 30 voxels above 0.9, which touch along an edge or at a corner; 30 alone are too few for rule 1.
    probability = np.zeros((4, 4, 62), np.float32)
    probability[0, 0, :30] = 0.95
    probability[step[0], step[1], 29 + step[2] : 59 + step[2]] = 0.95
    cue = np.zeros_like(probability)
    cue[0, 0, :30] = 1.0  # on one of the bars
    mask = components(probability, cue)
    assert mask.sum() == (60 if joined else 0)


@pytest.mark.parametrize(("step", "joined"), [((0, 1, 1), True), ((1, 1, 1), False)], ids=["edge", "corner"])
def test_cues_are_18_connected(step: tuple[int, int, int], joined: bool):
    # Beside a sure lesion, two bars of cue that the result misses: a voxel for each component of them.
    probability = np.zeros((4, 4, 62), np.float32)
    probability[0, 0, :30] = probability[step[0], step[1], 29 + step[2] : 59 + step[2]] = 0.2
    cue = (probability > 0).astype(np.float32)
    probability[3, 3, :60] = 0.95
    cue[3, 3, :60] = 1.0
    assert components(probability, cue).sum() == 60 + (1 if joined else 2)


# Rule 3: each cue component that the result misses.


def test_rule_3_above_a_tenth_the_highest_voxel_is_marked():
    other = {(100, 110): 0.2, (104, 105): 0.3}
    assert marked({**SURE, **other}, {**SURE_CUE, (100, 110): 1.0}) == [*span(0, 60), 104]


def test_rule_3_only_the_cues_own_voxels_count():
    # The higher probability at 90..99 is not on the cue.
    other = {(90, 100): 0.4, (100, 110): 0.2, (104, 105): 0.3}
    assert marked({**SURE, **other}, {**SURE_CUE, (100, 110): 1.0}) == [*span(0, 60), 104]


def test_rule_3_a_cue_that_the_result_touches_is_done():
    # The cue reaches far beyond the lesion, where the probability is 0.4; nothing is added.
    assert marked({**SURE, (60, 100): 0.4}, {(59, 100): 1.0}) == span(0, 60)


def test_rule_3_a_cue_beside_the_kept_part_is_missed():
    # Rule 2 keeps 0..19 of 0..59 (60 / 20 = 3); the cue lies on the rest, whose first voxel is then marked.
    runs: Runs = {(0, 60): 0.6, (0, 20): 0.95, (100, 160): 0.95}
    cue: Runs = {(30, 40): 1.0, (100, 160): 1.0}
    assert marked(runs, cue) == [*span(0, 20), 30, *span(100, 160)]


@pytest.mark.parametrize(
    ("size", "highest", "is_marked"),
    [
        (35, 0.1, False),  # not above 0.1, and no larger than A = 35
        (36, 0.1, True),
        (36, 2e-5, True),
        (36, 1e-5, True),
        (36, 0.9e-5, False),  # under 1e-5
        (36, 0.0, False),
        (35, 0.11, True),  # above 0.1 the size does not matter
        (1, 0.11, True),
    ],
)
def test_rule_3_faint_cues_by_size_and_probability(size: int, highest: float, is_marked: bool):
    # Two cue components and one low component: the fifth largest does not exist, so A is 35.
    other = {(100, 101): highest}
    expected = [*span(0, 60), 100] if is_marked else span(0, 60)
    assert marked({**SURE, **other}, {**SURE_CUE, (100, 100 + size): 1.0}) == expected


def faint_cues(*sizes: int) -> tuple[Runs, Runs, list[int]]:
    """Cue components of these sizes from x = 100 on, 2 apart, with 0.05 at their first voxel, 0.04 elsewhere."""
    probability, cue, starts, at = {}, {}, [], 100
    for size in sizes:
        probability[(at, at + size)] = 0.04
        probability[(at, at + 1)] = 0.05
        cue[(at, at + size)] = 1.0
        starts.append(at)
        at += size + 2
    return probability, cue, starts


def test_rule_3_a_is_the_size_of_the_fifth_largest_cue_for_one_low_component():
    # Cue components of 60 (the lesion), 50, 48, 46 and 40 voxels: A = 40, so that of 40 is skipped.
    probability, cue, starts = faint_cues(40, 46, 48, 50)
    assert marked({**SURE, **probability}, {**SURE_CUE, **cue}) == [*span(0, 60), *starts[1:]]


def test_rule_3_a_may_be_smaller_than_35():
    # The fifth largest has 10 voxels: those of 11 and more are marked.
    probability, cue, starts = faint_cues(10, 11, 12, 13)
    assert marked({**SURE, **probability}, {**SURE_CUE, **cue}) == [*span(0, 60), *starts[1:]]


def test_rule_3_with_four_cues_a_is_35():
    probability, cue, starts = faint_cues(40, 46, 34)
    assert marked({**SURE, **probability}, {**SURE_CUE, **cue}) == [*span(0, 60), *starts[:2]]


def test_rule_3_each_low_component_moves_a_one_further():
    # Two low components: A is the sixth largest of five, so 35, and that of 40 is marked too.
    probability, cue, starts = faint_cues(40, 46, 48, 50)
    second: Runs = {(70, 90): 0.6, (80, 81): 0.7}  # off the cue: its highest voxel
    assert marked({**SURE, **second, **probability}, {**SURE_CUE, **cue}) == [*span(0, 60), 80, *starts]


# Voxels of another grid: each of these counts for two.


def test_scale_counts_in_rule_1():
    assert marked({(0, 25): 0.95}, {(0, 25): 1.0}, 2.0) == span(0, 25)  # 50 above 0.9
    assert marked({(0, 75): 0.6, (0, 24): 0.95}, {(0, 75): 1.0}, 2.0) == span(0, 24)  # 150 above 0.5
    assert marked({(0, 74): 0.6, (0, 24): 0.95}, {(0, 74): 1.0}, 2.0) == []


def test_scale_counts_in_rule_2():
    other: Runs = {(100, 110): 0.95, (120, 129): 0.95}  # 20 and 18
    cue: Runs = {**SURE_CUE, (100, 110): 1.0, (120, 129): 1.0}
    assert marked({**SURE, **other}, cue, 2.0) == [*span(0, 60), *span(100, 110), 120]


def test_scale_counts_in_rule_3():
    probability, cue, starts = faint_cues(17, 18)  # 34 and 36, and A is 35
    assert marked({**SURE, **probability}, {**SURE_CUE, **cue}, 2.0) == [*span(0, 60), starts[1]]
    probability, cue, starts = faint_cues(20, 23, 24, 25)  # A is 40
    assert marked({**SURE, **probability}, {**SURE_CUE, **cue}, 2.0) == [*span(0, 60), *starts[1:]]
