"""The training loop of both phases: it learns, resumes to the bit, and leaves a run folder that says what was done."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from l2snet.backend import Network
from l2snet.case import Case
from l2snet.cli import main
from l2snet.errors import DeviceError, InputError, TrainingError, WeightsError
from l2snet.export import export_run, load_network, read_weights
from l2snet.networks import build
from l2snet.networks.unet3d import UNet3D
from l2snet.organs import CLASSES, OrganClass
from l2snet.preprocess import WORKING_SPACING_MM, Window
from l2snet.sources.autopet import SUV
from l2snet.training import epochs, loop
from l2snet.training.cache import DONE, CachedCase, write_case
from l2snet.training.datasets import Sample, WindowDataset
from l2snet.training.epochs import LOG
from l2snet.training.loop import CASES, CHECKPOINT, CUES, RECIPE, fit, load_checkpoint
from l2snet.training.recipes import LocalizerRecipe, Recipe, SegmenterRecipe
from l2snet.training.train import check_folders, check_watched, train_localizer, train_segmenter, watched, write_cues
from l2snet.volume import Array, Geometry, Volume
from l2snet.weights import CONFIG, NETWORK, ORGAN_HEAD, NetworkConfig, read_config, read_sums, write_sums

SIZE = (20, 22, 24)
GRID = Geometry(SIZE, WORKING_SPACING_MM)

Train = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors as small as these are slower on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cases(tmp_path: Path) -> list[CachedCase]:
    """Two cached cases with a hot lesion each, and its cue."""
    rng = np.random.default_rng(0)
    cached = []
    for name, start in (("a", 4), ("b", 9)):
        suv = rng.uniform(0.5, 2.0, SIZE).astype(np.float32)
        lesions = np.zeros(SIZE, np.uint8)
        lesions[start : start + 6, start : start + 6, start : start + 6] = 1
        suv[lesions > 0] += 8
        ct = rng.uniform(-200, 200, SIZE).astype(np.float32)
        case = write_case(Case(name, Volume(suv, GRID), Volume(ct, GRID), Volume(lesions, GRID)), tmp_path / "cache")
        np.save(case.folder / "cue.npy", (0.8 * lesions).astype(np.float16))
        cached.append(case)
    return cached


SEGMENTER = SegmenterRecipe(
    epochs=4, steps_per_epoch=3, crop=(8, 8, 8), widths=(2, 3), learning_rate=0.05, lesion_share=0.5, ct_dropout=0.2
)
LOCALIZER = LocalizerRecipe(
    epochs=4,
    steps_per_epoch=2,
    batch=2,
    crop=(32, 32),
    widths=(4, 4, 4, 4, 4),
    learning_rate=0.01,
    lesion_share=0.5,
    encoder_weights=None,
    checkpoint_every=2,
)
PHASES = [
    pytest.param(train_localizer, LOCALIZER, id="localizer"),
    pytest.param(train_segmenter, SEGMENTER, id="segmenter"),
    pytest.param(train_segmenter, replace(SEGMENTER, norm="channels"), id="segmenter-channels"),
]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / LOG).open(newline="") as file:
        return list(csv.DictReader(file))


def losses(run: Path) -> list[str]:
    return [row["loss"] for row in rows(run)]


def tensors(run: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(str(run / CHECKPOINT), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # not a mapping


def assert_same_result(run: Path, other: Path) -> None:
    (one, epoch), (two, other_epoch) = tensors(run), tensors(other)
    assert epoch == other_epoch
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    columns = ("epoch", "loss", "learning_rate")
    assert [[row[c] for c in columns] for row in rows(run)] == [[row[c] for c in columns] for row in rows(other)]


# It learns


class Samples(Dataset[Sample]):
    """The same few samples over and over: sample i of a run is the i-th, counted round."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % len(self.samples)]


def bright(size: tuple[int, ...], channels: int, where: tuple[slice, ...], window: Window) -> Sample:
    """Noise in a tenth of the window, and lesion that is brighter by half of it."""
    truth = torch.zeros(1, *size)
    truth[(0, *where)] = 1
    image = 0.1 * torch.rand(channels, *size) + 0.5 * truth
    return {"image": window.to_low + (window.to_high - window.to_low) * image, "truth": truth}


SLICE = replace(LOCALIZER, crop=(64, 64), widths=(32, 32, 16, 16, 8), learning_rate=0.05, steps_per_epoch=15)
WINDOW = replace(SEGMENTER, crop=(8, 16, 16), widths=(8, 16), learning_rate=0.03, steps_per_epoch=50)
CHANNELS = replace(WINDOW, norm="channels", learning_rate=0.01, steps_per_epoch=40)
NONE, BLOCK = (slice(0, 0),), (slice(16, 34), slice(16, 34))
LEFT, RIGHT = (..., slice(None, 8)), (..., slice(8, None))


@pytest.mark.parametrize(
    ("recipe", "places"),
    [
        pytest.param(SLICE, (BLOCK, NONE), id="phase 1"),
        pytest.param(WINDOW, (LEFT, RIGHT), id="window norm"),
        pytest.param(CHANNELS, (LEFT, RIGHT), id="channel norm"),
    ],
)
def test_one_batch_is_learnt_by_heart(
    tmp_path: Path, recipe: LocalizerRecipe | SegmenterRecipe, places: tuple[tuple[slice, ...], ...]
) -> None:
    torch.manual_seed(0)
    recipe = replace(recipe, checkpoint_every=4)
    network = build(recipe.network, recipe.architecture)
    samples = [bright(recipe.crop, recipe.architecture["in_channels"], where, recipe.pet) for where in places]
    if isinstance(recipe, SegmenterRecipe):
        samples = [{**sample, "weight": 1 + 0.5 * sample["truth"]} for sample in samples]
    fit(network, Samples(samples), recipe, tmp_path, ["a"], "cpu")
    first, *_, last = (float(loss) for loss in losses(tmp_path))
    assert last < first / 4
    image, truth = (torch.stack([sample[name] for sample in samples]) for name in ("image", "truth"))
    network.eval()
    with torch.inference_mode():
        found = torch.sigmoid(network(image)) > 0.5
    dice = 2 * (found * truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.9


# One step by hand


def one_filter(weight: float) -> nn.Module:
    network = nn.Conv3d(1, 1, 1, bias=False)
    nn.init.constant_(network.weight, weight)
    return network


def test_sgd_with_momentum_decay_and_schedule_by_hand(tmp_path: Path) -> None:
    """The image is zero, so the gradient is that of weight decay alone: 0.1 w.

    Epoch 1, rate 1: momentum 0.1 x 1 = 0.1; w = 1 - 0.1 = 0.9.
    Epoch 2, rate 1/2: momentum 0.5 x 0.1 + 0.1 x 0.9 = 0.14; w = 0.9 - 0.07 = 0.83.
    """
    recipe = SegmenterRecipe(
        epochs=2, steps_per_epoch=1, learning_rate=1.0, decay_power=1.0, momentum=0.5, weight_decay=0.1
    )
    zero = {"image": torch.zeros(1, 2, 2, 2), "truth": torch.zeros(1, 2, 2, 2)}
    network = one_filter(1.0)
    fit(network, Samples([zero]), recipe, tmp_path, ["a"], "cpu")
    assert network.weight.item() == pytest.approx(0.83, rel=1e-6)
    stored, metadata = tensors(tmp_path)
    assert stored["network/weight"].item() == pytest.approx(0.83, rel=1e-6)
    assert stored["optimizer/0/momentum_buffer"].item() == pytest.approx(0.14, rel=1e-6)
    assert metadata == {"epoch": "2"}


@pytest.mark.parametrize(("weight", "expected"), [(None, log(2) + 1 / 3), ((1.0, 3.0), log(2) + 1 / 2)])
def test_logged_loss_is_the_weighted_one_by_hand(
    tmp_path: Path, weight: tuple[float, float] | None, expected: float
) -> None:
    """A filter of 0 gives p = 1/2: bce ln 2; Dice = (1 + 1) / (1 + 1 + 1), with weights (1 + 1) / (2 + 1 + 1)."""
    shape = (1, 1, 1, 2)
    sample = {"image": torch.zeros(shape), "truth": torch.tensor([1.0, 0.0]).reshape(shape)}
    if weight is not None:
        sample["weight"] = torch.tensor(weight).reshape(shape)
    recipe = SegmenterRecipe(epochs=1, steps_per_epoch=3, batch=1)
    fit(one_filter(0.0), Samples([sample]), recipe, tmp_path, ["a"], "cpu")
    assert [float(loss) for loss in losses(tmp_path)] == [pytest.approx(expected, abs=1e-6)]


def test_adamw_by_hand(tmp_path: Path) -> None:
    """No gradient: the first step moves by decay alone, w = 1 - rate x 0.1 = 0.9 at rate 1, without momentum."""
    recipe = SegmenterRecipe(epochs=1, steps_per_epoch=1, learning_rate=1.0, weight_decay=0.1, optimizer="adamw")
    zero = {"image": torch.zeros(1, 2, 2, 2), "truth": torch.zeros(1, 2, 2, 2)}
    network = one_filter(1.0)
    fit(network, Samples([zero]), recipe, tmp_path, ["a"], "cpu")
    assert network.weight.item() == pytest.approx(0.9, rel=1e-6)
    assert "optimizer/0/exp_avg" in tensors(tmp_path)[0]


@pytest.mark.parametrize(
    ("planes", "capable", "expected"),
    [(2, True, torch.float32), (4, True, torch.float32), (8, True, torch.bfloat16), (8, False, torch.float32)],
)
def test_a_cpu_trains_in_bfloat16_where_it_has_it_and_gradients_are_right(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    planes: int,
    capable: bool,
    expected: torch.dtype,
) -> None:
    """Two levels: the deeper one halves the planes; of two of them PyTorch's gradients were infinite at times."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": capable})
    network = UNet3D(widths=(2, 3), norm="channels")
    dtypes = set()
    network.encoder[1][0].register_forward_hook(lambda _m, _i, out: dtypes.add((out.device.type, out.dtype)))
    sample = {"image": torch.rand(2, planes, 8, 8), "truth": torch.ones(1, planes, 8, 8)}
    recipe = SegmenterRecipe(epochs=1, steps_per_epoch=2, batch=1, crop=(8, 8, 8))
    fit(network, Samples([sample]), recipe, tmp_path, ["a"], "cpu")
    assert [dtype for where, dtype in dtypes if where == "cpu"] == [expected]
    assert ("trains in float32" in caplog.text) is (expected == torch.float32)


def test_batch_norms_end_with_the_statistics_of_the_final_weights(tmp_path: Path) -> None:
    """One channel, batches of one image: the images 10 to 12, of which training keeps a mean that begins at 0."""
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1))
    images = [{"image": torch.full((1, 2, 2), v), "truth": torch.zeros(1, 2, 2)} for v in (10.0, 11.0, 12.0)]
    recipe = LocalizerRecipe(epochs=2, steps_per_epoch=3, batch=1, crop=(2, 2), encoder_weights=None)
    fit(network, Samples(images), recipe, tmp_path, ["a"], "cpu")
    stored = tensors(tmp_path)[0]
    assert stored["network/0.running_mean"].item() == pytest.approx(11.0, rel=1e-2)
    assert network.training


@pytest.mark.parametrize("keep", [False, True])
def test_batch_norms_may_keep_their_statistics_and_learn_with_them(tmp_path: Path, keep: bool) -> None:
    """An image of 10, a mean of 9 and a variance of 1: kept, the norm gives 1; of the batch, 0. The loss by hand."""
    network = nn.Sequential(nn.BatchNorm2d(1), one_filter(1.0))
    norm = network[0]
    norm.running_mean.fill_(9.0)
    images = [{"image": torch.full((1, 2, 2), 10.0), "truth": torch.ones(1, 2, 2)}]
    recipe = LocalizerRecipe(
        epochs=1,
        steps_per_epoch=1,
        batch=1,
        crop=(2, 2),
        encoder_weights=None,
        learning_rate=1e-9,
        keep_statistics=keep,
    )
    fit(network, Samples(images), recipe, tmp_path, ["a"], "cpu", watched={"seen_loss": Samples(images)})
    logit = 1.0 if keep else 0.0
    p = 1 / (1 + exp(-logit))
    by_hand = log(1 + exp(-logit)) + 1 - (8 * p + 1) / (4 * p + 5)
    assert float(rows(tmp_path)[0]["loss"]) == pytest.approx(by_hand, abs=2e-3)
    assert norm.running_mean.item() == pytest.approx(9.0 if keep else 10.0)
    assert network.training
    assert norm.training != keep


def test_statistics_are_kept_of_weights_alone(
    tmp_path: Path, cases: list[CachedCase], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(SEGMENTER, norm="batch", keep_statistics=True)
    with pytest.raises(InputError, match="give them with --pretrained"):
        train_segmenter(cases, recipe, tmp_path / "run", "cpu")
    command = ["train", "segmenter", str(tmp_path), str(tmp_path / "run"), "--set", "keep_statistics=true"]
    with pytest.raises(SystemExit):
        main(command)
    assert "give them with --pretrained" in capsys.readouterr().err
    with pytest.raises(InputError, match="this segmenter has no batch norm"):
        train_segmenter(cases, replace(recipe, norm="window"), tmp_path / "run", "cpu", pretrained=tmp_path)


# It starts from weights


@pytest.mark.parametrize(("train", "recipe"), PHASES[:2])
def test_a_run_starts_from_weights_and_says_what_they_had_seen(
    tmp_path: Path, cases: list[CachedCase], train: Train, recipe: Recipe
) -> None:
    """A rate of nearly zero: what the new run holds is what it started from (filters are stored in float16)."""
    train(cases[:1], replace(recipe, epochs=1), tmp_path / "first", "cpu")
    first = export_run(tmp_path / "first", tmp_path / "weights")
    # Thresholds are not passed on, so what they were calibrated on is not learnt from.
    calibrated = replace(first, trained={**first.trained, "calibrated_on": ["c"]})
    (tmp_path / "weights" / CONFIG).write_text(calibrated.to_json())
    write_sums(tmp_path / "weights")
    assert read_config(tmp_path / "weights").seen_cases == {"a", "c"}
    still = replace(recipe, epochs=1, learning_rate=1e-12)
    train(cases[1:], still, tmp_path / "second", "cpu", pretrained=tmp_path / "weights")
    before, after = tensors(tmp_path / "first")[0], tensors(tmp_path / "second")[0]
    for name in (name for name in before if name.startswith("network/") and "running" not in name):
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-6)
    config = export_run(tmp_path / "second", tmp_path / "more")
    assert config.trained["cases"] == ["b"]
    assert config.seen_cases == {"a", "b"}

    train(cases[1:], still, tmp_path / "second", "cpu", pretrained=tmp_path / "weights")  # goes on
    with pytest.raises(InputError, match="give the same with --pretrained"):
        train(cases[1:], still, tmp_path / "second", "cpu")
    with pytest.raises(InputError, match="begun without weights"):
        train(cases[:1], replace(recipe, epochs=1), tmp_path / "first", "cpu", pretrained=tmp_path / "weights")
    with pytest.raises(InputError, match="must be the same to start from"):
        train(
            cases[1:],
            replace(still, widths=(4, 4, 4, 4, 8)),
            tmp_path / "third",
            "cpu",
            pretrained=tmp_path / "weights",
        )


def test_a_localizer_may_start_from_one_of_another_stride(tmp_path: Path, cases: list[CachedCase]) -> None:
    train, recipe = train_localizer, LOCALIZER
    train(cases[:1], replace(recipe, epochs=1), tmp_path / "first", "cpu")
    export_run(tmp_path / "first", tmp_path / "weights")
    coarser = replace(recipe, epochs=1, stride=2, crop=(64, 64))
    train(cases[1:], coarser, tmp_path / "second", "cpu", pretrained=tmp_path / "weights")
    config = export_run(tmp_path / "second", tmp_path / "more")
    assert (config.architecture["stride"], config.multiple) == (2, 64)


def test_a_segmenter_may_start_from_one_of_another_stride(tmp_path: Path, cases: list[CachedCase]) -> None:
    train, recipe = train_segmenter, replace(SEGMENTER, cue_weight=0.0)
    train(cases[:1], replace(recipe, epochs=1), tmp_path / "first", "cpu")
    assert export_run(tmp_path / "first", tmp_path / "weights").stride == (1, 1, 1)
    coarser = replace(recipe, epochs=1, stride=(1, 2, 2))
    train(cases[1:], coarser, tmp_path / "second", "cpu", pretrained=tmp_path / "weights")
    config = export_run(tmp_path / "second", tmp_path / "more")
    assert (config.stride, config.window) == ((1, 2, 2), recipe.window or recipe.crop)


# It is watched


@pytest.mark.parametrize(("train", "recipe"), PHASES)
def test_the_loss_of_cases_not_trained_on_is_logged_and_changes_nothing(
    tmp_path: Path, cases: list[CachedCase], train: Train, recipe: Recipe
) -> None:
    train(cases[:1], recipe, tmp_path / "plain", "cpu")
    watch = [replace(case, cue_name="none") for case in cases[1:]]
    train(cases[:1], recipe, tmp_path / "watched", "cpu", watch=watch)
    assert_same_result(tmp_path / "plain", tmp_path / "watched")
    logged = [(float(row["seen_loss"]), float(row["held_out_loss"])) for row in rows(tmp_path / "watched")]
    assert len(logged) == recipe.epochs
    assert np.isfinite(logged).all()
    assert all(seen != held_out for seen, held_out in logged)
    # The same samples each time: without learning nothing changes.
    still = replace(recipe, learning_rate=1e-12, epochs=2)
    train(cases[:1], still, tmp_path / "still", "cpu", watch=watch)
    (first, second) = rows(tmp_path / "still")
    if recipe.network == SEGMENTER.network:  # the localizer's batch norms go on with their statistics
        assert float(first["held_out_loss"]) == pytest.approx(float(second["held_out_loss"]), abs=1e-5)
    with pytest.raises(InputError, match="b is watched, and trained on"):
        train(cases, recipe, tmp_path / "both", "cpu", watch=cases[1:])


def test_what_is_learnt_from_is_not_watched(tmp_path: Path, cases: list[CachedCase]) -> None:
    train_segmenter(cases[:1], SEGMENTER, tmp_path / "first", "cpu", stop_after=1)
    export_run(tmp_path / "first", tmp_path / "weights")
    check_watched(cases[1:], cases[:1])
    with pytest.raises(InputError, match=f"{cases[0].name} is watched, and trained on or known to the weights"):
        check_watched(cases[1:], cases[:1], tmp_path / "weights")
    with pytest.raises(InputError, match=f"{cases[1].name} is watched"):  # another study of a patient
        check_watched([replace(cases[0], patient="p")], [replace(cases[1], patient="p")])
    with pytest.raises(InputError, match="more folders are watched"):
        check_watched(cases[:1], [replace(cases[1], source=1)])
    check_watched(cases[:1], [])


def test_tumours_that_are_trained_on_are_not_watched(tmp_path: Path, cases: list[CachedCase]) -> None:
    record = cases[1].folder / DONE
    record.write_text(json.dumps({**json.loads(record.read_text()), "donors": ["STS_001", cases[0].name]}))
    with pytest.raises(InputError, match=f"watched cases hold tumours of {cases[0].name}, which are trained on"):
        check_watched(cases[:1], cases[1:])


def test_folders_are_watched_beside_those_that_are_trained_on(cases: list[CachedCase]) -> None:
    def make(some: list[CachedCase], recipe: Recipe) -> tuple[list[str], object]:
        return [case.name for case in some], recipe.shares

    bodies, patients = cases[0], replace(cases[1], source=1)
    recipe = replace(LOCALIZER, shares=(9.0, 1.0))
    other, another = (replace(case, folder=case.folder.with_name(f"{case.name}2")) for case in (bodies, patients))
    for case, source in ((bodies, other), (patients, another)):
        shutil.copytree(case.folder, source.folder)
    assert watched(make, [bodies, patients], [other], recipe) == {
        "seen_loss": ([bodies.name], (9.0,)),
        "held_out_loss": ([other.name], (9.0,)),
    }
    assert watched(make, [bodies, patients], [other, another], recipe)["held_out_loss"] == (
        [other.name, another.name],
        (9.0, 1.0),
    )
    assert watched(make, [bodies, patients], [], recipe) == {}


def test_studies_of_one_name_are_not_trained_on_and_watched(tmp_path: Path) -> None:
    for name in ("a/one", "a/two", "b/two", "c/three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / SUV).touch()
    check_folders([tmp_path / "a"], [tmp_path / "c"])
    check_folders([tmp_path / "a", tmp_path / "b"], [])
    with pytest.raises(InputError, match=r"two: studies of this name .* watch a folder of other studies"):
        check_folders([tmp_path / "a"], [tmp_path / "c", tmp_path / "b"])


@pytest.mark.parametrize(
    ("network", "module", "reader"),
    [
        ("localizer", "l2snet.training.train", "cached_cases"),
        ("segmenter", "l2snet.training.train", "cached_cases"),
        ("step-by-step", "l2snet.training.step_by_step", "stored_cases"),
    ],
)
def test_the_commands_watch_folders(monkeypatch: pytest.MonkeyPatch, network: str, module: str, reader: str) -> None:
    given = {}
    monkeypatch.setattr(f"{module}.{reader}", lambda data, *_, **__: [path.name for path in data])
    for check in ("check_folders", "check_watched"):
        monkeypatch.setattr(f"l2snet.training.train.{check}", lambda *_: None)
    trained = f"{module}.train_{network.replace('-', '_')}"
    monkeypatch.setattr(trained, lambda cases, *_, watch, **__: given.update(cases=cases, watch=watch))
    for options, watch in (([], []), (["--watch", "b", "--watch", "c"], ["b", "c"])):
        with pytest.raises(SystemExit) as ended:
            main(["train", network, "a", "run", "--device", "cpu", *options])
        assert ended.value.code == 0
        assert given == {"cases": ["a"], "watch": watch}


def test_a_run_may_be_watched_from_where_it_was_stopped(tmp_path: Path, cases: list[CachedCase]) -> None:
    recipe = replace(SEGMENTER, cue_weight=0.0)
    train_segmenter(cases[:1], recipe, tmp_path / "run", "cpu", stop_after=2)
    train_segmenter(cases[:1], recipe, tmp_path / "run", "cpu", watch=cases[1:])
    assert [bool(row["held_out_loss"]) for row in rows(tmp_path / "run")] == [False, False, True, True]
    assert all(row["loss"] for row in rows(tmp_path / "run"))


# It learns organs too


@pytest.mark.parametrize(("train", "recipe"), PHASES[:2])
def test_the_head_for_organs_stays_in_the_run(
    tmp_path: Path, cases: list[CachedCase], train: Train, recipe: Recipe
) -> None:
    """It is trained, kept in the checkpoint and beside the network, for another training to go on with."""
    np.save(cases[0].folder / "organs.npy", np.full(cases[0].suv.shape, OrganClass.LIVER, np.uint8))
    learning = replace(recipe, organ_weight=20.0, hot_weight=5.0)
    train(cases, learning, tmp_path / "run", "cpu")
    stored = tensors(tmp_path / "run")[0]
    bias = stored["network/organ_head.bias"]
    assert bias.shape == (CLASSES,)
    assert bias[OrganClass.LIVER] > bias.mean()
    export_run(tmp_path / "run", tmp_path / "weights")
    config = read_config(tmp_path / "weights")
    assert not any("organ" in name for name in read_weights(tmp_path / "weights" / NETWORK))
    assert not load_network(tmp_path / "weights" / NETWORK, config).training
    assert ORGAN_HEAD in read_sums(tmp_path / "weights")
    modes = {(tmp_path / "weights" / name).stat().st_mode for name in (NETWORK, ORGAN_HEAD)}
    assert len(modes) == 1  # who may read one may read the other
    still = replace(learning, epochs=1, learning_rate=1e-12)
    train(cases, still, tmp_path / "next", "cpu", pretrained=tmp_path / "weights")
    torch.testing.assert_close(tensors(tmp_path / "next")[0]["network/organ_head.bias"], bias)
    save_file({"bias": torch.zeros(3)}, tmp_path / "weights" / ORGAN_HEAD)
    with pytest.raises(WeightsError, match=f"{ORGAN_HEAD} was altered"):
        train(cases, still, tmp_path / "other", "cpu", pretrained=tmp_path / "weights")
    write_sums(tmp_path / "weights")
    with pytest.raises(InputError, match="holds no head of these organs"):
        train(cases, still, tmp_path / "other", "cpu", pretrained=tmp_path / "weights")
    (tmp_path / "weights" / ORGAN_HEAD).unlink()
    with pytest.raises(WeightsError, match=f"has no {ORGAN_HEAD}"):
        train(cases, still, tmp_path / "other", "cpu", pretrained=tmp_path / "weights")
    write_sums(tmp_path / "weights")  # of weights that learnt none, or of before
    train(cases, still, tmp_path / "without", "cpu", pretrained=tmp_path / "weights")


# It resumes


@pytest.mark.parametrize(("train", "recipe"), PHASES)
def test_a_stopped_run_goes_on_to_the_same_result(
    tmp_path: Path, cases: list[CachedCase], train: Train, recipe: Recipe
) -> None:
    torch.manual_seed(0)
    train(cases, recipe, tmp_path / "whole", "cpu")
    torch.manual_seed(0)
    train(cases, recipe, tmp_path / "halves", "cpu", stop_after=2)
    assert len(rows(tmp_path / "halves")) == 2
    torch.manual_seed(99)  # as in another process
    train(cases, recipe, tmp_path / "halves", "cpu")
    assert_same_result(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize(("checkpoint_every", "killed_in_epoch"), [(1, 3), (2, 4), (2, 3), (4, 1)])
def test_a_killed_run_goes_on_to_the_same_result(
    tmp_path: Path,
    cases: list[CachedCase],
    monkeypatch: pytest.MonkeyPatch,
    checkpoint_every: int,
    killed_in_epoch: int,
) -> None:
    """Killed in the middle of an epoch: after a checkpoint, between two, and before the first."""
    recipe = replace(SEGMENTER, checkpoint_every=checkpoint_every)
    torch.manual_seed(0)
    train_segmenter(cases, recipe, tmp_path / "whole", "cpu")

    draw = WindowDataset.__getitem__
    last = ((killed_in_epoch - 1) * recipe.steps_per_epoch + 1) * recipe.batch  # in the epoch's second step

    def killed(self: WindowDataset, index: int) -> Sample:
        if index >= last:
            raise KeyboardInterrupt
        return draw(self, index)

    monkeypatch.setattr(WindowDataset, "__getitem__", killed)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(cases, recipe, tmp_path / "killed", "cpu")
    monkeypatch.undo()
    torch.manual_seed(99)
    train_segmenter(cases, recipe, tmp_path / "killed", "cpu")
    assert_same_result(tmp_path / "whole", tmp_path / "killed")


def test_a_compiled_run_is_the_same_but_for_rounding(tmp_path: Path, cases: list[CachedCase]) -> None:
    """torch.compile asks for a C++ compiler, which continuous integration has; and it resumes."""
    for name, compiled in (("plain", False), ("compiled", True)):
        torch.manual_seed(0)
        train_segmenter(cases, SEGMENTER, tmp_path / name, "cpu", stop_after=1, compiled=compiled)
        train_segmenter(cases, SEGMENTER, tmp_path / name, "cpu", stop_after=2, compiled=compiled)
    plain, compiled = ([float(loss) for loss in losses(tmp_path / name)] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=0.02)  # bfloat16
    assert tensors(tmp_path / "plain")[0].keys() == tensors(tmp_path / "compiled")[0].keys()


def test_workers_change_nothing(tmp_path: Path, cases: list[CachedCase]) -> None:
    for name, workers in (("none", 0), ("one", 1)):
        torch.manual_seed(0)
        train_segmenter(cases, SEGMENTER, tmp_path / name, "cpu", workers=workers, stop_after=2)
    assert_same_result(tmp_path / "none", tmp_path / "one")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, cases: list[CachedCase]) -> None:
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu") == tmp_path / "run" / CHECKPOINT
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one(
    tmp_path: Path, cases: list[CachedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    train_segmenter(cases, SEGMENTER, tmp_path / "whole", "cpu")
    torch.manual_seed(0)
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu", stop_after=2)

    def half_written(_tensors: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_file", half_written)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu")
    monkeypatch.undo()
    assert tensors(tmp_path / "run")[1] == {"epoch": "2"}
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu")
    assert_same_result(tmp_path / "whole", tmp_path / "run")


# What it refuses


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    """The second epoch meets a NaN: the first one's checkpoint and log line stay."""
    good = {"image": torch.ones(1, 2, 2, 2), "truth": torch.ones(1, 2, 2, 2)}
    bad = {**good, "image": torch.full((1, 2, 2, 2), torch.nan)}
    recipe = SegmenterRecipe(epochs=3, steps_per_epoch=1, batch=1)
    with pytest.raises(TrainingError, match=r"the loss of epoch 2 is nan; .* lower the learning rate"):
        fit(one_filter(0.0), Samples([good, bad]), recipe, tmp_path, ["a"], "cpu")
    stored, metadata = tensors(tmp_path)
    assert metadata == {"epoch": "1"}
    assert all(torch.isfinite(value).all() for value in stored.values())
    assert [row["epoch"] for row in rows(tmp_path)] == ["1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch finds a GPU here")
def test_training_is_never_silently_on_the_cpu(
    tmp_path: Path, cases: list[CachedCase], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DeviceError, match="CUDA was asked for and PyTorch finds no GPU"):
        train_segmenter(cases, SEGMENTER, tmp_path / "run", "cuda")
    with pytest.raises(DeviceError, match="TensorRT trains no network"):
        train_segmenter(cases, SEGMENTER, tmp_path / "run", "tensorrt")
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "auto", stop_after=1)
    assert "training on the CPU" in caplog.text


def test_encoder_weights_that_cannot_be_had_are_an_error(tmp_path: Path, cases: list[CachedCase]) -> None:
    recipe = replace(LOCALIZER, encoder_weights=str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(InputError, match=r"the encoder weights .*nowhere.safetensors' cannot be had .*, or none"):
        train_localizer(cases, recipe, tmp_path / "run", "cpu")


# What it leaves


@pytest.mark.parametrize(
    ("change", "file"), [({"learning_rate": 0.06}, RECIPE), ({"seed": 1}, RECIPE), ({"epochs": 5}, RECIPE)]
)
def test_another_recipe_in_the_same_run_is_refused(
    tmp_path: Path, cases: list[CachedCase], change: dict[str, float], file: str
) -> None:
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu", stop_after=1)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    with pytest.raises(InputError, match=f"{file} is of another run"):
        train_segmenter(cases, replace(SEGMENTER, **change), tmp_path / "run", "cpu")
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_a_run_goes_on_when_recipes_have_got_settings_that_it_does_not_use(
    tmp_path: Path, cases: list[CachedCase]
) -> None:
    train_segmenter(cases, SEGMENTER, tmp_path / "whole", "cpu")
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu", stop_after=1)
    record = tmp_path / "run" / RECIPE
    older = json.loads(record.read_text())
    del older["organ_gain"]
    record.write_text(json.dumps(older))
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu")
    assert_same_result(tmp_path / "whole", tmp_path / "run")
    record.write_text(json.dumps({**older, "organ_gain": 2.0}))
    with pytest.raises(InputError, match=f"{RECIPE} is of another run"):
        train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu")


def test_other_cases_in_the_same_run_are_refused(tmp_path: Path, cases: list[CachedCase]) -> None:
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu", stop_after=1)
    with pytest.raises(InputError, match=f"{CASES} is of another run"):
        train_segmenter(cases[:1], SEGMENTER, tmp_path / "run", "cpu")


def test_run_folder_tells_recipe_and_cases(tmp_path: Path, cases: list[CachedCase]) -> None:
    train_segmenter(cases[::-1], SEGMENTER, tmp_path / "run", "cpu", stop_after=1)
    assert SegmenterRecipe.from_json((tmp_path / "run" / RECIPE).read_text("utf-8")) == SEGMENTER
    assert json.loads((tmp_path / "run" / CASES).read_text("utf-8")) == ["b", "a"]  # sample i depends on the order
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted([RECIPE, CASES, LOG, CHECKPOINT])


def test_log_has_a_line_per_epoch_and_the_rates_of_the_schedule(tmp_path: Path, cases: list[CachedCase]) -> None:
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu")
    table = rows(tmp_path / "run")
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    # 0.05 x (1, 3/4, 1/2, 1/4)^0.9
    expected = [0.05, 0.05 * 0.7719, 0.05 * 0.53589, 0.05 * 0.28717]
    assert [float(row["learning_rate"]) for row in table] == pytest.approx(expected, rel=1e-4)
    assert all(float(row["loss"]) > 0 and float(row["seconds"]) >= 0 for row in table)
    assert all(0 < float(row["busy"]) <= 1 for row in table)


def test_the_device_is_busy_in_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps from 0 to 1 s and from 5 to 7 s of 8 s; else it waits for a sample."""
    clock = iter([0.0, 0.0, 1.0, 5.0, 7.0, 8.0])
    monkeypatch.setattr(epochs.time, "perf_counter", lambda: next(clock))
    watch = epochs.Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            pass
    assert watch.share() == 3 / 8


def test_checkpoint_is_safetensors_and_no_pickle(
    tmp_path: Path, cases: list[CachedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a pickle was read or written")

    for module, name in ((torch, "load"), (torch, "save"), (pickle, "load"), (pickle, "dump")):
        monkeypatch.setattr(module, name, refuse)
    checkpoint = train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu", stop_after=1)
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu", stop_after=2)
    data = checkpoint.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header.pop("__metadata__") == {"epoch": "2"}
    network = build(SEGMENTER.network, SEGMENTER.architecture)
    assert {name.removeprefix("network/") for name in header if name.startswith("network/")} == set(
        network.state_dict()
    )
    count = len(list(network.parameters()))
    momenta = {f"optimizer/{index}/momentum_buffer" for index in range(count)}
    assert {name for name in header if not name.startswith("network/")} == momenta


def test_load_checkpoint_gives_network_and_epoch(tmp_path: Path, cases: list[CachedCase]) -> None:
    train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu", stop_after=3)
    network = build(SEGMENTER.network, SEGMENTER.architecture)
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT, network) == 3
    stored = tensors(tmp_path / "run")[0]
    assert all(torch.equal(value, stored[f"network/{name}"]) for name, value in network.state_dict().items())


# Cues


def test_a_segmenter_without_cues_is_refused(tmp_path: Path, cases: list[CachedCase]) -> None:
    (cases[1].folder / "cue.npy").unlink()
    cases = [CachedCase(case.folder) for case in cases]
    with pytest.raises(ValueError, match="needs every case's cue"):
        train_segmenter(cases, SEGMENTER, tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()
    train_segmenter(cases, replace(SEGMENTER, cue_weight=0.0), tmp_path / "run", "cpu", stop_after=1)
    assert len(rows(tmp_path / "run")) == 1


def fake_localizer(seen: list[str], sha256: str = "0" * 64) -> Network:
    """A localizer that gives back its PET, as SUV / 35."""
    config = NetworkConfig(
        network="localizer",
        architecture={"in_channels": 1},
        pet=Window(0.0, 35.0, -1.0, 1.0),
        thresholds={"cue": 0.5},
        trained={"cases": seen},
    )

    def run(batch: Array) -> Array:
        return (batch + 1) / 2

    return Network(config, sha256, "fake", run)


@pytest.mark.parametrize(("trained_on", "seen"), [([], []), (["b", "z"], ["b"]), (["b", "a"], ["a", "b"]), (["z"], [])])
def test_write_cues_records_who_made_them_and_what_it_had_seen(
    tmp_path: Path, cases: list[CachedCase], trained_on: list[str], seen: list[str]
) -> None:
    with_cues = write_cues(cases, [fake_localizer(trained_on, "ab" * 32)], tmp_path / "run")
    record = json.loads((tmp_path / "run" / CUES).read_text("utf-8"))
    assert record == {
        "localizers": [{"sha256": "ab" * 32, "cases": sorted(trained_on)}],
        "cases_their_localizer_was_trained_on": seen,
    }
    assert [case.name for case in with_cues] == ["a", "b"]
    for case in with_cues:
        assert case.cue is not None
        assert case.cue.dtype == np.float16
        np.testing.assert_allclose(case.cue, case.suv.astype(np.float32) / 35, atol=2e-3)


def test_cues_are_computed_once_by_each_localizer(tmp_path: Path, cases: list[CachedCase]) -> None:
    """Two runs on one cache, with two localizers: neither sees the other's cues."""
    calls: list[str] = []

    def localizer(sha256: str, value: float) -> Network:
        def run(batch: Array) -> Array:
            calls.append(sha256)
            return np.full_like(batch[:, :1], value)

        return replace(fake_localizer([], sha256), run=run)

    one = write_cues(cases, [localizer("ab" * 32, 0.25)], tmp_path / "one")
    count = len(calls)
    other = write_cues(cases, [localizer("cd" * 32, 0.75)], tmp_path / "other")
    again = write_cues(cases, [localizer("ab" * 32, 0.25)], tmp_path / "third")
    assert len(calls) == 2 * count > 0
    for found, value in ((one, 0.25), (other, 0.75), (again, 0.25)):
        assert all((case.cue == value).all() for case in found)


def test_a_case_takes_the_cue_of_the_first_localizer_that_did_not_see_it(
    tmp_path: Path, cases: list[CachedCase], caplog: pytest.LogCaptureFixture
) -> None:
    """a was seen by the first, b by the second; with a third case seen by both, the first and a warning."""
    one = replace(fake_localizer(["a", "c"], "ab" * 32), run=lambda batch: np.full_like(batch[:, :1], 0.25))
    two = replace(fake_localizer(["b", "c"], "cd" * 32), run=lambda batch: np.full_like(batch[:, :1], 0.75))
    both = cases[0].folder.with_name("c")
    shutil.copytree(cases[0].folder, both)
    with_cues = write_cues([*cases, CachedCase(both)], [one, two], tmp_path / "run")
    assert [float(np.asarray(case.cue).flat[0]) for case in with_cues] == [0.75, 0.25, 0.25]
    assert "1 of 3 cases" in caplog.text
    record = json.loads((tmp_path / "run" / CUES).read_text("utf-8"))
    assert record["cases_their_localizer_was_trained_on"] == ["c"]


def test_a_localizer_that_saw_another_study_of_the_patient_saw_the_case(
    tmp_path: Path, cases: list[CachedCase]
) -> None:
    """Both cases are of p1: who saw either, or p1 by name, has seen both."""
    both = [replace(case, patient="p1") for case in cases]
    for number, seen in enumerate((["a"], ["earlier", "p1"])):
        one = replace(fake_localizer(seen, "ab" * 32), run=lambda batch: np.full_like(batch[:, :1], 0.25))
        two = replace(fake_localizer(["z"], "cd" * 32), run=lambda batch: np.full_like(batch[:, :1], 0.75))
        with_cues = write_cues(both, [one, two], tmp_path / str(number))
        assert [float(np.asarray(case.cue).flat[0]) for case in with_cues] == [0.75, 0.75]
        record = json.loads((tmp_path / str(number) / CUES).read_text("utf-8"))
        assert record["localizers"] == [
            {"sha256": "ab" * 32, "cases": seen},
            {"sha256": "cd" * 32, "cases": ["z"]},
        ]


def test_cues_of_another_localizer_in_the_same_run_are_refused(tmp_path: Path, cases: list[CachedCase]) -> None:
    """The cue weighs the loss: a run that goes on with another one is another run."""
    with_cues = write_cues(cases, [fake_localizer([], "ab" * 32)], tmp_path / "run")
    train_segmenter(with_cues, SEGMENTER, tmp_path / "run", "cpu", stop_after=1)
    write_cues(cases, [fake_localizer([], "ab" * 32)], tmp_path / "run")
    with pytest.raises(InputError, match="another run"):
        write_cues(cases, [fake_localizer([], "cd" * 32)], tmp_path / "run")
