"""A training run to a weights folder, and the same probabilities from PyTorch, OpenVINO and ONNX Runtime."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.utils.data import Dataset

from l2snet.backend import Network, load, load_reference
from l2snet.errors import WeightsError
from l2snet.export import export_run, load_network, read_weights, write_folder
from l2snet.networks import build
from l2snet.networks.blocks import NORMS
from l2snet.networks.unet3d import UNet3D
from l2snet.preprocess import Window
from l2snet.training.loop import CASES, CHECKPOINT, RECIPE, fit, load_checkpoint, save_checkpoint
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe, StepByStepRecipe
from l2snet.volume import Array
from l2snet.weights import CONFIG, LOCALIZER, NETWORK, SEGMENTER, SUMS, NetworkConfig, read_config, read_sums

# Probabilities of two engines, both in float32.
SAME = 1e-4
# Of one engine and float64, over 4 million voxels. With means of means all are right to 1e-6; with nn.GroupNorm in the
# graph OpenVINO is off by 3e-4 and ONNX Runtime by 7e-4 on the window below.
EXACT = 1e-5

LOCALIZER_RECIPE = LocalizerRecipe(
    epochs=1,
    steps_per_epoch=1,
    batch=2,
    crop=(32, 64),
    slice_stride=3,
    widths=(8, 8, 8, 8, 8),
    encoder_weights=None,
)
# Four planes at the deepest level: with two, PyTorch 2.15 on a CPU gets gradients of bfloat16 convolutions wrong.
SEGMENTER_RECIPE = SegmenterRecipe(epochs=1, steps_per_epoch=1, crop=(16, 16, 12), widths=(4, 6, 8))
CHANNELS_RECIPE = replace(SEGMENTER_RECIPE, norm="channels", window=(16, 16, 24))
BATCH_RECIPE = replace(SEGMENTER_RECIPE, norm="batch", window=(16, 16, 24))


class Noise(Dataset[dict[str, Tensor]]):
    """Random images and truths of a recipe's size."""

    def __init__(self, recipe: LocalizerRecipe | SegmenterRecipe) -> None:
        self.recipe = recipe

    def __len__(self) -> int:
        return self.recipe.epochs * self.recipe.steps_per_epoch * self.recipe.batch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(self.recipe.architecture["in_channels"], *self.recipe.crop, generator=generator)
        return {"image": image, "truth": (image[:1] > 0.7).float()}


def randomise_norms(network: nn.Module, image: Tensor) -> None:
    """Scales, shifts and running statistics as no network has them at the start, near what the layers give out."""
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm3d):
                module.weight.uniform_(0.3, 0.7)
                module.bias.normal_(0, 0.2)
                module.momentum = 1.0
            elif isinstance(module, nn.BatchNorm2d):
                # PyTorch's first convolutions leave a sixth of the variance, timm's keep it.
                scale = 1.0 if name.startswith("encoder") else 0.15
                module.weight.uniform_(0.3, 0.7)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.3 * scale)
                module.running_var.uniform_(0.5 * scale, 2.0 * scale)
            elif isinstance(module, tuple(NORMS.values())):
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_(0, 0.3)
        # The statistics of this image, then moved: of any others half of the filters may be silent, and the head of a
        # network that says next to nothing magnifies how its filters were rounded.
        if any(isinstance(module, nn.BatchNorm3d) for module in network.modules()):
            network.train()(image)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean += torch.randn_like(module.running_mean) * 0.3 * module.running_var.sqrt()
                module.running_var *= torch.empty_like(module.running_var).uniform_(0.5, 2.0)


def spread_output(network: nn.Module, image: Tensor) -> None:
    """Move the head so that the logits of an image have mean 0 and standard deviation 1.5."""
    with torch.inference_mode():
        logits = network.eval()(image)
    with torch.no_grad():
        factor = 1.5 / logits.std()
        network.head.weight *= factor
        network.head.bias.copy_(factor * (network.head.bias - logits.mean()))


def trained_run(recipe: LocalizerRecipe | SegmenterRecipe, run: Path) -> nn.Module:
    """A run of one step, its norms and head then changed; also its network."""
    torch.manual_seed(0)
    data = Noise(recipe)
    fit(build(recipe.network, recipe.architecture), data, recipe, run, ["case_a", "case_b"], "cpu")
    network = build(recipe.network, recipe.architecture)
    load_checkpoint(run / CHECKPOINT, network)
    randomise_norms(network, data[0]["image"][None])
    spread_output(network, data[0]["image"][None])
    save_checkpoint(run / CHECKPOINT, network, torch.optim.SGD(network.parameters(), lr=0.1), 1)
    return network


class Exported:
    """A run, its network and its weights folder."""

    def __init__(self, recipe: LocalizerRecipe | SegmenterRecipe, root: Path) -> None:
        self.recipe, self.run, self.folder = recipe, root / "run", root / "weights" / recipe.network
        self.network = trained_run(recipe, self.run)
        if recipe.network == SEGMENTER:
            (self.run / "cues.json").write_text('{"localizer_sha256": "abc"}', "utf-8")
        self.config = export_run(self.run, self.folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def localizer(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(LOCALIZER_RECIPE, tmp_path_factory.mktemp("localizer"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(SEGMENTER_RECIPE, tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(CHANNELS_RECIPE, tmp_path_factory.mktemp("channels"))


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(BATCH_RECIPE, tmp_path_factory.mktemp("batch"))


@pytest.fixture(params=["localizer", "segmenter", "channels", "batch"])
def exported(request: pytest.FixtureRequest) -> Exported:
    found: Exported = request.getfixturevalue(request.param)
    return found


def onnx_runtime(path: Path, batch: Array) -> Array:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"image": batch})
    return out


def engines(folder: Path, batch: Array) -> dict[str, Array]:
    return {
        "torch": load_reference(folder)(batch),
        "openvino": load(folder, "cpu", "exact")(batch),
        "onnxruntime": onnx_runtime(folder / NETWORK, batch),
    }


def assert_agree(results: dict[str, Array], batch: Array) -> None:
    reference = results["torch"]
    assert reference.shape == (batch.shape[0], 1, *batch.shape[2:])
    assert reference.min() >= 0
    assert reference.max() <= 1
    assert reference.std() > 0.05, "a constant would agree with anything"
    for name, other in results.items():
        assert other.dtype == np.float32
        assert other.shape == reference.shape
        assert np.abs(other - reference).max() < SAME, name


def random_batch(shape: tuple[int, ...], low: float = 0.0) -> Array:
    return np.random.default_rng(0).uniform(low, 1, shape).astype(np.float32)


# The folder


def test_folder_holds_config_network_and_sums(exported: Exported) -> None:
    assert sorted(path.name for path in exported.folder.iterdir()) == sorted([CONFIG, NETWORK, SUMS])
    assert [path.name for path in exported.folder.parent.iterdir()] == [exported.folder.name]
    assert read_config(exported.folder) == exported.config
    assert set(read_sums(exported.folder)) == {CONFIG, NETWORK}


def test_config_comes_from_the_recipe(exported: Exported) -> None:
    recipe, config = exported.recipe, exported.config
    assert config.network == recipe.network
    assert config.architecture == recipe.architecture
    assert config.pet == recipe.pet
    assert config.trained["recipe"] == json.loads((exported.run / RECIPE).read_text("utf-8"))
    assert config.trained["epochs"] == 1
    assert config.trained["cases"] == ["case_a", "case_b"] == json.loads((exported.run / CASES).read_text("utf-8"))
    if isinstance(recipe, LocalizerRecipe):
        assert (config.window, config.ct, config.multiple, config.slices) == (recipe.crop, None, 32, 1)
        assert config.slice_stride == recipe.slice_stride == 3
        assert config.thresholds == {"cue": 0.5}
        assert "cues" not in config.trained
    else:
        assert config.window == (recipe.window or recipe.crop)
        assert (config.ct, config.multiple) == (recipe.ct, 4)  # three levels
        assert config.thresholds == {"on_cue": 0.1, "off_cue": 0.5}
        assert config.trained["cues"] == {"localizer_sha256": "abc"}


@pytest.mark.parametrize("axes", [(), (2,), (0, 1, 2)])
@pytest.mark.parametrize("kind", [SegmenterRecipe, StepByStepRecipe])
def test_inference_mirrors_what_training_mirrored(
    kind: type[SegmenterRecipe | StepByStepRecipe], axes: tuple[int, ...]
) -> None:
    assert kind(mirror_axes=axes).inference["mirror_axes"] == axes


def test_filters_are_float16_and_the_rest_float32(exported: Exported) -> None:
    model = onnx.load(str(exported.folder / NETWORK))
    kinds = {tensor.name: (tensor.data_type, len(tensor.dims)) for tensor in model.graph.initializer}
    for name, (kind, axes) in kinds.items():
        if kind in (TensorProto.FLOAT, TensorProto.FLOAT16):
            assert kind == (TensorProto.FLOAT16 if axes > 1 else TensorProto.FLOAT), name
    for name, parameter in exported.network.named_parameters():
        stored = f"network.{name}" + (".half" if parameter.ndim > 1 else "")
        assert kinds[stored][1] == parameter.ndim


def test_network_holds_no_path_of_the_machine_that_made_it(exported: Exported) -> None:
    data = (exported.folder / NETWORK).read_bytes()
    for trace in (b"site-packages", b"/l2snet/", str(Path.home()).encode() + b"/"):
        assert trace not in data


def test_input_and_output_are_named(exported: Exported) -> None:
    graph = onnx.load(str(exported.folder / NETWORK)).graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["probability"]
    sizes = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    window = exported.config.window if exported.config.architecture.get("norm") == "window" else None
    assert sizes[0] == 0  # free
    assert sizes[1] == exported.config.architecture["in_channels"]
    assert tuple(sizes[2:]) == (window or (0,) * len(sizes[2:]))


def test_read_weights_is_the_state_rounded_to_float16(exported: Exported) -> None:
    """What a warm start gets: filters through float16, everything else to the bit."""
    read = read_weights(exported.folder / NETWORK)
    state = {
        name: value.half().float() if value.ndim > 1 else value
        for name, value in exported.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert read.keys() == state.keys()
    assert [name for name in state if not torch.equal(read[name], state[name])] == []
    assert {value.dtype for value in read.values()} == {torch.float32}


def test_warm_start_loads_into_a_new_network(exported: Exported) -> None:
    network = build(exported.config.network, exported.config.architecture)
    missing, unexpected = network.load_state_dict(read_weights(exported.folder / NETWORK), strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert unexpected == []
    loaded = load_network(exported.folder / NETWORK, exported.config)
    assert not loaded.training
    head = exported.network.state_dict()["head.weight"]
    torch.testing.assert_close(loaded.state_dict()["head.weight"], head, atol=1e-3, rtol=1e-3)


def test_rounding_to_float16_hardly_moves_the_probability(segmenter: Exported) -> None:
    """The reference has the rounded filters, the run's own network those of float32: close, and not the same."""
    batch = random_batch((1, 2, *SEGMENTER_RECIPE.crop))
    with torch.inference_mode():
        trained = torch.sigmoid(segmenter.network(torch.from_numpy(batch))).numpy()
    difference = np.abs(load_reference(segmenter.folder)(batch) - trained).max()
    assert 0 < difference < 0.01


# Engines agree


@pytest.mark.parametrize("shape", [(1, 1, 32, 64), (3, 1, 64, 32), (2, 1, 96, 96)])
def test_localizer_engines_agree(localizer: Exported, shape: tuple[int, ...]) -> None:
    batch = random_batch(shape, low=-1.0)
    assert_agree(engines(localizer.folder, batch), batch)


@pytest.mark.parametrize("shape", [(1, 2, 16, 16, 24), (2, 2, 8, 24, 16), (3, 2, 4, 4, 12), (1, 2, 20, 12, 28)])
def test_channel_norm_engines_agree_on_any_window(channels: Exported, shape: tuple[int, ...]) -> None:
    batch = random_batch(shape)
    assert_agree(engines(channels.folder, batch), batch)


@pytest.mark.parametrize("count", [1, 3])
def test_window_norm_engines_agree_on_its_window(segmenter: Exported, count: int) -> None:
    batch = random_batch((count, 2, *SEGMENTER_RECIPE.crop))
    assert_agree(engines(segmenter.folder, batch), batch)


def test_batch_is_independent(exported: Exported) -> None:
    """Every image of a batch gets what it gets alone, in the engine that cases are run with."""
    network = load(exported.folder, "cpu", "exact")
    spatial = exported.config.window or (32, 64)
    batch = random_batch((3, exported.config.architecture["in_channels"], *spatial))
    together = network(batch)
    for i in range(3):
        np.testing.assert_allclose(network(batch[i : i + 1])[0], together[i], atol=SAME)


def test_engines_tell_themselves_apart(segmenter: Exported) -> None:
    networks = [load_reference(segmenter.folder), load(segmenter.folder, "cpu", "exact")]
    assert networks[0].engine == "torch cpu f32"
    assert networks[1].engine.startswith("openvino")
    assert len({network.sha256 for network in networks}) == 1
    assert all(isinstance(network, Network) for network in networks)


def test_window_norm_over_millions_of_voxels(tmp_path: Path) -> None:
    """Means over 4 million values far from 0, where engines' own norms lose two digits (performance.md, finding 2).

    The truth is `nn.GroupNorm` in float64 on the same rounded filters.
    """
    torch.manual_seed(0)
    window = (128, 128, 64)
    config = NetworkConfig(
        network=SEGMENTER,
        architecture={"in_channels": 2, "widths": [4, 4], "norm": "window"},
        pet=Window(0.0, 15.0),
        ct=Window(-100.0, 250.0),
        window=window,
        multiple=2,
        thresholds={"on_cue": 0.1, "off_cue": 0.5},
    )
    write_folder(build(SEGMENTER, config.architecture), config, tmp_path / SEGMENTER)
    exact = UNet3D(2, (4, 4))
    for block in (*exact.encoder, *exact.decoder):
        block[1], block[4] = nn.GroupNorm(1, 4), nn.GroupNorm(1, 4)
    exact.load_state_dict(read_weights(tmp_path / SEGMENTER / NETWORK))
    batch = 1000 + random_batch((1, 2, *window))
    with torch.inference_mode():
        truth = torch.sigmoid(exact.double()(torch.from_numpy(batch).double())).numpy()
    results = engines(tmp_path / SEGMENTER, batch)
    assert_agree(results, batch)
    for name, result in results.items():
        assert np.abs(result - truth).max() < EXACT, name


# Refusals


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"has no {CHECKPOINT}; train it first"):
        export_run(tmp_path, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_weights_that_do_not_fit_float16_are_refused(tmp_path: Path, segmenter: Exported) -> None:
    network = build(SEGMENTER, segmenter.config.architecture)
    with torch.no_grad():
        network.stem.weight[0, 0, 0, 0, 0] = 1e5  # float16 ends at 65504
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match=r"network\.stem\.weight do not fit float16"):
        write_folder(network, segmenter.config, tmp_path / "old")
    assert (tmp_path / "old").is_dir()


def test_export_replaces_an_older_folder(tmp_path: Path, segmenter: Exported) -> None:
    folder = tmp_path / SEGMENTER
    folder.mkdir()
    for name in (CONFIG, NETWORK, SUMS, "metrics.json"):
        (folder / name).write_text("of the older weights")
    export_run(segmenter.run, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG, NETWORK, SUMS])
    assert (folder / NETWORK).read_bytes() == (segmenter.folder / NETWORK).read_bytes()


def test_export_leaves_a_folder_that_holds_no_weights_alone(tmp_path: Path, segmenter: Exported) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(WeightsError, match="is not a weights folder and is left alone"):
        export_run(segmenter.run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "architecture",
    [
        {"in_channels": 2, "widths": [4, 6, 8, 10], "norm": "window"},  # a level more
        {"in_channels": 2, "widths": [4, 6], "norm": "window"},  # a level less
        {"in_channels": 2, "widths": [4, 6, 10], "norm": "window"},  # another width
    ],
    ids=["deeper", "shallower", "wider"],
)
def test_a_network_other_than_its_config_names_is_refused(segmenter: Exported, architecture: dict[str, object]) -> None:
    config = replace(segmenter.config, architecture=architecture)
    with pytest.raises(WeightsError, match="does not hold the network that its config names"):
        load_network(segmenter.folder / NETWORK, config)


def test_localizer_is_no_segmenter(localizer: Exported, segmenter: Exported) -> None:
    assert (localizer.config.network, segmenter.config.network) == (LOCALIZER, SEGMENTER)
    with pytest.raises(WeightsError, match="does not hold the network"):
        load_network(localizer.folder / NETWORK, segmenter.config)


def test_half_precision_keeps_three_digits(segmenter: Exported) -> None:
    """float16 has 11 bits: a filter moves by at most 2^-11 of itself (below 2^-14, by 2^-25)."""
    halves = {
        tensor.name.removesuffix(".half").removeprefix("network."): numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(segmenter.folder / NETWORK)).graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
    }
    assert len(halves) == 14  # stem, ten convolutions of five blocks, two up-convolutions, head
    state = segmenter.network.state_dict()
    for name, half in halves.items():
        full = state[name].numpy()
        assert (np.abs(half.astype(np.float32) - full) <= np.maximum(np.abs(full) * 2.0**-11, 2.0**-25)).all()


# Eight bits


@pytest.fixture(params=["localizer", "segmenter", "channels", "batch"])
def in_bytes(request: pytest.FixtureRequest, tmp_path: Path) -> Exported:
    """The same run, its filters in eight bits."""
    found = copy(request.getfixturevalue(request.param))
    found.folder = tmp_path / found.recipe.network
    export_run(found.run, found.folder, bits=8)
    return found


def test_filters_of_8_bits_have_half_the_space_and_are_within_half_a_step(in_bytes: Exported) -> None:
    tensors = {one.name: one for one in onnx.load(str(in_bytes.folder / NETWORK)).graph.initializer}
    read, state = read_weights(in_bytes.folder / NETWORK), in_bytes.network.state_dict()
    assert {name for name in state if not name.endswith("num_batches_tracked")} == set(read)
    for name, values in read.items():
        assert values.dtype == torch.float32
        if values.ndim == 1:
            assert torch.equal(values, state[name])
            continue
        whole = numpy_helper.to_array(tensors[f"network.{name}.byte"])
        assert whole.dtype == np.int8
        assert abs(whole).max() == 127
        step = state[name].abs().amax(dim=tuple(range(1, values.ndim)), keepdim=True) / 127
        assert ((values - state[name]).abs() <= step * 0.5001).all()


def test_engines_agree_on_filters_of_8_bits(in_bytes: Exported) -> None:
    spatial = in_bytes.config.window or (64, 96)
    batch = random_batch((2, in_bytes.config.architecture["in_channels"], *spatial))
    results = engines(in_bytes.folder, batch)
    assert_agree(results, batch)
    with torch.inference_mode():
        trained = torch.sigmoid(in_bytes.network.eval()(torch.from_numpy(batch))).numpy()
    assert 0 < np.abs(results["torch"] - trained).mean() < 0.05


def test_how_many_bits_is_told_and_no_other_number_is_taken(in_bytes: Exported, tmp_path: Path) -> None:
    assert read_config(in_bytes.folder).trained["bits"] == 8
    with pytest.raises(ValueError, match="filters of 4 bits"):
        export_run(in_bytes.run, tmp_path / SEGMENTER, bits=4)


def test_filters_of_6_bits_are_within_half_a_step_and_compress(tmp_path: Path, segmenter: Exported) -> None:
    packed = {}
    for bits in (8, 6):
        folder = tmp_path / str(bits) / SEGMENTER
        export_run(segmenter.run, folder, bits=bits)
        tensors = onnx.load(str(folder / NETWORK)).graph.initializer
        whole = {one.name: numpy_helper.to_array(one) for one in tensors if one.name.endswith(".byte")}
        packed[bits] = len(zlib.compress(b"".join(array.tobytes() for array in whole.values())))
    assert {int(abs(array).max()) for array in whole.values()} == {31}
    for name, values in read_weights(folder / NETWORK).items():
        state = segmenter.network.state_dict()[name]
        if values.ndim > 1:
            step = state.abs().amax(dim=tuple(range(1, values.ndim)), keepdim=True) / 31
            assert ((values - state).abs() <= step * 0.5001).all()
    assert packed[6] < 0.85 * packed[8]


def test_a_filter_of_zeros_stays_one_in_8_bits(tmp_path: Path, segmenter: Exported) -> None:
    network = build(SEGMENTER, segmenter.config.architecture)
    with torch.no_grad():
        network.head.weight.zero_()
    write_folder(network, segmenter.config, tmp_path / SEGMENTER, bits=8)
    assert not read_weights(tmp_path / SEGMENTER / NETWORK)["head.weight"].any()
