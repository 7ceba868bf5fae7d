"""Weights folders of every method whose networks' answer is known: their first channel, the PET over 10."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from l2snet.preprocess import Window
from l2snet.weights import (
    LOCALIZER,
    SEGMENTER,
    STEP_BY_STEP,
    THRESHOLDS,
    NetworkConfig,
    find_weights,
    read_config,
    write_sums,
)

# Of the segmenter, (z, y, x).
WINDOW = (16, 16, 16)


def network_config(network: str) -> NetworkConfig:
    """What a network expects."""
    of_windows = network != LOCALIZER
    return NetworkConfig(
        network=network,
        architecture={"out_channels": 1} if network == STEP_BY_STEP else {},
        pet=Window(0.0, 10.0),
        ct=Window(-100.0, 250.0) if of_windows else None,
        window=WINDOW if of_windows else None,
        multiple=8,
        thresholds=THRESHOLDS[network],
        trained={"cases": ["seen"]},
    )


def of_shipped_size(config: NetworkConfig) -> NetworkConfig:
    """A network's config with the grid and the windows of the one that comes with the program, if there is one."""
    if config.network == STEP_BY_STEP:
        return config
    shipped = read_config(find_weights(config.network))
    sizes = ("spacing_mm", "window", "stride", "multiple", "slices", "slice_stride")
    return replace(config, **{name: getattr(shipped, name) for name in sizes})


def write_known_weights(root: Path, shipped_size: bool = False) -> Path:
    """Write the networks of every method into folders of `root`, which is made where it is missing.

    Parameters
    ----------
    shipped_size : their windows are those of the networks that come with the program; else small ones.
    """
    for network, axes in ((LOCALIZER, "zx"), (SEGMENTER, "zyx"), (STEP_BY_STEP, "zyx")):
        config = network_config(network)
        config = of_shipped_size(config) if shipped_size else config
        image, probability = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, *axes])
            for name, channels in (("image", config.slices if network == LOCALIZER else 2), ("probability", 1))
        )
        first = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("from", 0), ("to", 1), ("axis", 1))]
        node = helper.make_node("Slice", ["image", "from", "to", "axis"], ["probability"])
        graph = helper.make_graph([node], network, [image], [probability], first)
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
        (root / network).mkdir(parents=True)
        onnx.save(model, str(root / network / "network.onnx"))
        (root / network / "config.json").write_text(config.to_json(), "utf-8")
        write_sums(root / network)
    return root
