"""Phase 1 (paper section 3.2): the 2D U-Net with a Res2Net-50 encoder on coronal PET slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from l2snet.networks.blocks import Conv3x3

ENCODER = "res2net50_26w_4s"


class Res2NetUNet(nn.Module):
    """A U-Net whose encoder is timm's Res2Net-50; five decoder stages of two 3x3 convolutions, BN and ReLU.

    Parameters
    ----------
    in_channels : slices stacked as channels, odd.
    widths : decoder widths from the deepest stage on.
    encoder_weights : None, "imagenet" (timm fetches its own), or a local .safetensors file of timm's.
        With one input channel the ImageNet filters are summed over colour.
    stride : the network runs on means of this many pixels a side, and its logits are interpolated, so that a slice as
        costly shows more of the body. The paper has no such stride.
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (320, 256, 128, 64, 32),
        encoder_weights: str | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride is {stride}; expected at least 1")
        self.stride, self.multiple = stride, 32 * stride
        overlay = {"file": encoder_weights} if encoder_weights and encoder_weights != "imagenet" else None
        if overlay and not (Path(overlay["file"]).is_file() and overlay["file"].endswith(".safetensors")):
            raise FileNotFoundError(
                f"there is no file of encoder weights {encoder_weights}; expected 'imagenet' or a .safetensors file"
            )
        self.encoder = timm.create_model(
            ENCODER,
            features_only=True,
            in_chans=in_channels,
            pretrained=encoder_weights is not None,
            pretrained_cfg_overlay=overlay,
        )
        skips = [*self.encoder.feature_info.channels()[-2::-1], 0]
        befores = (self.encoder.feature_info.channels()[-1], *widths)
        self.decoder = nn.ModuleList(
            _block(before + skip, width) for before, skip, width in zip(befores, skips, widths, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], 1, 1)

        self.organ_head: nn.Module | None = None

    def learn_organs(self, classes: int) -> None:
        """Add a head for classes of organs, on the coarser pixels; only training has it."""
        self.organ_head = nn.Conv2d(self.head.in_channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(n, slices, z, x), as the recipe shows a PET, to logits (n, 1, z, x); sizes must be multiples of `multiple`.

        In training, with `learn_organs`, also the logits of the organs, (n, classes, ...) on the coarser pixels.
        """
        if any(n % self.multiple for n in x.shape[2:]):
            raise ValueError(
                f"a slice of {tuple(x.shape[2:])} was given; both sizes must be multiples of {self.multiple}"
            )
        if self.stride > 1:
            x = functional.avg_pool2d(x, self.stride)
        *skips, x = self.encoder(x)
        for block in self.decoder:
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], dim=1) if skips else x)
        logits: Tensor = self.head(x)
        if self.stride > 1:
            logits = functional.interpolate(
                logits, scale_factor=float(self.stride), mode="bilinear", align_corners=False
            )
        return (logits, self.organ_head(x)) if self.training and self.organ_head is not None else logits


def _block(before: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [Conv3x3(channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
