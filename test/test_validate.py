"""Scores on held-out studies, with networks whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import body_case, pet_network

from l2snet.backend import Network
from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.evaluation.validate import held_out, means, predictions, score, validate, write_metrics
from l2snet.pipeline import L2SNet
from l2snet.volume import write_volume
from l2snet.weights import LOCALIZER, SEGMENTER


def trained_on(network: Network, *cases: str) -> Network:
    return replace(network, config=replace(network.config, trained={"cases": list(cases)}))


def method(localizer_saw: tuple[str, ...] = (), segmenter_saw: tuple[str, ...] = ()) -> L2SNet:
    return L2SNet(
        [trained_on(pet_network(LOCALIZER), *localizer_saw)], [trained_on(pet_network(SEGMENTER), *segmenter_saw)]
    )


def write_study(folder: Path, case: Case, lesions: np.ndarray) -> None:
    write_volume(case.suv, folder / "SUV.nii.gz", compress=True)
    write_volume(case.ct, folder / "CTres.nii.gz", compress=True)
    write_volume(case.suv.with_array(lesions.astype(np.uint8)), folder / "SEG.nii.gz", compress=True)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Two studies of the same body: `full`, whose lesion is the hot ball (SUV 8), and `empty`, without lesion."""
    case = body_case()
    write_study(tmp_path / "full", case, case.suv.array > 5)
    write_study(tmp_path / "empty", case, np.zeros(case.suv.array.shape))
    return tmp_path


def test_cases_that_either_network_saw_are_not_held_out(studies: Path) -> None:
    assert [f.name for f in held_out(studies, method())] == ["empty", "full"]
    assert [f.name for f in held_out(studies, method(localizer_saw=("full",)))] == ["empty"]
    assert [f.name for f in held_out(studies, method(segmenter_saw=("empty",)))] == ["full"]
    with pytest.raises(InputError, match="would mean nothing"):
        held_out(studies, method(("full",), ("empty",)))


def test_weights_that_do_not_say_what_they_saw_hold_nothing_out(studies: Path) -> None:
    with pytest.raises(InputError, match="do not say what they were trained on"):
        held_out(studies, L2SNet([pet_network(LOCALIZER)], [pet_network(SEGMENTER)]))


def test_the_rows_follow_their_rules() -> None:
    """The networks say SUV / 10; the body has SUV 1 and the ball 8."""
    case = body_case()
    hot = case.suv.array > 5
    rows = predictions(method(), case)
    for name, expected in {
        "SUV > 2": hot,
        "2D alone": hot,  # cue 0.8 above 0.5
        "3D alone": hot,
        "L2SNet, off-cue 0.5": hot,
        "L2SNet, off-cue 0.9": hot,  # on the cue 0.1 is enough
    }.items():
        np.testing.assert_array_equal(rows[name] > 0, expected, err_msg=name)
    # Nothing is above 0.9, so of the ball (more than 150 voxels) only the highest voxel is kept.
    assert hot.sum() > 150
    assert rows["L2SNet, components"].sum() == 1


def test_scores_are_of_the_challenge(studies: Path) -> None:
    table = validate(method(), held_out(studies, method()), resample_ct=False)
    ball_ml = float((body_case().suv.array > 5).sum()) * body_case().geometry.voxel_ml
    full, empty = table["3D alone"]["full"], table["3D alone"]["empty"]
    assert full == {"dice": 1.0, "fpv_ml": 0.0, "fnv_ml": 0.0}
    assert np.isnan(empty["dice"])
    assert np.isnan(empty["fnv_ml"])
    assert empty["fpv_ml"] == pytest.approx(ball_ml, rel=1e-4)
    mean = means(table)["3D alone"]
    assert (mean["dice"], mean["fnv_ml"]) == (1.0, 0.0)  # the empty case is left out, not counted as 0 or 1
    assert mean["fpv_ml"] == pytest.approx(ball_ml / 2, rel=1e-4)


def test_a_number_defined_for_no_case_is_nan() -> None:
    nan = float("nan")
    assert np.isnan(means({"row": {"a": {"dice": nan, "fpv_ml": 2.0, "fnv_ml": nan}}})["row"]["dice"])


def test_a_case_without_a_mask_cannot_be_scored() -> None:
    case = body_case()
    with pytest.raises(InputError, match="no lesion mask"):
        score(case, case.suv.array > 5)


def test_metrics_are_written_beside_the_network_they_tell_of(studies: Path, tmp_path: Path) -> None:
    for network in (LOCALIZER, SEGMENTER):
        (tmp_path / "weights" / network).mkdir(parents=True)
    table = validate(method(), held_out(studies, method()), resample_ct=False)
    write_metrics(table, method(), tmp_path / "weights")
    rows = {}
    for network in (LOCALIZER, SEGMENTER):
        text = (tmp_path / "weights" / network / "metrics.json").read_text()
        assert "NaN" not in text  # not JSON
        rows[network] = set(json.loads(text)["means"])
    assert rows[LOCALIZER] == {"2D alone"}
    assert rows[LOCALIZER] | rows[SEGMENTER] == set(table)
