"""The container's scripts and what they compare; only the last test needs an engine."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from l2snet.cli import main
from l2snet.errors import InputError
from l2snet.evaluation.compare import compare_masks, compare_outputs
from l2snet.sources.challenge import mask_path
from l2snet.volume import Geometry, Volume, write_volume

ROOT = Path(__file__).resolve().parents[1]
GRID = Geometry((4, 50, 50), (3.0, 2.0, 2.0), (-50.0, -40.0, 100.0))
# Half of the voxels: 5000, so that n flipped ones make a Dice of about 1 - n / 10000.
RIGHT = np.zeros(GRID.size, np.uint8)
RIGHT[:2] = 1


def write(array, folder, geometry=GRID, compress=True, name="ct"):
    path = mask_path(folder, name)
    write_volume(Volume(array, geometry), path, compress)
    return path


def flipped(voxels):
    array = RIGHT.copy()
    array[3].flat[:voxels] = 1
    return array


@pytest.fixture
def expected(tmp_path):
    write(RIGHT, tmp_path / "expected")
    return tmp_path / "expected"


def test_the_same_mask_is_as_expected(expected, tmp_path):
    write(RIGHT, tmp_path / "actual")
    assert compare_outputs(expected, tmp_path / "actual") == []


def test_two_empty_masks_are_the_same(tmp_path):
    empty = np.zeros(GRID.size, np.uint8)
    assert compare_masks(write(empty, tmp_path / "a"), write(empty, tmp_path / "b")) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"geometry": replace(GRID, origin_mm=(-49.9, -40.0, 100.0))}, "the grid is"),
        ({"geometry": replace(GRID, spacing_mm=(3.0, 2.0, 2.001))}, "the grid is"),
        ({"array": RIGHT[:3], "geometry": replace(GRID, size=(3, 50, 50))}, "the grid is"),
        ({"array": RIGHT * 2}, "values 0, 2 were found"),
        ({"array": RIGHT.astype(np.int16)}, "16-bit signed integer"),
        ({"array": RIGHT.astype(np.float32)}, "32-bit float"),
        ({"compress": False}, "not compressed"),
        # 5000 right and 102 wrong voxels: 10000 / 10102.
        ({"array": flipped(102)}, "Dice with the expected mask is 0.9899"),
        ({"array": np.zeros_like(RIGHT)}, "Dice with the expected mask is 0.0000"),
    ],
)
def test_one_difference_is_found_and_named(expected, tmp_path, changed, words):
    write(**{"array": RIGHT, "folder": tmp_path / "actual", **changed})
    differences = compare_outputs(expected, tmp_path / "actual")
    assert len(differences) == 1
    assert words in differences[0]


def test_a_few_voxels_may_differ(expected, tmp_path):
    # 10000 / 10010 = 0.999001, 10000 / 10011 = 0.998901.
    assert compare_outputs(expected, write(flipped(10), tmp_path / "a").parents[2]) == []
    assert compare_outputs(expected, write(flipped(11), tmp_path / "b").parents[2]) != []


def test_no_file_is_a_difference(expected, tmp_path):
    (tmp_path / "actual").mkdir()
    assert compare_outputs(expected, tmp_path / "actual") == [
        "no file was written; expected images/automated-petct-lesion-segmentation/ct.mha alone"
    ]


@pytest.mark.parametrize("extra", ["images/automated-petct-lesion-segmentation/b.mha", "images/other/a.mha", "m.json"])
def test_a_second_file_is_a_difference(expected, tmp_path, extra):
    write(RIGHT, tmp_path / "actual")
    (tmp_path / "actual" / extra).parent.mkdir(exist_ok=True)
    (tmp_path / "actual" / extra).touch()
    (difference,) = compare_outputs(expected, tmp_path / "actual")
    assert extra in difference


def test_another_name_is_a_difference(expected, tmp_path):
    write(RIGHT, tmp_path / "actual", name="pet")
    (difference,) = compare_outputs(expected, tmp_path / "actual")
    assert "pet.mha" in difference


def test_a_damaged_mask_is_a_difference(expected, tmp_path):
    write(RIGHT, tmp_path / "actual").write_bytes(b"NDims = 3\n")
    (difference,) = compare_outputs(expected, tmp_path / "actual")
    assert "cannot be read" in difference


def test_an_expected_folder_without_mask_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"0 \.mha files"):
        compare_outputs(tmp_path, tmp_path)


def test_the_command_fails_on_a_difference_and_only_then(expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(expected), str(expected)])
    assert stopped.value.code == 0
    write(RIGHT * 2, tmp_path / "actual", compress=False)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(expected), str(tmp_path / "actual")])
    assert stopped.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "values 0, 2" in last
    assert "not compressed" in last


# The scripts, on an engine that only writes down what it is asked.

FAKE_ENGINE = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$LOG"
case "$*" in
  *" compare "*) exit "${COMPARE_CODE:-0}" ;;
  run*) exit "${RUN_CODE:-0}" ;;
  save*) echo image ;;
  *inspect*) echo 1234567890 ;;
esac
"""
LIMITS = (
    "--network none",
    "--cap-drop ALL",
    "--security-opt no-new-privileges",
    "--memory 30g",
    "--read-only",
    "--shm-size 64m",
    "--pids-limit 128",
)


@pytest.fixture
def fake(tmp_path):
    """A function that runs a script on the fake engine: (exit code, output, calls of the engine)."""
    engine, log, cases = tmp_path / "engine", tmp_path / "log", tmp_path / "cases"
    engine.write_text(FAKE_ENGINE)
    engine.chmod(0o755)
    for part in ("input", "expected_output", "expected_output_step-by-step"):
        (cases / "one" / part).mkdir(parents=True)

    def run(script, *arguments, **settings):
        log.write_text("")
        kept = {
            k: v for k, v in os.environ.items() if k not in ("IMAGE", "ENGINE", "METHOD", "BASE_IMAGE", "SKIP_BUILD")
        }
        environment = {**kept, "DOCKER": str(engine), "LOG": str(log), "CASES": str(cases), **settings}
        done = subprocess.run(
            [ROOT / script, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()

    return run


def test_build_passes_platform_engine_and_base(fake):
    code, _, calls = fake("build.sh", ENGINE="cpu", BASE_IMAGE="base:1", IMAGE="tag", METHOD="step-by-step")
    assert code == 0
    (call,) = calls
    assert call.startswith("build --platform linux/amd64 ")
    assert "ENGINE=cpu" in call
    assert "METHOD=step-by-step" in call
    assert "BASE_IMAGE=base:1" in call
    assert "--tag tag" in call


def test_cases_run_under_the_platforms_limits(fake, tmp_path):
    code, output, calls = fake("test.sh", ENGINE="cpu")
    assert code == 0, output
    build, run, compare = calls[:3]
    assert build.startswith("build ")
    assert all(limit in run for limit in LIMITS)
    assert re.search(r"--user (\d{5}):\1 ", run)  # neither root's nor the image's
    assert f"{tmp_path}/cases/one/input:/input:ro" in run
    assert run.endswith("l2snet --precision exact")
    assert "--gpus" not in run
    assert compare.endswith("compare /expected /actual")


@pytest.mark.parametrize(
    ("method", "expected"), [("l2snet", "expected_output"), ("step-by-step", "expected_output_step-by-step")]
)
def test_each_method_has_its_own_expected_output(fake, tmp_path, method, expected):
    code, output, calls = fake("test.sh", ENGINE="cpu", METHOD=method)
    assert code == 0, output
    build, _, compare = calls[:3]
    assert f"METHOD={method}" in build
    assert f"{tmp_path}/cases/one/{expected}:/expected:ro" in compare


@pytest.mark.parametrize("settings", [{"RUN_CODE": "1"}, {"COMPARE_CODE": "1"}])
def test_a_failing_case_fails_the_script(fake, settings):
    code, output, _ = fake("test.sh", SKIP_BUILD="1", **settings)
    assert code == 1
    assert "FAIL one" in output


def test_no_cases_fail_the_script(fake, tmp_path):
    code, output, _ = fake("test.sh", SKIP_BUILD="1", CASES=str(tmp_path / "nowhere"))
    assert code == 1
    assert "no case was found" in output


def test_a_case_without_expected_output_fails_the_script(fake, tmp_path):
    (tmp_path / "cases" / "one" / "expected_output").rmdir()
    code, output, calls = fake("test.sh", SKIP_BUILD="1")
    assert code == 1
    assert "no expected_output" in output
    assert calls == []


def test_export_writes_image_and_model_and_their_sizes(fake, tmp_path):
    code, output, calls = fake("export.sh", str(tmp_path / "out"), SKIP_BUILD="1")
    assert code == 0, output
    assert calls[0] == "save l2snet"
    assert "image l2snet: 1234 MB" in output
    with tarfile.open(tmp_path / "out" / "l2snet-model.tar.gz") as model:
        names = {name.removeprefix("./") for name in model.getnames()}
    # Unpacked at /opt/ml/model, where find_weights looks for <network>.
    for network in ("localizer", "segmenter"):
        assert {f"{network}/config.json", f"{network}/network.onnx", f"{network}/SHA256SUMS"} <= names


@pytest.mark.parametrize("extra", ["", "gpu"])
def test_the_pins_are_of_the_packages_that_pyproject_names(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
    lines = (ROOT / f"requirements{'-' if extra else ''}{extra}.txt").read_text("utf-8").splitlines()
    pins = dict(line.split()[0].split("==") for line in lines if line and not line.startswith(("#", "-r ")))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-gpu.txt"])
def test_every_pin_has_its_hash(name):
    """With one hash, pip asks for one of every package, and takes no other file."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line)] == []


def instructions():
    """Those of the Dockerfile, a line each, lines that go on joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_new_weights_rebuild_only_the_last_layer():
    *before, last = instructions()
    assert last == "COPY weights weights"
    assert [line for line in before if line.startswith(("COPY", "ADD")) and "weights" in line] == []


def test_the_image_starts_without_a_shell_and_not_as_root():
    (entry,) = [line for line in instructions() if line.startswith(("ENTRYPOINT", "CMD"))]
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["python", "process.py"]
    assert [line for line in instructions() if line.startswith("USER")] == ["USER l2snet"]


def test_the_container_has_nine_minutes_unless_it_is_told_otherwise(monkeypatch):
    calls = []
    monkeypatch.setattr("l2snet.cli.main", calls.append)
    monkeypatch.setattr(sys, "argv", ["process.py", "--time-limit", "60"])
    runpy.run_path(str(ROOT / "process.py"), run_name="__main__")
    # The last of an option counts (test_cli.py).
    assert calls == [["predict", "/input", "/output", "--no-manifest", "--time-limit", "540", "--time-limit", "60"]]


@pytest.fixture
def engine():
    """A container engine that works, or the test is skipped."""
    chosen = os.environ.get("DOCKER")
    if chosen is None:
        chosen = shutil.which("docker")
        if chosen is None or subprocess.run([chosen, "info"], capture_output=True, check=False).returncode:
            pytest.skip("no container engine: docker does not run here and DOCKER names no other")
    return chosen


def test_a_wrong_mask_fails_the_real_script(engine, tmp_path):
    """The container runs on a case whose expected mask lacks a tenth of its voxels: test.sh must say so and fail."""
    cases = Path(os.environ.get("CASES", ROOT / "test" / "cases"))
    case = sorted(folder for folder in cases.iterdir() if folder.is_dir())[0]
    shutil.copytree(case, tmp_path / "cases" / case.name)
    (path,) = (tmp_path / "cases" / case.name / "expected_output").rglob("*.mha")
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    lesion = np.flatnonzero(array)
    assert lesion.size, "the expected mask is empty: there is nothing to take away"
    array.flat[lesion[: lesion.size // 10 + 1]] = 0
    write_volume(Volume.from_sitk(image).with_array(array), path, compress=True)
    done = subprocess.run(
        [ROOT / "test.sh"],
        env={**os.environ, "DOCKER": engine, "CASES": str(tmp_path / "cases")},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Dice with the expected mask is 0.9" in output, output
    assert f"FAIL {case.name}" in output
