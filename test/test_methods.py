"""Every method runs through the same commands: scores and thresholds of networks whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known_weights import write_known_weights
from test_pipeline import body_case
from test_validate import write_study

from l2snet.cli import main
from l2snet.evaluation.validate import held_out, read_metrics
from l2snet.methods import METHODS, load_method
from l2snet.pipeline import Method
from l2snet.sources.autopet import read_study
from l2snet.weights import CONFIG, LOCALIZER, SEGMENTER, THRESHOLDS, find_weights, read_config, write_sums

HOT = body_case().suv.array > 5


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    write_known_weights(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """`full`, whose lesion of SUV 8 has a trap of SUV 6 beside it, and `empty`, without either."""
    case = body_case()
    trap = np.roll(HOT, -10, axis=2) & ~HOT & (case.suv.array > 0)
    write_study(
        tmp_path / "data" / "full",
        replace(case, suv=case.suv.with_array(case.suv.array + 5 * trap.astype(np.float32))),
        HOT,
    )
    cold = np.minimum(case.suv.array, 1)
    write_study(tmp_path / "data" / "empty", replace(case, suv=case.suv.with_array(cold)), np.zeros(HOT.shape))
    return tmp_path / "data"


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loaded(name: str, weights: Path) -> Method:
    return load_method(name, [weights], "cpu", "exact")


def run(name: str, weights: Path, command: str, *arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([command, *(str(one) for one in arguments), "--method", name, "--weights", str(weights)])
    return int(ended.value.code or 0)


def test_scores_are_shown_and_kept_beside_the_networks(
    studies: Path, weights: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SUV > 2 takes lesion and trap, whatever the method; a body without either has nothing above any threshold."""
    assert run(name, weights, "validate", studies, "--device", "cpu", "--record", "balls") == 0
    printed = capsys.readouterr().out
    method = loaded(name, weights)
    table = read_metrics(method.roles, weights)["balls"]
    assert set(table) == {"SUV > 2", *method.rows(method.segment(body_case()))}
    assert 0.5 < table["SUV > 2"]["full"]["dice"] < 1
    assert all(rows["empty"]["prediction_ml"] == 0 for rows in table.values())
    for role in method.roles:
        record = json.loads((weights / role / "metrics.json").read_text("utf-8"))["balls"]
        assert {method.role_of(row) for row in record["cases"]} == {role}
        assert record["settings"]["method"] == name
    assert run(name, weights, "validate", "--show") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# balls\n")
    assert set(printed.splitlines()) <= set(shown.splitlines())


def test_the_masks_are_those_that_predict_writes(studies: Path, weights: Path, name: str) -> None:
    """One of the rows is the method as it is set, and its own thresholds give that mask again."""
    method = loaded(name, weights)
    result = method.segment(read_study(studies / "full", False))
    own = {key: value for role in method.roles for key, value in THRESHOLDS[role].items()}
    assert set(own) == set(method.candidates)
    np.testing.assert_array_equal(method.threshold(result, own), result.mask.array)
    assert any(np.array_equal(mask, result.mask.array) for mask in method.rows(result).values())
    assert result.mask.array.sum() > HOT.sum()  # the trap, 0.6, is above 0.5


def test_what_any_network_saw_is_not_held_out(studies: Path, weights: Path, name: str) -> None:
    for role in METHODS[name].roles:
        config = read_config(weights / role)
        for seen, left in ((["full"], ["empty"]), (["seen"], ["empty", "full"])):
            (weights / role / CONFIG).write_text(replace(config, trained={"cases": seen}).to_json(), "utf-8")
            write_sums(weights / role)
            assert [folder.name for folder in held_out([studies], loaded(name, weights))] == left


def test_calibration_leaves_the_trap_and_its_cases_count_as_seen(
    studies: Path, weights: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, weights, "validate", studies, "--device", "cpu", "--record", "before") == 0
    assert run(name, weights, "calibrate", studies, "--device", "cpu") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ": Dice " in line]
    method = loaded(name, weights)
    assert len(lines) == np.prod([len(values) for values in method.candidates.values()])
    assert sum(line.startswith("*") for line in lines) == 1
    np.testing.assert_array_equal(method.segment(read_study(studies / "full", False)).mask.array, HOT)
    for role in method.roles:
        assert read_config(weights / role).seen_cases == {"seen", "empty", "full"}
    assert not list(weights.rglob("metrics.json"))  # they were of other thresholds
    assert run(name, weights, "validate", studies, "--device", "cpu") == 1
    assert "would mean nothing" in capsys.readouterr().err
    assert run(name, weights, "calibrate", studies, "--device", "cpu") == 0  # anew, on the same


@pytest.mark.parametrize("command", ["validate", "calibrate"])
def test_a_method_that_is_not_there(weights: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nnunet", weights, command, "data") == 1
    assert "method 'nnunet' is not known; expected one of l2snet, step-by-step" in capsys.readouterr().err


def test_known_networks_may_have_the_windows_of_the_shipped_ones(tmp_path: Path):
    """`largest.py` measures memory by them."""
    write_known_weights(tmp_path / "weights", shipped_size=True)
    for network in (LOCALIZER, SEGMENTER):
        known, shipped = read_config(tmp_path / "weights" / network), read_config(find_weights(network))
        assert (known.window, known.stride, known.spacing_mm) == (shipped.window, shipped.stride, shipped.spacing_mm)
