"""Parts that the networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class WindowLayerNorm(nn.Module):
    """Layer normalisation over (C, D, H, W) of each window, with one scale and shift per channel.

    The literal reading of the paper's "layer norm" (section 3.3); the same as `nn.GroupNorm(1, channels)`.
    Written as means of means, because several engines add up millions of float32 values one by one and are wrong in
    the second digit.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, z, y, x) to the same shape."""
        wide = x.float()
        centred = wide - _mean_of_means(wide)
        normal = centred * torch.rsqrt(_mean_of_means(centred * centred) + self.eps)
        shape = (1, -1, 1, 1, 1)
        return (normal * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each voxel; the result does not depend on the rest of the window."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, z, y, x) to the same shape."""
        if torch.compiler.is_exporting():
            # Written out, engines fuse it with its neighbours; the fused operator makes OpenVINO move the channels.
            centred = x - x.mean(dim=1, keepdim=True)
            normal = centred * torch.rsqrt((centred * centred).mean(dim=1, keepdim=True) + self.eps)
            shape = (1, -1, 1, 1, 1)
            return normal * self.weight.view(shape) + self.bias.view(shape)
        last = x.permute(0, 2, 3, 4, 1)
        normal = functional.layer_norm(last, (x.shape[1],), self.weight, self.bias, self.eps)
        return normal.permute(0, 4, 1, 2, 3)


NORMS: dict[str, type[nn.Module]] = {
    "window": WindowLayerNorm,
    "channels": ChannelLayerNorm,
    "batch": nn.BatchNorm3d,
}


def _mean_of_means(x: Tensor) -> Tensor:
    """(n, c, z, y, x) to (n, 1, 1, 1, 1): average pooling by 2 while sizes are even, then the mean of what is left."""
    while all(int(n) % 2 == 0 for n in x.shape[2:]):
        x = functional.avg_pool3d(x, 2)
    return x.mean(dim=(1, 2, 3, 4), keepdim=True)
