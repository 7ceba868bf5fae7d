"""The sample case by each method with the shipped weights, in a fresh process that may not open a connection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from l2snet.evaluation.compare import agreement, compare_masks
from l2snet.fuse import CONNECTIVITY
from l2snet.methods import METHODS
from l2snet.sources.challenge import OUTPUT
from l2snet.volume import read_volume

CASE = Path(__file__).parent / "cases" / "acrin_042"
# Of the masks of `--precision fast` and `exact`.
FAST_DICE = 0.998
EXACT = ("--precision", "exact")
# Method to the folder of its mask, what else it is asked for, and what it then writes.
EXPECTED = {"l2snet": "expected_output", "step-by-step": "expected_output_step-by-step"}
MORE = {"l2snet": ("--cue",), "step-by-step": ()}
FILES = {"l2snet": ["cue.mha"], "step-by-step": []}
STAGES = {"l2snet": {"localize", "segment", "fuse"}, "step-by-step": {"segment", "threshold"}}

PROGRAM = """
import socket, sys
def refuse(*arguments, **named):
    raise AssertionError("inference opened a connection")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from l2snet.cli import main
try:
    main(["predict", *sys.argv[1:]])
finally:
    heavy = sorted({"torch", "timm", "onnx", "matplotlib"} & set(sys.modules))
    assert not heavy, f"inference imported {heavy}"
"""


# The same, on one thread and in other batches.
OTHERWISE = """
from l2snet.openvino_quiet import import_openvino
openvino = import_openvino()
compile_model = openvino.Core.compile_model
openvino.Core.compile_model = lambda core, model, device, settings: compile_model(
    core, model, device, {**settings, "INFERENCE_NUM_THREADS": 1}
)
from l2snet.localize import localize
from l2snet.segment import predict_channels, segment
localize.__defaults__ = (*localize.__defaults__[:-1], 3)
segment.__defaults__ = (*segment.__defaults__[:-1], 2)
predict_channels.__defaults__ = (*predict_channels.__defaults__[:-1], 3)
"""


def predict(program: str, folder: Path, *options: str) -> Path:
    """Run the sample case in a process of its own; the folder that it wrote to."""
    arguments = [str(CASE / "input"), str(folder), "--device", "cpu", *options]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module", params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def output(method: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predict(PROGRAM, tmp_path_factory.mktemp("sample"), "--method", method, *EXACT, *MORE[method])


def test_fast_finds_the_same_lesions(method: str, output: Path, tmp_path: Path) -> None:
    """The gate of `--precision fast`: hardly a voxel differs, and no component is gained or lost."""
    (file,) = (output / OUTPUT).iterdir()
    exact, fast = (
        read_volume(folder / OUTPUT / file.name, "mask").array > 0
        for folder in (output, predict(PROGRAM, tmp_path, "--method", method, "--precision", "fast"))
    )
    assert agreement(exact, fast) >= FAST_DICE
    for one, other in ((exact, fast), (fast, exact)):
        labels, count = ndimage.label(one, CONNECTIVITY)
        assert set(np.unique(labels[other])) - {0} == set(range(1, count + 1))


def test_the_mask_is_the_expected_one(method: str, output: Path) -> None:
    (expected,) = (CASE / EXPECTED[method] / OUTPUT).iterdir()
    (found,) = (output / OUTPUT).iterdir()
    assert found.name == expected.name
    assert compare_masks(expected, found) == []


def test_threads_and_batches_change_no_byte_of_the_mask(method: str, output: Path, tmp_path: Path) -> None:
    otherwise = predict(OTHERWISE + PROGRAM, tmp_path / "otherwise", "--method", method, *EXACT)
    (first,), (second,) = ((folder / OUTPUT).iterdir() for folder in (output, otherwise))
    assert first.read_bytes() == second.read_bytes()


def test_only_what_was_asked_for_is_written(method: str, output: Path) -> None:
    assert sorted(p.name for p in output.iterdir()) == [*FILES[method], "images", "manifest.json"]
    assert [p.name for p in (output / "images").iterdir()] == [OUTPUT.name]


def test_the_manifest_tells_what_was_run(method: str, output: Path) -> None:
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["method"] == method
    assert {"prepare", "read", "total", *STAGES[method]} <= set(manifest["seconds"])
    assert ("lesion_score" in manifest) == (method == "step-by-step")
    assert 0 < manifest["peak_memory_mib"] < 4096
    assert manifest["packages"]["openvino"]
    assert all(len(h) == 64 for hashes in manifest["weights_sha256"].values() for h in hashes)
    assert manifest["engine"].endswith("cpu f32")
    assert any("resampled" in note for note in manifest["notes"])
    assert manifest["ct"] is True
