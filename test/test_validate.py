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
from l2snet.cli import main
from l2snet.errors import InputError, WeightsError
from l2snet.evaluation import validate as module
from l2snet.evaluation.validate import (
    held_out,
    means,
    paper_masks,
    predictions,
    read_metrics,
    report,
    score,
    validate,
    write_metrics,
)
from l2snet.pipeline import L2SNet
from l2snet.sources.autopet import read_study
from l2snet.volume import write_volume
from l2snet.weights import CONFIG, LOCALIZER, NETWORK, SEGMENTER, SUMS


def trained_on(network: Network, *cases: str) -> Network:
    return replace(network, config=replace(network.config, trained={"cases": list(cases)}))


def method(localizer_saw: tuple[str, ...] = (), segmenter_saw: tuple[str, ...] = ()) -> L2SNet:
    return L2SNet(
        [trained_on(pet_network(LOCALIZER), *localizer_saw)], [trained_on(pet_network(SEGMENTER), *segmenter_saw)]
    )


def write_study(folder: Path, case: Case, lesions: np.ndarray) -> None:
    write_volume(case.suv, folder / "SUV.nii.gz", compress=True)
    if case.ct is not None:
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
    assert [f.name for f in held_out([studies], method())] == ["empty", "full"]
    assert [f.name for f in held_out([studies], method(localizer_saw=("full",)))] == ["empty"]
    assert [f.name for f in held_out([studies], method(segmenter_saw=("empty",)))] == ["full"]
    with pytest.raises(InputError, match="would mean nothing"):
        held_out([studies], method(("full",), ("empty",)))


def test_another_study_of_a_patient_whom_the_weights_saw_is_not_held_out(tmp_path: Path) -> None:
    """They name the patient; those that are older name studies alone, and these must be there to tell."""
    for study in ("p1/early", "p1/late", "p2/only"):
        (tmp_path / study).mkdir(parents=True)
        (tmp_path / study / "SUV.nii.gz").touch()
    for seen in (("p1", "elsewhere"), ("early",)):
        assert [f.name for f in held_out([tmp_path], method(localizer_saw=seen))] == ["only"]
        assert [f.name for f in held_out([tmp_path], method(segmenter_saw=seen))] == ["only"]
    with pytest.raises(InputError, match=r"every study under .* is of a patient used to train"):
        held_out([tmp_path], method(("p1",), ("p2",)))


def test_weights_saw_what_they_started_from_and_what_their_cues_saw(studies: Path) -> None:
    trained = {"cases": [], "start": {"cases": ["full"]}}
    network = pet_network(LOCALIZER)
    localizer = replace(network, config=replace(network.config, trained=trained))
    assert [f.name for f in held_out([studies], L2SNet([localizer], method().segmenters))] == ["empty"]


def test_several_folders_are_one_table(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_study(other / "more", body_case(), np.zeros(body_case().suv.array.shape))
    assert [f.name for f in held_out([studies, other], method())] == ["empty", "full", "more"]
    with pytest.raises(InputError, match=r"every study under .*other"):
        held_out([studies, other], method(("more",)))
    write_study(other / "full", body_case(), np.zeros(body_case().suv.array.shape))
    with pytest.raises(InputError, match="full have one name; rename one"):
        held_out([studies, other], method())


def test_weights_that_do_not_say_what_they_saw_hold_nothing_out(studies: Path) -> None:
    with pytest.raises(InputError, match="do not say what they were trained on"):
        held_out([studies], L2SNet([pet_network(LOCALIZER)], [pet_network(SEGMENTER)]))


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
        "L2SNet, cued": hot,
    }.items():
        np.testing.assert_array_equal(rows[name] > 0, expected, err_msg=name)
    # Nothing is above 0.9, so of the ball (more than 150 voxels) only the highest voxel is kept.
    assert hot.sum() > 150
    assert rows["L2SNet, components"].sum() == 1


def test_scores_are_of_the_challenge(studies: Path) -> None:
    table = validate(method(), held_out([studies], method()), resample_ct=False)
    ball_ml = float((body_case().suv.array > 5).sum()) * body_case().geometry.voxel_ml
    full, empty = table["3D alone"]["full"], table["3D alone"]["empty"]
    expected = {"dice": 1, "fpv_ml": 0, "fnv_ml": 0, "sensitivity": 1, "precision": 1, "false_positives": 0}
    assert {column: full[column] for column in expected} == expected
    assert full["tmtv_error_ml"] == 0
    assert (empty["lesions"], empty["false_positives"], empty["precision"]) == (0, 1, 0)
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


def test_the_table_names_both_conventions_and_tells_lesion_free_cases_apart(studies: Path) -> None:
    text = report(validate(method(), held_out([studies], method()), resample_ct=False))
    lines = {
        line.split("|")[1].strip(): line for line in text.split("Cases with lesions")[0].splitlines() if "|" in line
    }
    # Dice of the case with a lesion is 1; over both it is 1 where the other is left out, and 0.5 where it counts as 0.
    assert "Dice, challenge2024 " in lines[""]
    cells = [cell.split("[")[0].strip() for cell in lines["3D alone"].split("|")[2:5]]
    assert cells == ["2", "1.000", "0.500"]
    ball_ml = float((body_case().suv.array > 5).sum()) * body_case().geometry.voxel_ml
    assert f"| {ball_ml:.3f} " in text.split("Lesion-free cases")[1]  # its median FPV


def test_a_case_may_lack_a_ct(tmp_path: Path) -> None:
    case = body_case(ct=False)
    write_study(tmp_path / "pet", case, case.suv.array > 5)
    table = validate(method(), held_out([tmp_path], method()), resample_ct=True)
    assert table["3D alone"]["pet"]["dice"] == 1


def test_a_run_that_was_stopped_goes_on(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, work, read = held_out([studies], method()), tmp_path / "work", []

    def reader(folder: Path, *rest: object, **options: object) -> Case:
        read.append(folder.name)
        if stop == folder.name:
            raise KeyboardInterrupt
        return original(folder, *rest, **options)

    original = module.read_study
    monkeypatch.setattr(module, "read_study", reader)
    stop = "full"
    with pytest.raises(KeyboardInterrupt):
        validate(method(), folders, False, work)
    stop = ""
    table = validate(method(), folders, False, work)
    assert read == ["empty", "full", "full"]
    again = validate(method(), folders, False, work)
    assert read == ["empty", "full", "full"]  # nothing was left to do
    for found in (table, again):
        np.testing.assert_equal(found, validate(method(), folders, False))
    del read[:]
    strict = replace(method(), off_cue=0.7)
    validate(strict, folders, False, work)  # another setting
    assert read == ["empty", "full"]
    write_study(studies / "full", body_case(), np.zeros(body_case().suv.array.shape))  # another truth
    assert np.isnan(validate(strict, folders, False, work)["3D alone"]["full"]["dice"])
    (damaged,) = work.glob("empty*")
    damaged.write_text("{")
    validate(strict, folders, False, work)
    assert read == ["empty", "full", "full", "empty"]
    case = read_study(studies / "empty", False)
    assert case.ct is not None
    write_volume(case.ct, studies / "empty" / "CTres.nii.gz", compress=False)  # another CT
    validate(strict, folders, False, work)
    assert read == ["empty", "full", "full", "empty", "empty"]
    other = [replace(one, config=replace(one.config, mirror_axes=(2,))) for one in strict.segmenters]
    validate(replace(strict, segmenters=other), folders, False, work)  # the same network, shown otherwise
    assert read[5:] == ["empty", "full"]


def test_the_masks_of_the_figure() -> None:
    case = body_case()
    masks = paper_masks(method(), case)
    assert list(masks) == ["2D U-Net", "3D U-Net", "L2SNet"]
    for mask in masks.values():
        np.testing.assert_array_equal(mask, case.suv.array > 5)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for network in (LOCALIZER, SEGMENTER):
        write_hash(tmp_path / "weights" / network, "0" * 64)
    return tmp_path / "weights"


def write_hash(folder: Path, sha256: str) -> None:
    """A weights folder that claims this hash of its network."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, NETWORK):
        (folder / name).touch()
    (folder / SUMS).write_text(f"{sha256}  {CONFIG}\n{sha256}  {NETWORK}\n")


def test_metrics_are_written_beside_the_network_they_tell_of(studies: Path, weights: Path) -> None:
    table = validate(method(), held_out([studies], method()), resample_ct=False)
    write_metrics(table, method(), weights, "balls")
    rows = {}
    for network in (LOCALIZER, SEGMENTER):
        text = (weights / network / "metrics.json").read_text()
        assert "NaN" not in text  # not JSON
        rows[network] = set(json.loads(text)["balls"]["means"])
    assert rows[LOCALIZER] == {"2D alone"}
    assert rows[LOCALIZER] | rows[SEGMENTER] == set(table)
    np.testing.assert_equal(read_metrics(L2SNet.roles, weights), {"balls": table})


def test_tables_are_recorded_by_name_and_go_with_their_weights(
    studies: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WeightsError, match="no table is recorded"):
        read_metrics(L2SNet.roles, weights)
    (weights / LOCALIZER / "metrics.json").write_text('{"settings": {}, "means": {}, "cases": {}}')  # of version 0.1
    table = validate(method(), held_out([studies], method()), resample_ct=False)
    write_metrics(table, method(), weights, "one")
    write_metrics(table, method(), weights, "two")
    assert list(read_metrics(L2SNet.roles, weights)) == ["one", "two"]
    trained_again = L2SNet([replace(pet_network(LOCALIZER), sha256="1" * 64)], method().segmenters)
    write_hash(weights / LOCALIZER, "1" * 64)
    with pytest.raises(WeightsError, match="no table is recorded"):  # those that are there are of other weights
        read_metrics(L2SNet.roles, weights)
    assert "the table 'two' in" in caplog.text
    write_metrics(table, trained_again, weights, "three")
    assert list(read_metrics(L2SNet.roles, weights)) == ["three"]
    (weights / LOCALIZER / "metrics.json").write_text("[]")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_metrics(L2SNet.roles, weights)


def test_the_command_shows_what_is_recorded(studies: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = validate(method(), held_out([studies], method()), resample_ct=False)
    write_metrics(table, method(), weights, "balls")
    with pytest.raises(SystemExit) as ended:
        main(["validate", "--show", "--weights", str(weights)])
    assert ended.value.code == 0
    assert (
        capsys.readouterr().out.strip() == f"# balls\n\n{report(read_metrics(L2SNet.roles, weights)['balls'])}".strip()
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give folders with studies to score, or --show"),
        (("data", "--show"), "give folders with studies to score, or --show"),
        (("data", "--record", "a", "--weights", "one", "--weights", "two"), "need one weights folder"),
        (("data", "--record"), "requires an argument"),
    ],
)
def test_options_of_the_command(arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["validate", *arguments])
    assert ended.value.code != 0
    assert sentence in capsys.readouterr().err
