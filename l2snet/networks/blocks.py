"""Parts that the networks share."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input


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
    """A 3x3 convolution without bias that keeps the size; on a CPU, its weight gradient by matrix products at times.

    Where weights outnumber activations, as where a decoder begins, oneDNN goes through all weights for every row of
    every slice; nine matrix products go through them once, which is several times as fast.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, z, x) to (n, out_channels, z, x)."""
        if not (self.training and x.device.type == "cpu" and self._has_more_weights_than_activations(x)):
            return super().forward(x)
        weight: Tensor = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        result: Tensor = _ConvByMatmul.apply(x, weight)
        return result

    def _has_more_weights_than_activations(self, x: Tensor) -> bool:
        pixels = x.numel() // self.in_channels
        return self.weight.numel() > pixels * (self.in_channels + self.out_channels)


class _ConvByMatmul(torch.autograd.Function):
    """The convolution of `Conv3x3`, of an input and weights of one type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = conv2d_input(x.shape, weight, grad_output, padding=1)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            out_channels, in_channels = weight.shape[:2]
            height, width = x.shape[2:]
            padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
            of_pixels = grad_output.permute(0, 2, 3, 1).reshape(-1, out_channels).t()
            grad_weight = weight.new_empty(out_channels, 3, 3, in_channels)
            for i, j in product(range(3), range(3)):
                shifted = padded[:, i : i + height, j : j + width].reshape(-1, in_channels)
                grad_weight[:, i, j] = of_pixels @ shifted
            grad_weight = grad_weight.permute(0, 3, 1, 2)
        return grad_x, grad_weight
