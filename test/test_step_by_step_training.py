"""Step-by-Step's channels, loss, learning rate, crops and run; networks and volumes are tiny."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import cos, log, pi
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.export import export_run
from l2snet.networks import build
from l2snet.preprocess import WORKING_SPACING_MM, LogScale, Window, intensity
from l2snet.training.epochs import LOG
from l2snet.training.loop import CHECKPOINT
from l2snet.training.named import STEP_BY_STEPS
from l2snet.training.recipes import RECIPES, StepByStepRecipe
from l2snet.training.schedules import MovingAverage, MovingAverageRule
from l2snet.training.step_by_step import (
    CHANNELS,
    AutomaticWeightedLoss,
    CropDataset,
    StepByStepLoss,
    channels,
    train_step_by_step,
)
from l2snet.training.store import StoredCase, open_store, start_store, write_stored
from l2snet.training.surroundings import surroundings
from l2snet.volume import Geometry, Volume

SIZE = (20, 22, 24)
GRID = Geometry(SIZE, WORKING_SPACING_MM)
TINY = StepByStepRecipe(
    name="tiny",
    epochs=5,
    batch=2,
    epoch_is_all_images=False,
    steps_per_epoch=2,
    learning_rate=0.01,
    lesion_share=1.0,
    crop=(8, 8, 16),
    average_epochs=2,
    patience=1,
    least_fall=100.0,  # no loss falls so fast: the rate is divided every epoch after the first
    lowest_rate=0.003,
    cosine_rate=0.005,
    cosine_epochs=2,
    widths=(4, 6),  # two levels: of planes as few as two, oneDNN gets the gradient of bfloat16 filters wrong
    residual_units=2,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors as small as these are slower on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def case(name: str, lesion: tuple[slice, ...] | None, with_ct: bool = True) -> Case:
    rng = np.random.default_rng(len(name))
    suv = rng.uniform(0.5, 2.0, SIZE).astype(np.float32)
    lesions = np.zeros(SIZE, np.uint8)
    if lesion is not None:
        lesions[lesion] = 1
        suv[lesion] += 8
    ct = Volume(rng.uniform(-1000, 1000, SIZE).astype(np.float32), GRID) if with_ct else None
    return Case(name, Volume(suv, GRID), ct, Volume(lesions, GRID))


LESION = (slice(4, 7), slice(5, 9), slice(10, 14))


@pytest.fixture
def cases(tmp_path: Path) -> list[StoredCase]:
    """`a` with a lesion, `b` without, `c` with one at the corner and without CT."""
    path = tmp_path / "store.lmdb"
    start_store(path, dict.fromkeys("abc", "test"))
    corner = (slice(18, 20), slice(20, 22), slice(22, 24))
    for one in (case("a", LESION), case("b", None), case("c", corner, with_ct=False)):
        write_stored(one, path)
    return open_store(path)


# Recipes


def test_the_papers_settings() -> None:
    recipe = STEP_BY_STEPS["paper"]
    assert recipe == StepByStepRecipe()
    assert (recipe.batch, recipe.crop) == (16, (32, 160, 160))
    assert (recipe.optimizer, recipe.learning_rate) == ("adam", 3e-4)
    assert (recipe.rate_divisor, recipe.least_fall, recipe.lowest_rate) == (2.5, 5e-3, 1e-5)
    assert (recipe.cosine_rate, recipe.cosine_epochs) == (1e-4, 100)
    assert (recipe.widths, recipe.channels, recipe.residual_units) == ((96, 192, 384, 768, 1536), 8, 4)
    assert (recipe.pet, recipe.ct) == (LogScale(1.0), Window(-1000.0, 1000.0))
    assert replace(STEP_BY_STEPS["released"], name="paper", widths=recipe.widths) == recipe
    assert STEP_BY_STEPS["released"].widths == (96, 192, 192, 192, 192)


@pytest.mark.parametrize("name", STEP_BY_STEPS)
def test_recipes_are_kept_as_text_and_fit_the_network(name: str) -> None:
    recipe = STEP_BY_STEPS[name]
    assert recipe.name == name
    assert RECIPES[recipe.network].from_json(recipe.to_json()) == recipe
    multiple = 2 ** (len(recipe.widths) - 1)
    assert all(n % multiple == 0 for n in recipe.crop)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 3}, "channels is 3"),
        ({"patience": 0}, "patience is 0"),
        ({"lesion_gain": 0.5}, "lesion_gain is 0.5"),
        ({"cosine_epochs": 400}, "do not fit"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StepByStepRecipe(**changes)  # type: ignore[arg-type]


def test_the_logarithm_by_hand() -> None:
    """log2(1 + x): 0 -> 0, 1 -> 1, 7 -> 3; what reconstruction left below 0 is taken for 0."""
    assert LogScale()(np.array([0.0, 1.0, 7.0, -0.5])).tolist() == [0, 1, 3, 0]
    assert intensity({"offset": 1.0}) == LogScale()
    assert intensity({"low": 0.0, "high": 2.0}) == Window(0.0, 2.0)
    with pytest.raises(ValueError, match="positive offset"):
        LogScale(0.0)


# Channels


def test_channels_by_hand() -> None:
    """One row of voxels of levels 0 to 4, PET 1, CT 2 everywhere."""
    levels = torch.arange(5, dtype=torch.uint8).reshape(1, 1, 1, 1, 5)
    image = torch.stack([torch.ones(1, 1, 1, 5), torch.full((1, 1, 1, 5), 2.0)], dim=1)
    found = dict(zip(CHANNELS, channels(image, levels)[0].reshape(8, 5).tolist(), strict=True))
    assert found == {
        "lesion": [0, 0, 0, 0, 1],
        "D1 PET": [0, 0, 0, 1, 1],
        "D1 CT": [0, 0, 0, 2, 2],
        "D2 PET": [0, 0, 1, 1, 1],
        "D2 CT": [0, 0, 2, 2, 2],
        "D3 PET": [0, 1, 1, 1, 1],
        "whole PET": [1, 1, 1, 1, 1],
        "whole CT": [2, 2, 2, 2, 2],
    }


def test_a_crop_without_a_lesion_voxel_is_all_zero() -> None:
    """Of two crops in a batch, the second holds surroundings of a lesion that lies beyond its border."""
    lesions = np.zeros((4, 8, 30), np.uint8)
    lesions[2, 4, 10] = 1
    levels = torch.from_numpy(surroundings(lesions))[None]
    batch = torch.stack([levels[..., :15], levels[..., 15:]])
    assert batch[1].any()
    found = channels(torch.ones(2, 2, 4, 8, 15), batch)
    assert found[0].amax(dim=(1, 2, 3)).tolist() == [1] * 8
    assert not found[1].any()


# Loss


def test_automatic_weights_by_hand() -> None:
    """p = 1 and 2: 0.5 x 3 + log 2, 0.5 / 4 x 8 + log 5."""
    weighted = AutomaticWeightedLoss(2)
    with torch.no_grad():
        weighted.p[1] = 2.0
    assert weighted.weights.tolist() == [0.5, 0.125]
    total = weighted(torch.tensor([3.0, 8.0]))
    assert total.item() == pytest.approx(1.5 + log(2) + 1 + log(5), rel=1e-6)
    total.backward()
    # d/dp: -L / p^3 + 2p / (1 + p^2)
    assert weighted.p.grad is not None
    assert weighted.p.grad.tolist() == pytest.approx([-3 + 1, -1 + 0.8], rel=1e-6)


@pytest.mark.parametrize("start", [1.0, -1.0])
def test_weights_move_to_where_they_belong_and_stay_positive(start: float) -> None:
    """At rest L (1 + p²) = 2 p⁴: of a larger loss the weight is smaller; the sign of p plays no part."""
    losses = torch.tensor([0.1, 1.0, 4.0])
    weighted = AutomaticWeightedLoss(3)
    with torch.no_grad():
        weighted.p.fill_(start)
    optimizer = torch.optim.SGD(weighted.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        total = weighted(losses)
        total.backward()
        optimizer.step()
        assert (weighted.weights > 0).all()
        assert total.item() > 0
    p = weighted.p.detach()
    torch.testing.assert_close(losses * (1 + p**2), 2 * p**4, rtol=0.02, atol=1e-4)
    assert weighted.weights[0] > weighted.weights[1] > weighted.weights[2]


def test_loss_of_each_channel_by_hand() -> None:
    """Two crops of one voxel, lesion and not, PET 1 and CT 2; output 0 everywhere.

    Mask: p = 1/2 in both, Dice loss over the batch 1 - 2 x 0.5 / (1 + 1) = 0.5; focal (1 - 1/2)² x ln 2.
    Each other channel: its value squared in the crop with the lesion, 0 in the other; mean of the two.
    """
    image = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1, 1).expand(2, -1, -1, -1, -1)
    levels = torch.tensor([4, 0], dtype=torch.uint8).reshape(2, 1, 1, 1, 1)
    loss = StepByStepLoss()
    output = torch.zeros(2, 8, 1, 1, 1)
    found = loss.losses(output, {"image": image, "levels": levels})
    expected = [0.5 + 0.25 * log(2), 0.5, 2, 0.5, 2, 0.5, 0.5, 2]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    total = loss(output, {"image": image, "levels": levels})
    assert total.item() == pytest.approx(0.5 * sum(expected) + 8 * log(2), abs=1e-4)
    alone = StepByStepLoss(1).losses(output[:, :1], {"image": image, "levels": levels})
    assert alone.tolist() == pytest.approx(expected[:1], abs=1e-4)


# Learning rate

RULE = MovingAverageRule(
    start=1.0,
    divisor=2.0,
    least_fall=0.5,
    average_epochs=2,
    patience=2,
    lowest=0.3,
    last_epoch=100,
    cosine_start=0.8,
    cosine_epochs=4,
)


def rates(schedule: MovingAverage, losses: list[float]) -> list[float]:
    found = []
    for loss in losses:
        found.append(schedule.rate(schedule.epoch * schedule.steps_per_epoch))
        schedule.record(loss)
    return found


def test_the_rule_by_hand() -> None:
    """Averages of two: 9, 8, 7, 6.9, 6.8 (two epochs without a fall of 0.5: halved), 6, 5.6 (not 0.5), 5.6 (halved).

    0.25 is below 0.3: the cosine begins at 0.8 and takes four epochs.
    """
    schedule = MovingAverage(RULE, steps_per_epoch=3)
    losses = [9.0, 7.0, 7.0, 6.8, 6.8, 5.2, 6.0, 5.2]
    assert rates(schedule, losses) == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]
    assert schedule.falling == 0.25
    assert schedule.cosine_from == 8
    cosine = [0.4 * (1 + cos(pi * k / 4)) for k in range(4)]
    assert not schedule.is_over
    assert rates(schedule, [5.0] * 4) == pytest.approx(cosine)
    assert schedule.is_over


def test_a_loss_that_keeps_falling_leaves_time_for_the_cosine() -> None:
    schedule = MovingAverage(replace(RULE, last_epoch=3), steps_per_epoch=1)
    assert rates(schedule, [9.0, 8.0, 7.0, 6.0]) == [1, 1, 1, 0.8]


def test_the_papers_rates() -> None:
    """3e-4 / 2.5^k: 1.2e-4, 4.8e-5, 1.92e-5; 7.7e-6 is below 1e-5. With a loss that stays: 1 + 4 x 30 epochs."""
    schedule = STEP_BY_STEPS["paper"].schedule()
    assert isinstance(schedule, MovingAverage)
    found = rates(schedule, [1.0] * 121)
    assert sorted(set(found), reverse=True) == pytest.approx([3e-4, 1.2e-4, 4.8e-5, 1.92e-5])
    assert schedule.cosine_from == 121
    assert schedule.rate(121 * schedule.steps_per_epoch) == 1e-4


@pytest.mark.parametrize("stopped", range(1, 12))
def test_the_rule_goes_on_exactly(stopped: int) -> None:
    losses = [float(x) for x in 9 + np.random.default_rng(3).normal(0, 0.6, 12)]
    whole = MovingAverage(RULE, 3)
    expected = rates(whole, losses)
    first = MovingAverage(RULE, 3)
    begun = rates(first, losses[:stopped])
    second = MovingAverage(RULE, 3)
    second.restore(json.loads(json.dumps(first.state())))
    assert begun + rates(second, losses[stopped:]) == expected
    assert second.state() == whole.state()


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        MovingAverage(RULE, 3).restore({})


# Crops


def test_crops_hold_what_they_should(cases: list[StoredCase]) -> None:
    dataset = CropDataset(cases, replace(TINY, crop=(8, 8, 8), ct_dropout=0.0))
    for index in range(40):
        sample, one = dataset[index], cases[dataset.dealt(index)]
        assert sample["image"].shape == (2, 8, 8, 8)
        assert (sample["levels"].shape, sample["levels"].dtype) == ((1, 8, 8, 8), torch.uint8)
        assert bool((sample["levels"] == 4).any()) == one.has_lesions
        assert bool(sample["image"][1].any()) == (one.ct is not None)
        assert sample["image"][1].min() >= 0
        assert sample["image"][1].max() <= 1
        hot = sample["image"][0] > np.log2(1 + 5)  # SUV 8.5 to 10 in the lesion, below 2 elsewhere
        assert torch.equal(hot, sample["levels"][0] == 4)


def test_a_stride_shows_means_and_teaches_majorities(cases: list[StoredCase]) -> None:
    recipe = replace(TINY, crop=(8, 4, 4), ct_dropout=0.0)
    coarse = CropDataset(cases[:1], replace(recipe, stride=(1, 2, 2)))[0]
    fine = CropDataset(cases[:1], replace(recipe, crop=(8, 8, 8)))[0]  # as large, so drawn at the same place
    blocks = [array.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4) for array in (fine["image"], fine["levels"])]
    suv = (2 ** blocks[0][0] - 1).mean(dim=-1)
    torch.testing.assert_close(coarse["image"][0], torch.log2(1 + suv))
    torch.testing.assert_close(coarse["image"][1], blocks[0][1].mean(dim=-1))
    regions = sum((blocks[1] >= level).float().mean(dim=-1).ge(0.5).int() for level in range(1, 5))
    assert torch.equal(coarse["levels"].int(), regions)
    assert coarse["levels"].unique().tolist() == fine["levels"].unique().tolist()


def test_crops_larger_than_the_body_are_padded_with_air(cases: list[StoredCase]) -> None:
    image = CropDataset(cases[:2], replace(TINY, crop=(32, 32, 32)))[0]["image"]
    assert (image == 0).all(dim=0).sum() == 32**3 - np.prod(SIZE)


def test_an_epoch_is_all_images(cases: list[StoredCase]) -> None:
    """A pack: `a` and `c` twice, `b` once."""
    dataset = CropDataset(cases, replace(TINY, lesion_repeat=2))
    assert dataset.pack == 5
    packs = [[dataset.dealt(5 * pack + place) for place in range(5)] for pack in range(20)]
    assert all(Counter(pack) == {0: 2, 1: 1, 2: 2} for pack in packs)
    assert len({tuple(pack) for pack in packs}) > 1


def test_shares_of_data_folders(cases: list[StoredCase]) -> None:
    """`a` is of one folder, `b` and `c` of another, which gets a fifth of the samples."""
    sources = [replace(one, source=number) for one, number in zip(cases, (0, 1, 1), strict=True)]
    dataset = CropDataset(sources, replace(TINY, shares=(4.0, 1.0), lesion_repeat=1))
    counts = Counter(dataset.dealt(index) for index in range(3000))
    assert counts[0] == pytest.approx(2400, abs=100)
    assert counts[1] == pytest.approx(300, abs=60)


def test_mirroring_moves_image_and_levels_alike(cases: list[StoredCase]) -> None:
    recipe = replace(TINY, crop=(16, 16, 16), ct_dropout=0.0)
    plain, mirrored = CropDataset(cases[:1], recipe), CropDataset(cases[:1], replace(recipe, mirror_axes=(0, 1, 2)))
    axes = set()
    for index in range(30):
        one, other = plain[index], mirrored[index]
        flips = ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3))
        found = [f for f in flips if torch.equal(torch.flip(one["image"], f), other["image"])]
        assert len(found) == 1
        assert torch.equal(torch.flip(one["levels"], found[0]), other["levels"])
        axes.update(found)
    assert len(axes) > 4


def test_only_the_axes_of_the_recipe_are_mirrored(cases: list[StoredCase]) -> None:
    recipe = replace(TINY, crop=(16, 16, 16), ct_dropout=0.0)
    plain, mirrored = CropDataset(cases[:1], recipe), CropDataset(cases[:1], replace(recipe, mirror_axes=(2,)))
    flipped = 0
    for index in range(30):
        one, other = plain[index]["image"], mirrored[index]["image"]
        flipped += torch.equal(one.flip(3), other)
        assert torch.equal(one, other) or torch.equal(one.flip(3), other)
    assert 5 < flipped < 25


def test_crops_hold_normal_uptake_where_the_recipe_asks_for_it(tmp_path: Path) -> None:
    """Of a body with a lesion at SUV 9 and an organ at SUV 5, crops hold one or the other, as the shares say."""
    one = case("a", LESION)
    organ = (slice(14, 17), slice(15, 18), slice(2, 5))
    one.suv.array[organ] = 5.0
    start_store(tmp_path / "s.lmdb", {"a": "test"})
    write_stored(one, tmp_path / "s.lmdb")
    dataset = CropDataset(
        open_store(tmp_path / "s.lmdb"), replace(TINY, crop=(4, 4, 4), lesion_share=0.3, hot_share=0.7)
    )
    samples = [dataset[index] for index in range(200)]
    on_lesion = [bool((sample["levels"] == 4).any()) for sample in samples]
    hot = np.log2(1 + 4.0)
    assert sum(on_lesion) / 200 == pytest.approx(0.3, abs=0.1)
    assert all((sample["image"][0] > hot).any() for sample in samples)
    assert not any(
        torch.any(sample["image"][0] > np.log2(1 + 6))
        for sample, lesion in zip(samples, on_lesion, strict=True)
        if not lesion
    )


def test_lesions_are_made_hotter_where_the_recipe_asks_for_it(cases: list[StoredCase]) -> None:
    """Of half of the crops, up to four times, and nothing that lies a few voxels beside them."""
    recipe = replace(TINY, crop=(16, 16, 16), ct_dropout=0.0)
    plain, other = CropDataset(cases[:1], recipe), CropDataset(cases[:1], replace(recipe, lesion_gain=4.0))
    gains = []
    for index in range(40):
        one, changed = plain[index], other[index]
        assert torch.equal(one["levels"], changed["levels"])
        assert torch.equal(one["image"][1], changed["image"][1])
        suv = [2 ** sample["image"][0] - 1 for sample in (one, changed)]
        lesion = one["levels"][0] == 4
        far = torch.nn.functional.max_pool3d(lesion[None].float(), 11, 1, 5)[0] == 0
        torch.testing.assert_close(suv[0][far], suv[1][far])
        gains.append(float((suv[1][lesion] / suv[0][lesion]).max()))
    assert 10 < sum(gain == 1 for gain in gains) < 30
    assert min(gains) >= 1
    assert 2 < max(gains) <= 4


def test_appearance_changes_the_image_and_neither_levels_nor_a_blank_ct(cases: list[StoredCase]) -> None:
    recipe = replace(TINY, crop=(16, 8, 8), stride=(1, 2, 2), ct_dropout=0.5)
    plain, other = CropDataset(cases[:1], recipe), CropDataset(cases[:1], replace(recipe, appearance=True))
    changed = blank = 0
    for index in range(40):
        one, appears = plain[index], other[index]
        assert torch.equal(one["levels"], appears["levels"])
        assert bool(one["image"][1].any()) == bool(appears["image"][1].any())
        blank += not one["image"][1].any()
        changed += not torch.equal(one["image"], appears["image"])
        lesion = one["levels"][0] == 4
        assert appears["image"][0][lesion].mean() > appears["image"][0][~lesion].mean()
    assert 10 < blank < 30
    assert 10 < changed < 40


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_the_same_in_workers(cases: list[StoredCase], workers: int) -> None:
    """Also when they are drawn in another order: each by its number alone."""
    dataset = CropDataset(cases, replace(TINY, appearance=True, lesion_gain=4.0))
    expected = [dataset[index] for index in range(20)]
    found = list(DataLoader(dataset, batch_size=None, sampler=range(20)[::-1], num_workers=workers))
    for one, other in zip(expected, found[::-1], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


# Run


def rows(run: Path) -> list[list[str]]:
    with (run / LOG).open(newline="") as file:
        return [row[:3] for row in csv.reader(file)][1:]


def tensors(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(str(run / CHECKPOINT), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # no mapping


@pytest.mark.parametrize("count", [8, 1])
def test_a_run_ends_by_the_rule_and_moves_everything(tmp_path: Path, cases: list[StoredCase], count: int) -> None:
    """Rates: 0.01 for two epochs, 0.004 for one, then 0.0016 < 0.003: cosine of 2 epochs; so 5 of at most 9."""
    recipe = replace(TINY, channels=count, epochs=9)
    train_step_by_step(cases, recipe, tmp_path / "run", "cpu")
    assert [float(row[2]) for row in rows(tmp_path / "run")] == pytest.approx([0.01, 0.01, 0.004, 0.005, 0.0025])
    stored, metadata = tensors(tmp_path / "run")
    assert metadata["epoch"] == "5"
    assert stored["criterion/weighted.p"].shape == (count,)
    assert (stored["criterion/weighted.p"] != 1).all()
    torch.manual_seed(recipe.seed)
    fresh = build(recipe.network, recipe.architecture).state_dict()
    assert [name for name, value in fresh.items() if torch.equal(stored[f"network/{name}"], value)] == []


@pytest.mark.parametrize("stopped", [1, 2, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_result(tmp_path: Path, cases: list[StoredCase], stopped: int) -> None:
    recipe = replace(TINY, epochs=9, appearance=True, lesion_gain=4.0)
    train_step_by_step(cases, recipe, tmp_path / "whole", "cpu")
    train_step_by_step(cases, recipe, tmp_path / "halves", "cpu", stop_after=stopped)
    assert len(rows(tmp_path / "halves")) == stopped
    torch.manual_seed(99)  # as in another process
    train_step_by_step(cases, recipe, tmp_path / "halves", "cpu")
    assert rows(tmp_path / "halves") == rows(tmp_path / "whole")
    (one, metadata), (two, other) = tensors(tmp_path / "halves"), tensors(tmp_path / "whole")
    assert metadata == other
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_the_run_says_how_many_steps_all_images_are(tmp_path: Path, cases: list[StoredCase]) -> None:
    """A pack of 1 + 3 + 3 = 7 in batches of 2: 4 steps."""
    recipe = replace(TINY, epoch_is_all_images=True)
    train_step_by_step(cases, recipe, tmp_path / "run", "cpu", stop_after=1)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps_per_epoch"] == 4
    with pytest.raises(InputError, match="of another run"):
        train_step_by_step(cases[:2], recipe, tmp_path / "run", "cpu")


def test_a_run_starts_from_weights(tmp_path: Path, cases: list[StoredCase]) -> None:
    recipe = replace(TINY, epochs=3, cosine_epochs=1)
    train_step_by_step(cases[:1], recipe, tmp_path / "first", "cpu", stop_after=1)
    config = export_run(tmp_path / "first", tmp_path / "weights")
    assert config.seen_cases == {"a"}
    still = replace(recipe, learning_rate=1e-12, lowest_rate=0.0)
    train_step_by_step(cases[1:], still, tmp_path / "second", "cpu", stop_after=1, pretrained=tmp_path / "weights")
    before, after = tensors(tmp_path / "first")[0], tensors(tmp_path / "second")[0]
    for name in (name for name in before if name.startswith("network/")):
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)


def test_a_batch_is_learnt_by_heart(tmp_path: Path, cases: list[StoredCase]) -> None:
    """Sixty steps on one case: the mask and the whole-image channel of its lesion crop are there."""
    recipe = replace(
        TINY,
        epochs=4,
        cosine_epochs=1,
        steps_per_epoch=20,
        crop=(16, 16, 16),
        widths=(12, 16),
        learning_rate=0.01,
        patience=9,
    )
    train_step_by_step(cases[:1], recipe, tmp_path / "run", "cpu")
    first, *_, last = (float(row[1]) for row in rows(tmp_path / "run"))
    assert last < first
    network = build(recipe.network, recipe.architecture)
    stored = {name[8:]: value for name, value in tensors(tmp_path / "run")[0].items() if name.startswith("network/")}
    network.load_state_dict(stored)
    sample = CropDataset(cases[:1], recipe)[0]
    with torch.inference_mode():
        out = network(sample["image"][None])[0]
    found, truth = out[0] > 0, sample["levels"][0] == 4
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    assert torch.corrcoef(torch.stack([out[6].ravel(), sample["image"][0].ravel()]))[0, 1] > 0.5
