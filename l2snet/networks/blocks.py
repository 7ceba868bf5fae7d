"""Parts that the networks share."""

from __future__ import annotations

from itertools import product
from typing import Any

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


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution without bias that keeps the size, and on a CPU takes the gradient of many weights at once.

    Where there are more weights than values before and after it, as where a decoder begins, oneDNN goes through all of
    the weights for each row of each slice; nine matrix products go through them once, several times as fast.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, z, x) to (n, after, z, x)."""
        values = x.numel() // self.in_channels * (self.in_channels + self.out_channels)
        if not (self.training and x.device.type == "cpu" and self.weight.numel() > values):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        result: Tensor = _ManyWeights.apply(x.to(dtype), self.weight.to(dtype))
        return result


class _ManyWeights(torch.autograd.Function):
    """The convolution of `Conv3x3`, of an input and weights of one type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = torch.nn.grad.conv2d_input(x.shape, weight, gradient, padding=1)
        rows, columns = x.shape[2:]
        padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        after = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1]).t()
        to_weight = weight.new_empty(weight.shape[0], 3, 3, weight.shape[1])
        for i, j in product(range(3), range(3)):
            to_weight[:, i, j] = after @ padded[:, i : i + rows, j : j + columns].reshape(-1, x.shape[1])
        return to_x, to_weight.permute(0, 3, 1, 2)
