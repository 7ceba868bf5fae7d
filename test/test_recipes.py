"""Training recipes: the paper's settings (reference/method.md, part A), the schedule, the text they are kept as."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest

from l2snet.cli.options import RunOptions
from l2snet.errors import InputError
from l2snet.networks import build
from l2snet.preprocess import LogScale, Window
from l2snet.training.named import LOCALIZERS, SEGMENTERS, STEP_BY_STEPS
from l2snet.training.recipes import LocalizerRecipe, Recipe, SegmenterRecipe
from l2snet.training.settings import changed

EVERY = [*LOCALIZERS.values(), *SEGMENTERS.values()]
NAMES = [f"{recipe.network}-{recipe.name}" for recipe in EVERY]


def test_paper_phase_1() -> None:
    recipe = LOCALIZERS["paper"]
    assert recipe == LocalizerRecipe()
    assert recipe.network == "localizer"
    assert (recipe.epochs, recipe.batch) == (200, 32)
    assert (recipe.learning_rate, recipe.decay_power) == (1e-3, 0.9)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 1e-4)
    assert recipe.crop == (320, 384)  # (z, x)
    assert recipe.slices == recipe.slice_stride == 1
    assert recipe.lesion_share == pytest.approx(1 / 5)
    assert recipe.pet == Window(0.0, 35.0, -1.0, 1.0)
    assert recipe.widths == (320, 256, 128, 64, 32)
    assert recipe.encoder_weights == "imagenet"
    # The first weights of the encoder are no part of what the weights folder describes.
    assert recipe.architecture == {"in_channels": 1, "widths": [320, 256, 128, 64, 32], "stride": 1}


def test_paper_phase_2() -> None:
    recipe = SEGMENTERS["paper"]
    assert recipe == SegmenterRecipe()
    assert recipe.network == "segmenter"
    assert (recipe.epochs, recipe.batch) == (500, 2)
    assert (recipe.learning_rate, recipe.decay_power) == (1e-3, 0.9)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 1e-4)
    assert recipe.crop == (128, 192, 160)  # (z, y, x)
    assert recipe.window is None  # at inference the crop's
    assert recipe.pet == Window(0.0, 15.0, 0.0, 1.0)
    assert recipe.ct == Window(-100.0, 250.0, 0.0, 1.0)
    assert recipe.cue_weight == 1.0  # w = 1 + P_loc
    assert recipe.ct_dropout == 0.0
    assert recipe.widths == (16, 32, 64, 128)
    assert recipe.norm == "window"
    assert recipe.stride == (1, 1, 1)
    assert recipe.architecture == {"in_channels": 2, "widths": [16, 32, 64, 128], "norm": "window"}


def test_schedule_by_hand() -> None:
    """Linear (power 1) and square, over 4 epochs: the fraction left is 1, 3/4, 1/2, 1/4."""
    linear = SegmenterRecipe(epochs=4, steps_per_epoch=1, learning_rate=0.8, decay_power=1.0)
    assert [linear.learning_rate_at(epoch) for epoch in range(4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    square = replace(linear, decay_power=2.0)
    assert [square.learning_rate_at(epoch) for epoch in range(4)] == pytest.approx([0.8, 0.45, 0.2, 0.05])


def test_the_rate_rises_linearly_first() -> None:
    """Three steps of warm-up: 1/4, 2/4, 3/4 of the rate, then the schedule; here constant within the one epoch."""
    recipe = SegmenterRecipe(epochs=1, steps_per_epoch=9, learning_rate=0.8, warmup_steps=3)
    assert [recipe.learning_rate_at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_paper_schedule_by_hand() -> None:
    """1e-3 x (1/2)^0.9 = 1e-3 x 0.5358867 half-way; 1e-3 x (1/200)^0.9 = 1e-3 x 0.008493232 in the last epoch."""
    recipe = LOCALIZERS["paper"]
    assert recipe.learning_rate_at(0) == 1e-3
    assert recipe.learning_rate_at(100 * recipe.steps_per_epoch) == pytest.approx(5.358867e-4, rel=1e-6)
    assert recipe.learning_rate_at(200 * recipe.steps_per_epoch - 1) == pytest.approx(8.493232e-6, rel=1e-6)


@pytest.mark.parametrize("recipe", EVERY, ids=NAMES)
def test_schedule_falls_and_stays_positive(recipe: Recipe) -> None:
    recipe = replace(recipe, warmup_steps=0)
    rates = [recipe.learning_rate_at(epoch * recipe.steps_per_epoch) for epoch in range(recipe.epochs)]
    assert rates[0] == recipe.learning_rate
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[-1] > 0


@pytest.mark.parametrize("recipe", EVERY, ids=NAMES)
def test_json_round_trip(recipe: Recipe) -> None:
    text = recipe.to_json()
    again = type(recipe).from_json(text)
    assert again == recipe
    assert again.to_json() == text
    assert json.loads(text)["network"] == recipe.network


@pytest.mark.parametrize(
    "recipe",
    [
        LocalizerRecipe(
            name="x", crop=(64, 96), slices=3, pet=Window(0.5, 20.0, 0.0, 2.0), encoder_weights=None, seed=7
        ),
        SegmenterRecipe(
            name="x", crop=(8, 16, 24), ct=Window(-10.0, 10.0, -1.0, 1.0), widths=(2, 3), norm="channels", cue_weight=0
        ),
    ],
    ids=["localizer", "segmenter"],
)
def test_json_round_trip_of_other_settings(recipe: Recipe) -> None:
    assert type(recipe).from_json(recipe.to_json()) == recipe


def test_json_tells_recipes_apart() -> None:
    assert len({recipe.to_json() for recipe in EVERY}) == len(EVERY)
    assert LocalizerRecipe(seed=1).to_json() != LocalizerRecipe().to_json()


@pytest.mark.parametrize("name", ["epochs", "steps_per_epoch", "batch", "checkpoint_every"])
@pytest.mark.parametrize("kind", [LocalizerRecipe, SegmenterRecipe])
def test_counts_below_one_are_refused(kind: type[Recipe], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
        kind(**{name: 0})


@pytest.mark.parametrize("name", ["slices", "slice_stride"])
def test_slices_without_a_middle_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 4; expected 1, 3, 5 or 7"):
        LocalizerRecipe(**{name: 4})


def test_a_window_norm_fixes_the_window() -> None:
    crop, larger = (64, 96, 80), (128, 192, 160)
    with pytest.raises(ValueError, match=r'norm="window".* it must be as the crop'):
        SegmenterRecipe(crop=crop, window=larger)
    assert SegmenterRecipe(crop=crop, window=crop).window == crop
    assert SegmenterRecipe(crop=crop, window=larger, norm="channels").window == larger


def test_the_other_networks_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="not a recipe of the segmenter"):
        SegmenterRecipe.from_json(LocalizerRecipe().to_json())
    with pytest.raises(ValueError, match="not a recipe of the localizer"):
        LocalizerRecipe.from_json(SegmenterRecipe().to_json())


def test_unknown_settings_are_refused() -> None:
    values: dict[str, Any] = {**json.loads(LocalizerRecipe().to_json()), "learning_rat": 1.0}
    with pytest.raises(InputError, match="learning_rat"):
        LocalizerRecipe.from_json(json.dumps(values))


def test_recipes_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        LocalizerRecipe().epochs = 3  # type: ignore[misc]


def test_the_names_are_the_keys() -> None:
    for table in (LOCALIZERS, SEGMENTERS):
        assert set(table) == {"paper", "small", "more", "brief", "crops"}
        assert all(recipe.name == name for name, recipe in table.items())
    assert {name: recipe.name for name, recipe in STEP_BY_STEPS.items()} == {
        name: name for name in ("paper", "released", "small", "brief")
    }


@pytest.mark.parametrize("recipe", EVERY, ids=NAMES)
def test_crops_fit_the_networks(recipe: LocalizerRecipe | SegmenterRecipe) -> None:
    network = build(recipe.network, recipe.architecture)
    window = getattr(recipe, "window", None) or ()
    assert all(n % network.multiple == 0 for n in (*recipe.crop, *window))
    assert 0 < recipe.lesion_share <= 1


@pytest.mark.parametrize(
    "recipe", [table[name] for table in (LOCALIZERS, SEGMENTERS) for name in ("small", "more", "brief", "crops")]
)
def test_small_recipes_keep_the_method(recipe: LocalizerRecipe | SegmenterRecipe) -> None:
    """No larger in crop, batch and length, another optimiser; the same widths and decay as the paper's."""
    paper = type(recipe)()
    assert prod(recipe.crop) <= prod(paper.crop)
    assert recipe.batch <= paper.batch
    assert recipe.epochs * recipe.steps_per_epoch < paper.epochs * paper.steps_per_epoch
    for name in ("widths", "decay_power"):
        assert getattr(recipe, name) == getattr(paper, name)


def test_small_recipes_need_no_network() -> None:
    assert LOCALIZERS["small"].encoder_weights is None


def test_a_recipe_with_other_settings() -> None:
    recipe = SegmenterRecipe()
    found = changed(recipe, 'norm=channels window=null shares=[1,0] pet={"offset":2} ct_dropout=0.5')
    assert found == replace(recipe, norm="channels", shares=(1, 0), pet=LogScale(2), ct_dropout=0.5)
    assert changed(recipe, "") == recipe


NONSENSE = [
    "channels=1",
    "norm",
    "epochs=0",
    "window=[1,2,3]",
    "name=x",
    'pet={"x":1}',
    "epochs=2 epochs=3",
    "seed=1.5",
]
NONSENSE += ["learning_rate=abc", "learning_rate=NaN", "stride=[1,2]", "crop=5", "window=None", "shares=[1,true]"]


@pytest.mark.parametrize("change", NONSENSE)
def test_settings_that_make_no_sense_are_refused(change: str) -> None:
    with pytest.raises(InputError, match=r"no setting of a segmenter's recipe|makes no sense"):
        changed(SegmenterRecipe(), change)


def test_a_setting_is_json() -> None:
    with pytest.raises(InputError, match="makes no sense"):
        changed(LocalizerRecipe(), "appearance=False")
    assert not changed(replace(LocalizerRecipe(), appearance=True), "appearance=false").appearance


def test_settings_that_are_kept_are_refused() -> None:
    assert changed(SegmenterRecipe(), "seed=3").seed == 3
    with pytest.raises(InputError, match="no setting of a segmenter's recipe"):
        changed(SegmenterRecipe(), "seed=3", frozenset({"seed"}))


def test_a_training_takes_settings_beside_shares() -> None:
    options = RunOptions(share="2,1", settings="seed=3 epochs=2")
    found = options.choose(LOCALIZERS, "small", [Path("bodies"), Path("patients")])
    assert found == replace(LOCALIZERS["small"], seed=3, epochs=2, shares=(2.0, 1.0))
    with pytest.raises(InputError, match="no setting"):
        RunOptions(settings="shares=[1,2]").choose(LOCALIZERS, "small", [])
