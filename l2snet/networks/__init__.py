"""The networks, in PyTorch; only training, export and the reference engine import them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from l2snet.networks.res2net_unet import Res2NetUNet
from l2snet.networks.unet3d import UNet3D
from l2snet.weights import LOCALIZER, SEGMENTER

CLASSES: dict[str, type[nn.Module]] = {LOCALIZER: Res2NetUNet, SEGMENTER: UNet3D}


def build(network: str, architecture: Mapping[str, Any]) -> nn.Module:
    """A network with random weights; `architecture` as in the weights' config."""
    return CLASSES[network](**architecture)
