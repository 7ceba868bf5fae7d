"""A fixed number of runs of the fuzzer on every reader, and damage to DICOM headers; L2SNET_FUZZ=10 for ten times more.

Where atheris is not installed (`pip install 'l2snet[fuzz]'`; it has wheels for Linux alone) the fuzzer is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dicom_files import write_study
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2snet.errors import InputError
from l2snet.sources.dicom_case import read_dicom_case

FUZZER = Path(__file__).with_name("fuzz.py")
TIMES = int(os.environ.get("L2SNET_FUZZ", "1"))
RUNS = {"mha": 2_000, "nifti": 500, "nifti-gz": 200, "nrrd": 500, "inputs.json": 2_000}
TIMEOUT_S = 120


@pytest.mark.parametrize("reader", RUNS)
def test_a_reader_refuses_what_it_cannot_read_and_never_fails(tmp_path: Path, reader: str):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install 'l2snet[fuzz]'")
    command = [sys.executable, str(FUZZER), reader, str(RUNS[reader] * TIMES), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT_S * TIMES
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS[reader] * TIMES} runs" in done.stderr
    assert list(tmp_path.glob("crash-*")) == []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("dicom") / "study")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_dicom_header_is_read_or_refused(study: Path, data: st.DataObject):
    path = study / data.draw(st.sampled_from(["1-PET", "2-CT", "3-SEG"])) / "1-1.dcm"
    path = path if path.is_file() else path.with_name("1-002.dcm")
    whole = path.read_bytes()
    changes = data.draw(
        st.lists(st.tuples(st.integers(132, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=8)
    )
    damaged = bytearray(whole[: data.draw(st.sampled_from([len(whole), len(whole) // 2]))])
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    path.write_bytes(damaged)
    try:
        read_dicom_case(study)
    except InputError:
        pass
    finally:
        path.write_bytes(whole)
