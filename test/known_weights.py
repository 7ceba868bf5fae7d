"""Weights folders of every method whose networks' answer is known: their first channel, the PET over 10."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from l2snet.preprocess import Window
from l2snet.weights import LOCALIZER, SEGMENTER, STEP_BY_STEP, THRESHOLDS, NetworkConfig, write_sums

# Of the segmenter, (z, y, x).
WINDOW = (16, 16, 16)


def network_config(network: str, window: tuple[int, ...]) -> NetworkConfig:
    """What a network expects."""
    of_windows = network != LOCALIZER
    return NetworkConfig(
        network=network,
        architecture={"out_channels": 1} if network == STEP_BY_STEP else {},
        pet=Window(0.0, 10.0),
        ct=Window(-100.0, 250.0) if of_windows else None,
        window=window if of_windows else None,
        multiple=8,
        thresholds=THRESHOLDS[network],
        trained={"cases": ["seen"]},
    )


def write_known_weights(root: Path, window: tuple[int, ...] = WINDOW) -> Path:
    """Write the networks of every method into folders of `root`, which is made where it is missing."""
    for network, axes in ((LOCALIZER, "zx"), (SEGMENTER, "zyx"), (STEP_BY_STEP, "zyx")):
        image, probability = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, *axes])
            for name, channels in (("image", 1 if network == LOCALIZER else 2), ("probability", 1))
        )
        first = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("from", 0), ("to", 1), ("axis", 1))]
        node = helper.make_node("Slice", ["image", "from", "to", "axis"], ["probability"])
        graph = helper.make_graph([node], network, [image], [probability], first)
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
        (root / network).mkdir(parents=True)
        onnx.save(model, str(root / network / "network.onnx"))
        (root / network / "config.json").write_text(network_config(network, window).to_json(), "utf-8")
        write_sums(root / network)
    return root
