"""A training run to a weights folder: ONNX with float16 weights, read back by PyTorch to the same values."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from l2snet.errors import WeightsError, reason
from l2snet.networks import build
from l2snet.organs import CLASSES
from l2snet.training.loop import CASES, CHECKPOINT, CUES, RECIPE, START, load_checkpoint
from l2snet.training.recipes import RECIPES
from l2snet.volume import Array
from l2snet.weights import CONFIG, LOCALIZER, NETWORK, THRESHOLDS, NetworkConfig, write_sums

logger = logging.getLogger(__name__)

OPSET = 18


class WithSigmoid(nn.Module):
    """A network whose first channel is a probability; channels beyond it, where there are, are images and stay."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The network's output, its first channel through the sigmoid."""
        out: Tensor = self.network(x)
        if out.shape[1] == 1:
            return torch.sigmoid(out)
        return torch.cat([torch.sigmoid(out[:, :1]), out[:, 1:]], dim=1)


def export_run(run: Path, folder: Path) -> NetworkConfig:
    """Write the weights folder of a training run's last checkpoint.

    Raises
    ------
    WeightsError : the run has no checkpoint yet.
    """
    if not (run / CHECKPOINT).is_file():
        raise WeightsError(f"{run} has no {CHECKPOINT}; train it first with l2snet train")
    text = (run / RECIPE).read_text("utf-8")
    recipe = RECIPES[json.loads(text)["network"]].from_json(text)
    network = build(recipe.network, recipe.architecture)
    learns_organs = getattr(recipe, "organ_weight", 0) > 0
    if learns_organs:
        network.learn_organs(CLASSES)  # type: ignore[operator]  # nn.Module calls every attribute a tensor
    epochs = load_checkpoint(run / CHECKPOINT, network)
    if learns_organs:
        del network.organ_head
    trained: dict[str, Any] = {
        "recipe": json.loads(text),
        "epochs": epochs,
        "cases": json.loads((run / CASES).read_text("utf-8")),
    }
    for name, file in (("start", START), ("cues", CUES)):
        if (run / file).is_file():
            trained[name] = json.loads((run / file).read_text("utf-8"))
    config = NetworkConfig(
        network=recipe.network,
        architecture=recipe.architecture,
        multiple=int(network.multiple),  # type: ignore[arg-type]
        thresholds=THRESHOLDS[recipe.network],
        trained=trained,
        **recipe.inference,
    )
    write_folder(network, config, folder)
    return config


def write_folder(network: nn.Module, config: NetworkConfig, folder: Path) -> None:
    """Write config, network and hashes of a weights folder, aside and then renamed."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise WeightsError(
            f"{folder} is not a weights folder and is left alone; give one such as weights/{config.network}"
        )
    folder = folder.resolve()
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    onnx.save(to_onnx(network, config), str(aside / NETWORK))
    (aside / CONFIG).write_text(config.to_json(), "utf-8")
    write_sums(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    logger.info("wrote %s", folder)


def to_onnx(network: nn.Module, config: NetworkConfig) -> onnx.ModelProto:
    """The network and a sigmoid as ONNX; batch and, where no norm spans the window, spatial sizes are free."""
    network = WithSigmoid(network).cpu().float().eval()
    free = config.architecture.get("norm") != "window"
    axes = 2 if config.network == LOCALIZER else 3
    spatial = config.window
    if spatial is None or free:  # sizes to trace with; of one multiple, the exporter would take them for constants
        spatial = tuple((2 + axis) * config.multiple for axis in range(axes))
    channels = int(config.architecture["in_channels"])
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=4096)}
    if free:
        for axis in range(len(spatial)):
            dynamic[axis + 2] = config.multiple * torch.export.Dim(f"size{axis}", min=1, max=512)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, channels, *spatial),),
        input_names=["image"],
        output_names=["probability"],
        opset_version=OPSET,
        dynamic_shapes=(dynamic,),
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter returned no program")
    return _with_half_weights(program.model_proto)


def _with_half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep filters as float16 behind a Cast; norms, biases and statistics (one axis) stay float32."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name = tensor.name
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(half).all():
            raise ValueError(f"the weights {name} do not fit float16")
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    for part in (model, model.graph, *nodes, *model.graph.value_info, *model.graph.input, *model.graph.output):
        # The exporter notes the lines and paths of the source it traced.
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model)
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict (float32) of the network in an ONNX file that `to_onnx` wrote."""
    state = {}
    for tensor in onnx.load(str(path)).graph.initializer:
        name = tensor.name.removesuffix(".half")
        if name.startswith("network."):
            state[name.removeprefix("network.")] = torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
    return state


def load_network(path: Path, config: NetworkConfig) -> nn.Module:
    """The PyTorch network of a weights folder, in evaluation mode."""
    network = build(config.network, config.architecture)
    try:
        missing, unexpected = network.load_state_dict(read_weights(path), strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not hold the network that its config names ({reason(error)})") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise WeightsError(
            f"{path} does not hold the network that its config names: {[*missing, *unexpected][:3]} differ"
        )
    return network.eval()


def reference_network(path: Path, config: NetworkConfig) -> Callable[[Array], Array]:
    """The network of a weights folder as a callable on arrays."""
    network = WithSigmoid(load_network(path, config)).eval()

    def run(batch: Array) -> Array:
        with torch.inference_mode():
            out: Array = network(torch.from_numpy(batch)).numpy()
        return out

    return run
