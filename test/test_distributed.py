"""Two processes on the CPU, started by Fabric's launcher, train as one does: same losses, same weights.

The launcher runs this very file, whose `train_all` this process runs too; all in float32.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from l2snet.backend import Network
from l2snet.cli import main
from l2snet.errors import InputError
from l2snet.preprocess import WORKING_SPACING_MM, Window
from l2snet.sources.autopet import read_study
from l2snet.training import train
from l2snet.training.distributed import in_turn
from l2snet.training.epochs import LOG
from l2snet.training.loop import CHECKPOINT, _Batches, fit
from l2snet.training.named import STEP_BY_STEPS
from l2snet.training.recipes import SegmenterRecipe, StepByStepRecipe
from l2snet.training.train import cached_cases, train_segmenter, write_cues
from l2snet.volume import Array, Geometry, Volume, write_volume
from l2snet.weights import NetworkConfig

SIZE = (20, 22, 24)
GRID = Geometry(SIZE, WORKING_SPACING_MM)
SEGMENTER = SegmenterRecipe(
    epochs=4, steps_per_epoch=3, batch=4, crop=(8, 8, 8), widths=(2, 3), learning_rate=0.05, lesion_share=0.5
)
# Adam would blow up the rounding of gradients that are 0 but for it.
STEP_BY_STEP = StepByStepRecipe(
    name="tiny",
    epochs=3,
    batch=4,
    optimizer="sgd",
    epoch_is_all_images=False,
    steps_per_epoch=2,
    learning_rate=0.01,
    crop=(8, 8, 16),
    average_epochs=2,
    cosine_rate=0.005,
    cosine_epochs=2,
    widths=(4, 6),
    residual_units=1,
)
FLAT = SegmenterRecipe(epochs=2, steps_per_epoch=2, batch=4, learning_rate=0.1)


class Twins(Dataset[dict[str, Tensor]]):
    """Each sample comes twice, so that two processes get the same share: what batch norm sees is alike."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = torch.Generator().manual_seed(index // 2)
        return {
            "image": torch.randn(1, 6, 6, generator=noise),
            "truth": (torch.rand(1, 6, 6, generator=noise) < 0.3).float(),
        }


def noted(function: Callable[..., object], path: Path) -> Callable[..., object]:
    """`function`, which writes down which process called it."""

    def call(*args: object, **kwargs: object) -> object:
        with path.open("a") as file:
            file.write(os.environ.get("RANK", "0"))
        return function(*args, **kwargs)

    return call


def half_the_pet(batch: Array) -> Array:
    """A localizer whose probability is its input over 2."""
    return batch[:, :1] / 2


def train_segmenter_on(root: Path, out: Path, name: str, stop_after: int | None = None) -> None:
    """Cache, cues and training, as `l2snet train segmenter` has them."""
    config = NetworkConfig("localizer", {"in_channels": 1}, Window(0.0, 10.0), thresholds={"cue": 0.5}, multiple=1)
    localizer = Network(config, "0" * 64, "fake", noted(half_the_pet, out / "cues.txt"))  # type: ignore[arg-type]
    with in_turn("cpu"), mock.patch.object(train, "read_study", noted(read_study, out / "studies.txt")):
        cases = write_cues(cached_cases([root / "data"], out / "cache"), [localizer], out / name)
    train_segmenter(cases, SEGMENTER, out / name, "cpu", stop_after=stop_after)


def train_all(root: Path, out: Path) -> None:
    """What every process does."""
    train_segmenter_on(root, out, "segmenter")
    train_segmenter_on(root, out, "stopped", stop_after=2)
    train_segmenter_on(root, out, "stopped")
    train_segmenter_on(root, out, "begun")
    with mock.patch.dict(STEP_BY_STEPS, tiny=STEP_BY_STEP):
        options = ["--recipe", "tiny", "--cache", str(out / "stores"), "--device", "cpu", "--workers", "0"]
        with pytest.raises(SystemExit) as ended:
            main(["train", "step-by-step", str(root / "data"), str(out / "step_by_step"), *options])
        assert ended.value.code == 0
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    fit(network, Twins(), FLAT, out / "batch_norm", [], "cpu")


def tensors(run: Path) -> dict[str, Tensor]:
    return load_file(str(run / CHECKPOINT))


def losses(run: Path) -> list[float]:
    with (run / LOG).open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of what one process trained, and of what two did; `begun` was begun by one process in both."""
    root = tmp_path_factory.mktemp("distributed")
    rng = np.random.default_rng(0)
    for name, start in (("a", 4), ("b", 9), ("c", 0)):
        suv = rng.uniform(0.5, 2.0, SIZE).astype(np.float32)
        mask = np.zeros(SIZE, np.uint8)
        mask[start : start + 6, start : start + 6, start : start + 6] = bool(start)
        suv[mask > 0] += 8
        ct = rng.uniform(-200, 200, SIZE).astype(np.float32)
        for file, array in (("SUV", suv), ("CTres", ct), ("SEG", mask)):
            write_volume(Volume(array, GRID), root / "data" / name / f"{file}.nii.gz", compress=False)
    one, two = root / "one", root / "two"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LT_PRECISION", "32-true")
        for out in (one, two):
            out.mkdir()
            train_segmenter_on(root, out, "begun", stop_after=1)
            (out / "cues.txt").unlink()
            (out / "studies.txt").unlink()
            shutil.rmtree(out / "cache")
        train_all(root, one)
    torch.set_num_threads(threads)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "lightning_fabric.cli"]
    options = ["--accelerator", "cpu", "--devices", "2", "--precision", "32-true", "--main-port", str(port)]
    command = [*launcher, *options, __file__, str(root), str(two)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    assert "batch norm is over each process's share" in done.stderr
    return one, two


@pytest.mark.parametrize("name", ["segmenter", "stopped", "begun", "step_by_step", "batch_norm"])
def test_two_processes_train_as_one(runs: tuple[Path, Path], name: str) -> None:
    one, two = (folder / name for folder in runs)
    assert losses(two) == pytest.approx(losses(one), abs=2e-6)
    expected, found = tensors(one), tensors(two)
    assert expected.keys() == found.keys()
    for key in expected:
        if "running_var" not in key:  # an estimate that takes the size of a share into account
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6)


def test_a_stopped_run_goes_on_in_two_processes_to_the_same_result(runs: tuple[Path, Path]) -> None:
    whole, stopped = (tensors(runs[1] / name) for name in ("segmenter", "stopped"))
    assert losses(runs[1] / "stopped") == losses(runs[1] / "segmenter")
    assert [key for key in whole if not torch.equal(whole[key], stopped[key])] == []


@pytest.mark.parametrize("name", ["studies.txt", "cues.txt"])
def test_the_first_process_alone_makes_cache_and_cues(runs: tuple[Path, Path], name: str) -> None:
    one, two = ((folder / name).read_text() for folder in runs)
    assert two == one
    assert set(one) == {"0"}


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(InputError, match="a batch of 4 cannot be shared evenly among 3 processes"):
        _Batches(SEGMENTER, range(3), 0, 3)
    shares = [list(_Batches(SEGMENTER, range(3, 6), rank, 2)) for rank in (0, 1)]
    assert shares[0] == [[12, 14], [16, 18], [20, 22]]
    assert shares[1] == [[13, 15], [17, 19], [21, 23]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_all(Path(sys.argv[1]), Path(sys.argv[2]))
