"""A training run to a weights folder: ONNX, filters in 16, 8 or 6 bits, read back by PyTorch to the same values."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import Tensor, nn

from l2snet.errors import WeightsError, reason
from l2snet.networks import build
from l2snet.organs import CLASSES
from l2snet.training.loop import CASES, CHECKPOINT, CUES, RECIPE, START, load_checkpoint
from l2snet.training.recipes import RECIPES
from l2snet.volume import Array
from l2snet.weights import CONFIG, LOCALIZER, NETWORK, ORGAN_HEAD, THRESHOLDS, NetworkConfig, write_sums

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


def export_run(run: Path, folder: Path, bits: int = 16) -> NetworkConfig:
    """Write the weights folder of a training run's last checkpoint; `bits` as of `to_onnx`.

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
    organs = None
    if learns_organs:
        organs = network.organ_head.state_dict()  # type: ignore[union-attr]
        del network.organ_head
    trained: dict[str, Any] = {
        "recipe": json.loads(text),
        "epochs": epochs,
        "cases": json.loads((run / CASES).read_text("utf-8")),
        "bits": bits,
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
    write_folder(network, config, folder, bits, organs)
    return config


def write_folder(
    network: nn.Module, config: NetworkConfig, folder: Path, bits: int = 16, organs: Mapping[str, Tensor] | None = None
) -> None:
    """Write config, network and hashes of a weights folder, aside and then renamed.

    Parameters
    ----------
    bits : as of `to_onnx`.
    organs : state of the head for organs, for trainings that start from these weights; inference has none.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise WeightsError(
            f"{folder} is not a weights folder and is left alone; give one such as weights/{config.network}"
        )
    folder = folder.resolve()
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    onnx.save(to_onnx(network, config, bits), str(aside / NETWORK))
    (aside / CONFIG).write_text(config.to_json(), "utf-8")
    if organs is not None:
        (aside / ORGAN_HEAD).write_bytes(save(dict(organs)))  # save_file would let nobody else read it
    write_sums(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    logger.info("wrote %s", folder)


def to_onnx(network: nn.Module, config: NetworkConfig, bits: int = 16) -> onnx.ModelProto:
    """The network and a sigmoid as ONNX; batch and, where no norm spans the window, spatial sizes are free.

    Parameters
    ----------
    bits : of a filter's numbers: 16, float16; 8, whole numbers up to 127 times a scale for each first index; 6, up to
        31, in as many bytes, which compress better. Engines make float32 of them when they load.
    """
    if bits not in (16, *HIGHEST):
        raise ValueError(f"filters of {bits} bits were asked for; expected 6, 8 or 16")
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
    parts_of = _halves_of if bits == 16 else partial(_bytes_of, HIGHEST[bits])
    return _with_small_filters(program.model_proto, parts_of)


# What is behind the name of a filter that is kept as float16, as whole numbers, and of the scale of these.
HALF, BYTE, SCALE = ".half", ".byte", ".scale"
# Bits to the highest whole number of a filter.
HIGHEST = {6: 31, 8: 127}
Parts = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]


def _with_small_filters(model: onnx.ModelProto, parts_of: Callable[[str, Array], Parts]) -> onnx.ModelProto:
    """Keep filters in fewer bits, before nodes that give them back; norms, biases and statistics (one axis) stay.

    Parameters
    ----------
    parts_of : a filter's name and values to what is kept of it and the nodes that give it back.
    """
    kept, added = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            tensors, nodes = parts_of(tensor.name, numpy_helper.to_array(tensor))
            kept += tensors
            added += nodes
        else:
            kept.append(tensor)
    nodes = list(model.graph.node)
    for part in (model, model.graph, *nodes, *model.graph.value_info, *model.graph.input, *model.graph.output):
        # The exporter notes the lines and paths of the source it traced.
        del part.metadata_props[:]
        part.doc_string = ""
    for field, values in ((model.graph.initializer, kept), (model.graph.node, [*added, *nodes])):
        copies = list(values)
        del field[:]
        field.extend(copies)
    onnx.checker.check_model(model)
    return model


def _halves_of(name: str, filters: Array) -> Parts:
    with np.errstate(over="ignore"):
        half = filters.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"the weights {name} do not fit float16")
    cast = helper.make_node("Cast", [name + HALF], [name], f"{name}.cast", to=TensorProto.FLOAT)
    return [numpy_helper.from_array(half, name + HALF)], [cast]


def _bytes_of(highest: int, name: str, filters: Array) -> Parts:
    most = np.abs(filters).max(axis=tuple(range(1, filters.ndim)), keepdims=True).astype(np.float32)
    scale = most / np.float32(highest)
    whole = np.rint(filters / np.maximum(scale, np.finfo(np.float32).tiny)).astype(np.int8)
    cast = helper.make_node("Cast", [name + BYTE], [f"{name}.whole"], f"{name}.cast", to=TensorProto.FLOAT)
    scaled = helper.make_node("Mul", [f"{name}.whole", name + SCALE], [name], f"{name}.mul")
    return [numpy_helper.from_array(whole, name + BYTE), numpy_helper.from_array(scale, name + SCALE)], [cast, scaled]


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict (float32) of the network in an ONNX file that `to_onnx` wrote."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    state = {}
    for name, array in arrays.items():
        if name.startswith("network.") and not name.endswith(SCALE):
            plain = name.removesuffix(HALF).removesuffix(BYTE)
            values = array.astype(np.float32) * (arrays[plain + SCALE] if name.endswith(BYTE) else np.float32(1))
            state[plain.removeprefix("network.")] = torch.from_numpy(values)
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
