"""The sample case with the shipped weights, in a fresh process that may not open a connection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from l2snet.evaluation.compare import compare_masks
from l2snet.sources.challenge import OUTPUT

CASE = Path(__file__).parent / "cases" / "acrin_042"

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


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    arguments = [str(CASE / "input"), str(folder), "--precision", "exact", "--device", "cpu", "--cue"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_mask_is_the_expected_one(output: Path) -> None:
    (expected,) = (CASE / "expected_output" / OUTPUT).iterdir()
    (found,) = (output / OUTPUT).iterdir()
    assert found.name == expected.name
    assert compare_masks(expected, found) == []


def test_only_what_was_asked_for_is_written(output: Path) -> None:
    assert sorted(p.name for p in output.iterdir()) == ["cue.mha", "images", "manifest.json"]
    assert [p.name for p in (output / "images").iterdir()] == [OUTPUT.name]


def test_the_manifest_tells_what_was_run(output: Path) -> None:
    manifest = json.loads((output / "manifest.json").read_text())
    assert {"prepare", "localize", "segment", "fuse", "read", "total"} <= set(manifest["seconds"])
    assert 0 < manifest["peak_memory_mib"] < 4096
    assert manifest["packages"]["openvino"]
    assert all(len(h) == 64 for hashes in manifest["weights_sha256"].values() for h in hashes)
    assert manifest["engine"].endswith("cpu f32")
    assert any("resampled" in note for note in manifest["notes"])
    assert manifest["ct"] is True
