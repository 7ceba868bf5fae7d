"""The projection picture: what is drawn, and the right way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from test_pipeline import ORIENTATIONS, body_case

from l2snet.report.pictures import projection_picture


def red(path: Path) -> np.ndarray:
    """(rows, columns) bool: clearly coloured pixels, which only lesions are."""
    picture = imread(path)[..., :3]
    return picture[..., 0] - picture[..., 1] > 0.25


def test_only_a_lesion_is_coloured(tmp_path: Path) -> None:
    case = body_case()
    projection_picture(case.suv, case.suv.with_array((case.suv.array > 5).astype(np.uint8)), tmp_path / "a.png", "a")
    projection_picture(case.suv, case.suv.with_array(np.zeros(case.suv.array.shape, np.uint8)), tmp_path / "b.png", "b")
    assert red(tmp_path / "a.png").sum() > 1000
    assert not red(tmp_path / "b.png").any()


@pytest.mark.parametrize("number", [0, 17, 40])
def test_the_picture_does_not_depend_on_the_axis_order(tmp_path: Path, number: int) -> None:
    pictures = []
    for name, direction in (
        ("canonical", np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])),
        ("other", ORIENTATIONS[number]),
    ):
        spacing = np.abs(direction).T @ np.array([2.036, 2.036, 3.0])
        size = tuple(int(n) for n in np.abs(direction).T @ np.array([48, 44, 40]))
        case = body_case(size, tuple(float(s) for s in spacing), direction.astype(float))
        mask = case.suv.with_array((case.suv.array > 5).astype(np.uint8))
        projection_picture(case.suv, mask, tmp_path / f"{name}.png", "body")
        pictures.append(imread(tmp_path / f"{name}.png"))
    np.testing.assert_array_equal(*pictures)
