"""Step-by-Step as a method: its network from training to ONNX, its mask, its score, its place on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pipeline import body_case

from l2snet.backend import Network, load, load_reference
from l2snet.case import Case
from l2snet.cli import main
from l2snet.errors import InputError, WeightsError
from l2snet.export import write_folder
from l2snet.methods import METHODS, load_method
from l2snet.networks import build
from l2snet.pipeline import Method, check_roles
from l2snet.preprocess import LogScale, Window, prepare
from l2snet.stepbystep import CHANNELS, LESION, WHOLE_PET, StepByStep, lesion_score
from l2snet.training import step_by_step as training
from l2snet.volume import Array
from l2snet.weights import SEGMENTER, STEP_BY_STEP, NetworkConfig

ARCHITECTURE = {"in_channels": 2, "out_channels": 8, "widths": [4, 6, 8], "residual_units": 2, "norm": "window"}
CONFIG = NetworkConfig(
    network=STEP_BY_STEP,
    architecture=ARCHITECTURE,
    pet=LogScale(),
    ct=Window(-1000.0, 1000.0),
    window=(8, 16, 16),
    multiple=4,
    thresholds={"lesion": 0.5},
)


def network(shown: float = 1.0, **changes: object) -> Network:
    """Lesion where SUV > 3 (log2(1 + SUV) > 2); the whole-image PET is `shown` of the input's."""

    def run(batch: Array) -> Array:
        out = np.zeros((len(batch), CHANNELS, *batch.shape[2:]), np.float32)
        out[:, LESION] = batch[:, 0] > 2
        out[:, WHOLE_PET] = shown * batch[:, 0]
        return out[:, : CONFIG.architecture["out_channels"]] if "architecture" not in changes else out[:, :1]

    return Network(replace(CONFIG, **changes), "0" * 64, "test", run)  # type: ignore[arg-type]


# Mask and score


def test_the_mask_is_the_first_channel_on_the_pets_grid() -> None:
    case = body_case()
    result = StepByStep([network()]).segment(case)
    assert result.mask.geometry == case.geometry
    np.testing.assert_array_equal(result.mask.array, case.suv.array > 3)
    assert result.cue is None
    assert result.notes == ()


@pytest.mark.parametrize(("shown", "score"), [(1.0, 1.0), (0.25, 0.25), (0.0, 0.0), (1.5, 1.0), (-0.5, 0.0)])
def test_the_score_is_the_share_of_the_pet_that_is_shown(shown: float, score: float) -> None:
    result = StepByStep([network(shown)]).segment(body_case())
    assert result.scores == {"lesion_score": pytest.approx(score, abs=1e-5)}


def test_the_score_by_hand() -> None:
    """In the body the channel is 1 and 0, the input 2 and 2: 0.5 / 2. What lies outside it plays no part."""
    body = prepare(body_case())
    mask = np.zeros_like(body.mask)
    mask[0, 0, :2] = True
    shown, given = np.full(mask.shape, 9.0, np.float32), np.full(mask.shape, 7.0, np.float32)
    shown[0, 0, :2], given[0, 0, :2] = (1, 0), (2, 2)
    assert lesion_score(replace(body, mask=mask), shown, given) == 0.25
    assert lesion_score(replace(body, mask=mask), shown, np.zeros_like(given)) == 0


def test_folds_are_averaged() -> None:
    """Half of the networks see no lesion: 0.5 is not above the threshold of 0.5, and is above 0.4."""
    blind = replace(network(0.0), run=lambda batch: np.zeros((len(batch), CHANNELS, *batch.shape[2:]), np.float32))
    case = body_case()
    result = StepByStep([network(), blind]).segment(case)
    assert result.scores["lesion_score"] == pytest.approx(0.5, abs=1e-5)
    assert not result.mask.array.any()
    low = [replace(one, config=replace(CONFIG, thresholds={"lesion": 0.4})) for one in (network(), blind)]
    np.testing.assert_array_equal(StepByStep(low).segment(case).mask.array, case.suv.array > 3)


def test_mirroring_changes_nothing_for_a_network_without_a_sense_of_direction() -> None:
    case = body_case()
    plain, mirrored = (StepByStep([network()], mirror=mirror).segment(case) for mirror in (False, True))
    np.testing.assert_allclose(mirrored.probability.array, plain.probability.array, atol=1e-6)


def test_a_network_whose_training_mirrored_nothing_is_not_mirrored() -> None:
    one = replace(network(), config=replace(CONFIG, mirror_axes=()))
    plain, mirrored = (StepByStep([one], mirror=mirror).segment(body_case()) for mirror in (False, True))
    np.testing.assert_array_equal(mirrored.probability.array, plain.probability.array)
    assert mirrored.notes == ("nothing was mirrored: the network's training mirrored along no axis",)


def test_without_a_ct_the_network_sees_a_blank_one() -> None:
    seen: list[float] = []
    one = network()
    watched = replace(one, run=lambda batch: seen.append(float(np.abs(batch[:, 1]).max())) or one.run(batch))
    result = StepByStep([watched]).segment(body_case(ct=False))
    assert max(seen) == 0
    assert "no CT" in result.notes[0]


def test_without_auxiliary_channels_there_is_no_score() -> None:
    alone = network(architecture={**ARCHITECTURE, "out_channels": 1})
    assert StepByStep([alone]).segment(body_case()).scores == {}
    with pytest.raises(WeightsError, match="cannot be averaged"):
        StepByStep([alone, network()])


# Channels mean the same in training and inference


def test_the_channels_are_those_that_were_learnt() -> None:
    assert len(training.CHANNELS) == CHANNELS
    assert training.CHANNELS[LESION] == "lesion"
    assert training.CHANNELS[WHOLE_PET] == "whole PET"


# From PyTorch to ONNX


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a tiny `step_by_step`, its filters large enough for its channels to differ."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    write_folder(build(STEP_BY_STEP, ARCHITECTURE), CONFIG, root / STEP_BY_STEP)
    return root


@pytest.mark.parametrize("count", [1, 3])
def test_engines_agree(weights: Path, count: int) -> None:
    batch = np.random.default_rng(0).random((count, 2, 8, 16, 16), np.float32)
    folder = weights / STEP_BY_STEP
    found, expected = load(folder, "cpu")(batch), load_reference(folder)(batch)
    assert found.shape == (count, 8, 8, 16, 16)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert 0 <= expected[:, 0].min() <= expected[:, 0].max() <= 1
    assert expected[:, 1:].min() < 0  # images have no sigmoid


def test_the_network_refuses_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        build(STEP_BY_STEP, ARCHITECTURE)(torch.zeros(1, 2, 8, 16, 18))
    with pytest.raises(ValueError, match="norm"):
        build(STEP_BY_STEP, {**ARCHITECTURE, "norm": "channels"})


# The one place that looks methods up


def test_both_are_methods(weights: Path) -> None:
    assert set(METHODS) == {"l2snet", "step-by-step"}
    method: Method = load_method("step-by-step", [weights], "cpu", "exact", mirror=True, fusion=None)
    assert isinstance(method, StepByStep)
    assert method.mirror
    assert json.loads(json.dumps(method.settings))["method"] == "step-by-step"


def test_an_option_of_the_other_method_is_refused(weights: Path) -> None:
    with pytest.raises(InputError, match=re.escape("--off-cue has no part in --method step-by-step")):
        load_method("step-by-step", [weights], "cpu", "exact", off_cue=0.9)
    with pytest.raises(InputError, match="method 'nnunet' is not known; expected one of l2snet, step-by-step"):
        load_method("nnunet", [], "cpu", "exact")


def test_a_network_in_anothers_folder_is_refused() -> None:
    other = replace(CONFIG, network=SEGMENTER, thresholds={"on_cue": 0.1, "off_cue": 0.5}, window=(8, 16, 16))
    with pytest.raises(WeightsError, match="the step_by_step folder holds a segmenter"):
        check_roles({STEP_BY_STEP: [replace(network(), config=other)]})


# The command line

Write = Callable[[Path, Case], Path]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("by_variable", [False, True])
def test_predict_by_option_or_by_the_images_variable(
    weights: Path,
    tmp_path: Path,
    phantom: Callable[..., Case],
    write_case: Write,
    monkeypatch: pytest.MonkeyPatch,
    by_variable: bool,
) -> None:
    if by_variable:
        monkeypatch.setenv("L2SNET_METHOD", "step-by-step")
    option = [] if by_variable else ["--method", "step-by-step"]
    folder = write_case(tmp_path / "in", phantom())
    out = tmp_path / "out"
    assert run("predict", folder, out, *option, "--weights", weights, "--device", "cpu") == 0
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["method"] == "step-by-step"
    assert 0 <= manifest["lesion_score"] <= 1
    assert len(list(out.glob("images/*/*.mha"))) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cue",), "has no location cue; leave it out"),
        (("--fusion", "components"), "--fusion has no part in --method step-by-step"),
    ],
)
def test_predict_refuses_what_it_cannot_give(
    weights: Path,
    tmp_path: Path,
    phantom: Callable[..., Case],
    write_case: Write,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    words: str,
) -> None:
    folder = write_case(tmp_path / "in", phantom())
    line = ("predict", folder, tmp_path / "out", "--method", "step-by-step", "--weights", weights, "--device", "cpu")
    assert run(*line, *options) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*.mha"))
