"""The networks, in PyTorch; only training, export and the reference engine import them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from l2snet.networks.res2net_unet import Res2NetUNet
from l2snet.networks.residual_unet3d import ResidualUNet3D
from l2snet.networks.unet3d import UNet3D
from l2snet.weights import LOCALIZER, SEGMENTER, STEP_BY_STEP

CLASSES: dict[str, type[nn.Module]] = {
    LOCALIZER: Res2NetUNet,
    SEGMENTER: UNet3D,
    STEP_BY_STEP: ResidualUNet3D,
}


def build(network: str, architecture: Mapping[str, Any]) -> nn.Module:
    """A network with random weights; `architecture` as in the weights' config."""
    return CLASSES[network](**architecture)
