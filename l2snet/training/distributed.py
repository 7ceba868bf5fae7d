"""Training in several processes, one a GPU, that Lightning Fabric's launcher or torchrun started.

Every process takes its share of each batch, and every loss is that of the whole batch: sums go through `total`, which
autograd follows. Its backward adds the gradients of all processes, and DistributedDataParallel takes their mean, so
that the weights get the gradient that one process would have computed.
"""

from __future__ import annotations

import atexit
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from l2snet.errors import DeviceError

logger = logging.getLogger(__name__)


def start_fabric(device: str, two_planes: bool = False) -> Fabric:
    """Lightning Fabric on one device, or on all processes of a launcher; bf16 where the device has it.

    What the launcher's options say (`fabric run --precision ...`) goes before `device` and the precision chosen here.

    Parameters
    ----------
    two_planes : a 3D feature map has two planes, over which bf16 cannot be trusted on a CPU.

    Raises
    ------
    DeviceError : CUDA was asked for and cannot be had, or TensorRT.
    """
    if device == "tensorrt":
        raise DeviceError("TensorRT trains no network; expected cuda, cpu or auto")
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not gpus:
        raise DeviceError("CUDA was asked for and PyTorch finds no GPU; repair the driver, or use --device cpu")
    if device == "auto" and not gpus:
        logger.warning("PyTorch finds no GPU: training on the CPU")
    here, everywhere = (int(os.environ[name]) if launched() else 1 for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if gpus > here:
        logger.warning("%d of %d GPUs are used; start the program with fabric run to train on more", here, gpus)
    half = torch.cuda.is_bf16_supported(including_emulation=False) if gpus else _cpu_takes_bfloat16(two_planes)
    settings: dict[str, Any] = {
        "accelerator": "cuda" if gpus else "cpu",
        "devices": here,
        "num_nodes": everywhere // here,
        "precision": "bf16-mixed" if half else "32-true",
    }
    fabric = Fabric(**{name: value for name, value in settings.items() if f"LT_{name.upper()}" not in os.environ})
    if "LT_CLI_USED" not in os.environ:  # `fabric run` has launched it
        fabric.launch()
    if processes() > 1:
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    """Leave the process group before the program ends: gloo's threads, left alone, may abort it at its very end."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _cpu_takes_bfloat16(two_planes: bool) -> bool:
    if two_planes:
        logger.warning("trains in float32: on a CPU, PyTorch is wrong in bfloat16 where a feature map has two planes")
        return False
    if not any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16")):
        logger.warning("trains in float32: this CPU has no bfloat16 of its own, and to emulate it is many times slower")
        return False
    return True


def launched() -> bool:
    """Whether a launcher (torchrun, or `fabric run`, which is built on it) started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def in_turn(device: str) -> AbstractContextManager[None]:
    """Let the first process go through a block alone, then the others, who find what it has made.

    All processes must see the same folders. Without a launcher there is nothing to wait for.
    """
    return start_fabric(device).rank_zero_first() if launched() else nullcontext()


def share_batch_norm(network: nn.Module, fabric: Fabric, kept: bool = False) -> nn.Module:
    """Let batch norms, if any, span the whole batch and not each process's share of it; PyTorch can on GPUs alone.

    Parameters
    ----------
    kept : their statistics are kept, and no batch's.
    """
    kind = nn.modules.batchnorm._BatchNorm
    if kept or fabric.world_size == 1 or not any(isinstance(module, kind) for module in network.modules()):
        return network
    if fabric.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call,no-any-return]
    logger.warning("on a CPU, batch norm is over each process's share of the batch: it differs from one process's")
    return network


def processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum over all processes, of the same shape."""
    if processes() == 1:
        return value
    result: Tensor = _Total.apply(value)
    return result


def whole_batch(share: Tensor) -> Tensor:
    """(n, ...) of each process to (processes x n, ...) of all."""
    if processes() == 1:
        return share
    parts = [torch.zeros_like(share)] * processes()
    parts[distributed.get_rank()] = share
    return total(torch.cat(parts))


class _Total(torch.autograd.Function):
    """All-reduce, forwards and backwards; PyTorch's own are deprecated (`torch.distributed.nn`) or private."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        value = value.detach().clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(context, gradient)
