"""`l2snet doctor`: what is right is told, what is wrong is named and ends in a non-zero exit code."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from packaging.requirements import Requirement
from test_cli import Ended, own_weights, run, weights  # noqa: F401

from l2snet import doctor
from l2snet.backend import gpu_problem
from l2snet.case import Case
from l2snet.errors import L2SNetError
from l2snet.pipeline import Segmentation
from l2snet.selftest import body_with_ball, self_test
from l2snet.weights import LOCALIZER, SEGMENTER

Run = Callable[..., Ended]
ROOT = Path(__file__).resolve().parents[1]


def test_all_is_well(run: Run, weights: Path):  # noqa: F811
    ended = run("doctor", "--weights", weights, "--device", "cpu")
    assert ended.code == 0, ended.out + ended.err
    lines = ended.out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert [name for name in doctor.NEEDED if f"ok    {name}: " not in ended.out] == []
    assert "device: CPU, " in ended.out
    assert "(--device cpu was given)" in ended.out
    for network in (LOCALIZER, SEGMENTER):
        assert f"{network}: {weights / network}, sha256 " in ended.out
    assert "PROVISIONAL" not in ended.out
    # The networks say PET over 10: all of the ball, and nothing of the body.
    assert lines[-1].startswith("ok    self-test: 100% of a hot ball found, 0.0% wrong, twice the same (openvino ")


def test_provisional_weights_are_called_so(own_weights: Path):  # noqa: F811
    (own_weights / "README.md").write_text("# Model card\n\n**Provisional. Do not measure.**\n")
    assert all("PROVISIONAL" in finding.said for finding in doctor.weights_state("l2snet", own_weights))


@pytest.mark.parametrize("name", ["network.onnx", "config.json"])
def test_damaged_weights(run: Run, own_weights: Path, name: str):  # noqa: F811
    whole = (own_weights / SEGMENTER / name).read_bytes()
    (own_weights / SEGMENTER / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    ended = run("doctor", "--weights", own_weights, "--device", "cpu")
    assert ended.code == 1
    assert f"WRONG segmenter: {own_weights / SEGMENTER / name} was altered" in ended.out
    assert "ok    localizer: " in ended.out
    assert "self-test" not in ended.out
    assert ended.last == "error: 1 of the above must be mended: segmenter"


def test_no_weights(run: Run, tmp_path: Path):  # noqa: F811
    ended = run("doctor", "--weights", tmp_path, "--device", "cpu")
    assert ended.code == 1
    assert ended.last == "error: 2 of the above must be mended: localizer, segmenter"


def test_cuda_that_is_asked_for_and_not_there(run: Run, weights: Path):  # noqa: F811
    problem = gpu_problem()
    if problem is None:
        pytest.skip("this machine has CUDA")
    ended = run("doctor", "--weights", weights, "--device", "cuda")
    assert ended.code == 1
    assert f"WRONG device: CUDA was asked for and cannot be used: {problem}" in ended.out
    assert doctor.device_used("auto").said.endswith(f"(CUDA cannot be used: {problem})")


def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, run: Run, weights: Path):  # noqa: F811
    def fail() -> None:
        raise ImportError("libopenvino.so is missing")

    monkeypatch.setattr(doctor, "import_openvino", fail)
    ended = run("doctor", "--weights", weights)
    assert ended.code == 1
    assert "WRONG openvino: cannot be used (libopenvino.so is missing): pip install" in ended.out
    assert "device" not in ended.out  # nothing more can be told
    assert ended.last == "error: 1 of the above must be mended: openvino"


def test_an_optional_part_that_is_missing_is_not_wrong(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "OPTIONAL", {"report": ("numpy", "no-such-package")})
    (finding,) = [finding for finding in doctor.packages() if finding.what == "optional, report"]
    assert finding.said == "not installed (no-such-package): pip install 'l2snet[report]'"
    assert not finding.wrong


def test_packages_are_those_of_the_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {Requirement(text).name for text in requirements} - {"l2snet"}

    assert set(doctor.NEEDED) == names(project["dependencies"])
    for extra, packages in doctor.OPTIONAL.items():
        assert set(packages) == names(project["optional-dependencies"][extra])


def method_of(*masks: Callable[[Case, np.ndarray], np.ndarray]) -> SimpleNamespace:
    """A method that gives these masks in turn."""
    turn, (_, ball) = cycle(masks), body_with_ball()

    def segment(case: Case) -> Segmentation:
        mask = next(turn)(case, ball).astype(np.uint8)
        return Segmentation(case.name, case.suv.with_array(mask), case.suv, None)

    return SimpleNamespace(segment=segment, settings={"engine": "fake"})


def test_the_self_test_tells_what_is_wrong():
    def right(_case: Case, ball: np.ndarray) -> np.ndarray:
        return ball

    def nothing(_case: Case, ball: np.ndarray) -> np.ndarray:
        return ball & False

    def all_of_it(case: Case, _ball: np.ndarray) -> np.ndarray:
        return case.suv.array > 0

    assert self_test(method_of(right)).startswith("100% of a hot ball found, 0.0% wrong")
    with pytest.raises(L2SNetError, match=r"0% of a hot ball .* are the networks trained"):
        self_test(method_of(nothing))
    with pytest.raises(L2SNetError, match="100% of the warm body around it were marked"):
        self_test(method_of(all_of_it))
    with pytest.raises(L2SNetError, match="the same input gave two masks"):
        self_test(method_of(right, nothing))


def test_the_self_test_refuses_numbers_that_are_not_finite():
    method = method_of(lambda _case, ball: ball)

    def segment(case: Case) -> Segmentation:
        result = method.segment(case)
        return replace(result, probability=case.suv.with_array(np.full_like(case.suv.array, np.nan)))

    with pytest.raises(L2SNetError, match="not finite"):
        self_test(SimpleNamespace(segment=segment, settings=method.settings))
