"""The paper's Fig. 3: what is boxed, where, and the right way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from test_pipeline import ORIENTATIONS, body_case
from test_validate import write_study

from l2snet.case import Case
from l2snet.cli import main
from l2snet.errors import InputError
from l2snet.evaluation.metrics import components
from l2snet.report.comparison import FALSE_NEGATIVE, FALSE_POSITIVE, comparison_picture, panel
from l2snet.volume import write_volume


def with_lesions(case: Case, lesions: np.ndarray) -> Case:
    return Case(case.name, case.suv, case.ct, case.suv.with_array(lesions.astype(np.float32)))


def ball(case: Case) -> np.ndarray:
    """The lesion: the hot ball, to the left, in front and above."""
    return case.suv.array > 5


def elsewhere(case: Case) -> np.ndarray:
    """A block of warm tissue to the right, behind and below, which is no lesion."""
    world = case.geometry.world(np.stack(np.indices(case.geometry.size), axis=-1))
    left, posterior, superior = np.moveaxis(world, -1, 0)
    return (np.abs(left + 14) < 6) & (np.abs(posterior - 8) < 6) & (np.abs(superior + 12) < 9)


def pixels(path: Path, colour: str) -> np.ndarray:
    """(n, 2) rows and columns, as fractions of the picture, of pixels of a colour, opaque."""
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    picture = imread(path)[..., :3]
    picture[-picture.shape[0] // 8 :] = 1  # without the legend
    found = np.argwhere(np.abs(picture - wanted).max(axis=-1) < 0.02)
    return found / picture.shape[:2]


def test_what_is_false_is_boxed() -> None:
    """The truth is the ball; the mask is the block instead. In a (z, y, x) array the boxes are their extents."""
    case = body_case()
    found = panel("wrong", ball(case), elsewhere(case), case.geometry.voxel_ml)
    places = {colour: (style, place) for colour, style, place in found.boxes}
    assert {colour: style for colour, (style, _) in places.items()} == {FALSE_POSITIVE: "-", FALSE_NEGATIVE: "--"}
    for colour, part in ((FALSE_POSITIVE, elsewhere(case)), (FALSE_NEGATIVE, ball(case))):
        box = np.zeros_like(part)
        box[places[colour][1]] = True
        extent = [np.flatnonzero(part.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        assert [int(box.any(axis=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)] == [len(e) for e in extent]
        assert box[part].all()
    np.testing.assert_array_equal(found.wrong, elsewhere(case))
    np.testing.assert_array_equal(found.missing, ball(case))
    volumes = [part.sum() * case.geometry.voxel_ml for part in (elsewhere(case), ball(case))]
    assert found.title == f"wrong\nDice 0.00\nFPV {volumes[0]:.1f} ml (1), FNV {volumes[1]:.1f} ml (1)"


def test_what_is_right_is_not_boxed() -> None:
    case = body_case()
    right = panel("right", ball(case), ball(case), case.geometry.voxel_ml)
    assert right.boxes == ()
    assert right.title == "right\nDice 1.00\nFPV 0.0 ml (0), FNV 0.0 ml (0)"
    nothing = panel("none", ball(case) & False, ball(case) & False, case.geometry.voxel_ml)
    assert (nothing.boxes, nothing.title.splitlines()[1]) == ((), "no lesion")


def test_of_many_false_components_the_largest_are_boxed() -> None:
    mask = np.zeros((4, 4, 80), bool)
    mask[1, 1, ::4] = True  # 20 of one voxel
    mask[1, 1:3, 40] = True  # one of them of two
    found = panel("many", np.zeros_like(mask), mask, 1.0)
    assert len(components(mask, mask).voxels) == 20
    assert len(found.boxes) == 12
    assert found.boxes[0][2] == (slice(1, 2), slice(1, 3), slice(40, 41))
    assert "FPV 21.0 ml (20)" in found.title


@pytest.mark.parametrize("projection", [True, False])
def test_the_boxes_are_drawn_where_the_components_are(tmp_path: Path, projection: bool) -> None:
    """Left is on the right, and up is up. The slice with the most lesion does not cut the block behind it."""
    case = with_lesions(body_case(), ball(body_case()))
    path = tmp_path / "deep" / "a.png"
    comparison_picture(case, {"wrong": elsewhere(case)}, path, projection)
    missed, wrong = pixels(path, FALSE_NEGATIVE), pixels(path, FALSE_POSITIVE)
    assert len(missed) > 50
    assert (len(wrong) > 50) is projection
    if projection:
        assert missed[:, 0].mean() < wrong[:, 0].mean() - 0.1  # above
        assert missed[:, 1].mean() > wrong[:, 1].mean() + 0.05  # to the left, on the picture's right
        assert wrong[:, 1].min() > 0.4  # in the second panel, not in the truth's


def test_a_right_mask_has_no_box_in_the_picture(tmp_path: Path) -> None:
    case = with_lesions(body_case(), ball(body_case()))
    comparison_picture(case, {"right": ball(case)}, tmp_path / "a.png")
    for colour in (FALSE_NEGATIVE, FALSE_POSITIVE):
        assert len(pixels(tmp_path / "a.png", colour)) == 0


@pytest.mark.parametrize("number", [17, 40])
@pytest.mark.parametrize("projection", [True, False])
def test_the_picture_does_not_depend_on_the_axis_order(tmp_path: Path, number: int, projection: bool) -> None:
    pictures = []
    for name, direction in (
        ("canonical", np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])),
        ("other", ORIENTATIONS[number]),
    ):
        spacing = np.abs(direction).T @ np.array([2.036, 2.036, 3.0])
        size = tuple(int(n) for n in np.abs(direction).T @ np.array([48, 44, 40]))
        case = body_case(size, tuple(float(s) for s in spacing), direction.astype(float))
        masks = {"wrong": elsewhere(case), "both": elsewhere(case) | ball(case)}
        comparison_picture(with_lesions(case, ball(case)), masks, tmp_path / f"{name}.png", projection)
        pictures.append(imread(tmp_path / f"{name}.png"))
    np.testing.assert_array_equal(*pictures)


def test_a_case_without_a_lesion_is_drawn(tmp_path: Path) -> None:
    case = with_lesions(body_case(), ball(body_case()) & False)
    for projection in (True, False):
        comparison_picture(case, {"none": ball(case) & False, "wrong": ball(case)}, tmp_path / "a.png", projection)
        assert len(pixels(tmp_path / "a.png", FALSE_POSITIVE)) > 50


def test_a_case_without_a_truth_is_refused(tmp_path: Path) -> None:
    case = body_case()
    with pytest.raises(InputError, match="no lesion mask"):
        comparison_picture(case, {"right": ball(case)}, tmp_path / "a.png")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = body_case()
    write_study(tmp_path / "study", case, ball(case))
    write_volume(case.suv.with_array(elsewhere(case).astype(np.uint8)), tmp_path / "mask.mha", compress=True)
    arguments = ["figure", str(tmp_path / "study"), str(tmp_path / "a.png"), "--mask"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, f"2D={tmp_path / 'mask.mha'}"])
    assert ended.value.code == 0, capsys.readouterr().err
    assert len(pixels(tmp_path / "a.png", FALSE_POSITIVE)) > 50
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "2D"])
    assert ended.value.code == 1
    assert "expected NAME=FILE" in capsys.readouterr().err
