"""Phase 2 (paper section 3.3): the 3D U-Net of four levels on windows of PET and CT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2snet.networks.blocks import NORMS


class UNet3D(nn.Module):
    """An initial 3x3x3 convolution, then a symmetric U-Net whose blocks are two 3x3x3 convolutions, norm and ReLU.

    Parameters
    ----------
    in_channels : 2, PET then CT.
    widths : filters per level; the paper gives the first (16), the rest are doubled.
    norm : "window" (layer norm over C, D, H, W, the paper), "channels" (layer norm over C at each voxel) or "batch".
    """

    def __init__(
        self,
        in_channels: int = 2,
        widths: Sequence[int] = (16, 32, 64, 128),
        norm: str = "window",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r} is not known; expected one of {sorted(NORMS)}")
        self.multiple = 2 ** (len(widths) - 1)
        self.stem = nn.Conv3d(in_channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            _block(before, width, norm) for before, width in zip((widths[0], *widths), widths, strict=False)
        )
        self.pool = nn.MaxPool3d(2)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, width, 2, stride=2) for deep, width in pairs)
        self.decoder = nn.ModuleList(_block(2 * width, width, norm) for _, width in pairs)
        self.head = nn.Conv3d(widths[0], 1, 1)

        self.organ_head: nn.Module | None = None

    def learn_organs(self, classes: int) -> None:
        """Add a head for classes of organs; only training has it."""
        self.organ_head = nn.Conv3d(self.head.in_channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(n, 2, z, y, x), as the recipe has them, to logits (n, 1, z, y, x); sizes must be multiples of `multiple`.

        In training, with `learn_organs`, also the logits of the organs, (n, classes, ...).
        """
        if any(n % self.multiple for n in x.shape[2:]):
            raise ValueError(
                f"a window of {tuple(x.shape[2:])} was given; every size must be a multiple of {self.multiple}"
            )
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.head(x)
        return (logits, self.organ_head(x)) if self.training and self.organ_head is not None else logits


def _block(before: int, width: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [nn.Conv3d(channels, width, 3, padding=1), NORMS[norm](width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
