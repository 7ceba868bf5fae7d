"""grand-challenge's newer start-up: its shim fetches inputs and model, starts the program, and keeps what it wrote.

pip install sagemaker-shim==0.3.0a2    # Python 3.11; without it this test is skipped
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_cli import MASK, PET, files, folder, weights  # noqa: F401

from l2snet.volume import read_volume

models = pytest.importorskip("sagemaker_shim.models", reason="sagemaker-shim==0.3.0a2 is not installed")

START = "import sys; from l2snet.cli import main; main(['predict', *sys.argv[1:]])"


class Bucket:
    """A folder in the place of S3."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def download_fileobj(self, Bucket: str, Key: str, Fileobj) -> None:  # noqa: N803
        Fileobj.write((self.root / Key).read_bytes())

    def upload_file(self, Filename: str, Bucket: str, Key: str) -> None:  # noqa: N803
        with Path(Filename).open("rb") as file:
            self.upload_fileobj(file, Bucket, Key)

    def upload_fileobj(self, Fileobj, Bucket: str, Key: str) -> None:  # noqa: N803
        (self.root / Key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / Key).write_bytes(Fileobj.read())


@pytest.fixture
def invoke(folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    """Run the case as the platform does; the shim's result."""

    def start() -> models.InferenceResult:
        places = {what: tmp_path / what for what in ("local_input", "local_output")}
        for place in places.values():
            place.mkdir()
        command = [sys.executable, "-c", START, *map(str, places.values()), "--no-manifest", "--weights", str(weights)]
        encoded = base64.b64encode(json.dumps(command).encode()).decode()
        monkeypatch.setenv("GRAND_CHALLENGE_COMPONENT_ENTRYPOINT_B64J", encoded)
        monkeypatch.setenv("GRAND_CHALLENGE_COMPONENT_INPUT_PATH", str(places["local_input"]))
        monkeypatch.setenv("GRAND_CHALLENGE_COMPONENT_OUTPUT_PATH", str(places["local_output"]))
        monkeypatch.setattr(models, "get_s3_client", lambda: Bucket(tmp_path))
        inputs = [
            {"relative_path": str(name), "bucket_name": "here", "bucket_key": f"{folder.name}/{name}"}
            for name in files(folder)
        ]
        task = models.InferenceTask(pk="1", inputs=inputs, output_bucket_name="here", output_prefix="kept")
        return asyncio.run(task.invoke())

    return start


def test_a_case_through_the_shim(invoke: Callable[[], models.InferenceResult], folder: Path, tmp_path: Path):  # noqa: F811
    result = invoke()
    assert result.return_code == 0
    assert [output.relative_path for output in result.outputs] == [MASK]
    mask, suv = read_volume(tmp_path / "kept" / MASK, "mask"), read_volume(folder / PET, "PET")
    np.testing.assert_array_equal(mask.array, suv.array == 8)


def test_a_bad_case_through_the_shim(invoke: Callable[[], models.InferenceResult], folder: Path, tmp_path: Path):  # noqa: F811
    (folder / PET).write_bytes(b"no image")
    result = invoke()
    assert result.return_code == 1
    assert result.outputs == []
    assert not (tmp_path / "kept" / MASK).exists()
