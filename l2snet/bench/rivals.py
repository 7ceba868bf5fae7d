"""The same networks run as others run them: PyTorch over slices, MONAI's and nnU-Net's sliding windows.

Each runs in a process of its own, which is as its users have it: no setting of ours, and its own peak of memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from l2snet.errors import reason
from l2snet.machine import peak_memory_mib
from l2snet.sliding_window import STEP, positions
from l2snet.volume import Array
from l2snet.weights import LOCALIZER, NETWORK, SEGMENTER, NetworkConfig, read_config

if TYPE_CHECKING:
    from torch import Tensor, nn

# Slices at once.
BATCH = 8


@dataclass(frozen=True)
class Took:
    """What a rival took; `runs` are the windows or slices that its network was given.

    `share` is the part of the input that was run; seconds and runs are scaled to all of it.
    """

    seconds: float
    runs: int
    peak_mib: int | None
    share: float = 1.0


@dataclass(frozen=True)
class Rival:
    """Another program; `run` takes network, image (c, z, y, x), the network's config and the device."""

    name: str
    network: str
    packages: tuple[str, ...]
    run: Callable[[Any, Any, NetworkConfig, str], None]


def run_monai(network: nn.Module, image: Tensor, config: NetworkConfig, device: str) -> None:
    """MONAI's sliding window; half precision by autocast on a GPU, as in its tutorials."""
    import torch
    from monai.inferers import sliding_window_inference

    with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=device == "cuda"):
        sliding_window_inference(image[None].to(device), config.window, 1, network, overlap=1 - STEP, mode="gaussian")


def run_nnunet(network: nn.Module, image: Tensor, config: NetworkConfig, device: str) -> None:
    """nnU-Net's predictor without mirroring; on a GPU it runs half precision of itself."""
    import torch

    with redirect_stdout(sys.stderr):  # the table is what goes to stdout
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(STEP, use_mirroring=False, device=torch.device(device), allow_tqdm=False)
    # All that it asks plans and labels of a trained model.
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=list(config.window or ()))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=1)
    predictor.predict_sliding_window_return_logits(image)


def run_slices(network: nn.Module, image: Tensor, config: NetworkConfig, device: str) -> None:
    """Coronal slices in batches, padded with air to the network's multiple."""
    import torch
    from torch.nn.functional import pad

    _, tall, depth, wide = image.shape
    padding = (0, -wide % config.multiple, 0, -tall % config.multiple)
    with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=device == "cuda"):
        for first in range(0, depth, BATCH):
            slices = image[:, :, first : first + BATCH].permute(2, 0, 1, 3)
            network(pad(slices, padding, value=float(image.min())).to(device)).float().cpu()


RIVALS = (
    Rival("PyTorch, slices in batches", LOCALIZER, ("torch", "timm", "onnx"), run_slices),
    Rival("MONAI sliding_window_inference", SEGMENTER, ("torch", "monai", "onnx"), run_monai),
    Rival("nnU-Net v2 predictor", SEGMENTER, ("torch", "nnunetv2", "onnx"), run_nnunet),
)


def missing(rival: Rival) -> list[str]:
    """The packages that a rival needs and that are not installed."""
    return [package for package in rival.packages if find_spec(package) is None]


def part(image: Array, rival: Rival, config: NetworkConfig) -> tuple[Array, float]:
    """The first layer of windows along z, or a tenth of the slices; and which share of all it is."""
    if rival.network == LOCALIZER or config.window is None:
        depth = image.shape[2]
        some = min(depth, BATCH * max(1, depth // (10 * BATCH)))
        return image[:, :, :some], some / depth
    size = [max(n, window) for n, window in zip(image.shape[1:], config.window, strict=True)]
    layers = {at[0] for at in positions(size, config.window)}
    return image[:, : config.window[0]], 1 / len(layers)


def measure(rival: Rival, folder: Path, image: Path, device: str, share: float = 1.0) -> Took | str:
    """Run a rival in a process of its own; what it took, or a sentence that says why it gave none.

    Parameters
    ----------
    folder : weights of its network.
    image : .npy file, (c, z, y, x) float32 in the network's intensities.
    share : what part of the input this is; seconds and runs are scaled to all of it.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            took = pool.submit(_run, rival, folder, image, device).result()
        except BrokenProcessPool:
            return "was killed, out of memory perhaps"
        except Exception as error:  # the others are measured all the same
            return f"failed: {reason(error)}"
    return replace(took, seconds=took.seconds / share, runs=round(took.runs / share), share=share)


def _run(rival: Rival, folder: Path, image: Path, device: str) -> Took:
    import torch

    from l2snet.export import load_network

    config = read_config(folder)
    network = load_network(folder / NETWORK, config).to(device)
    pixels = torch.from_numpy(np.load(image))
    with _counted(network) as runs:
        began = time.perf_counter()
        rival.run(network, pixels, config, device)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return Took(seconds, sum(runs), peak_memory_mib())


@contextmanager
def _counted(network: nn.Module) -> Iterator[list[int]]:
    """How many inputs a network is given, one number a call."""
    runs: list[int] = []
    handle = network.register_forward_pre_hook(lambda _, given: runs.append(len(given[0])))
    try:
        yield runs
    finally:
        handle.remove()
