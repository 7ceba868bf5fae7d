"""The two networks against the paper's description: layers counted, parameters derived by hand."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from l2snet.networks import build
from l2snet.networks.blocks import NORMS, ChannelLayerNorm, Conv3x3, WindowLayerNorm
from l2snet.networks.res2net_unet import ENCODER, Res2NetUNet
from l2snet.networks.unet3d import UNet3D

# UNet3D, paper widths 16, 32, 64, 128 and two input channels. A 3x3x3 convolution a -> b has 27ab + b parameters, a
# 2x2x2 up-convolution 8ab + b, a norm 2b.
UNET3D_PARAMETERS = (
    (27 * 2 * 16 + 16)  # stem: 880
    + (6_928 + 6_928 + 2 * 32)  # 16 -> 16, 16 -> 16 (27 x 256 + 16 = 6 928), two norms
    + (13_856 + 27_680 + 2 * 64)  # 16 -> 32 (27 x 512 + 32), 32 -> 32 (27 x 1024 + 32)
    + (55_360 + 110_656 + 2 * 128)  # 32 -> 64, 64 -> 64
    + (221_312 + 442_496 + 2 * 256)  # 64 -> 128, 128 -> 128
    + (65_600 + 16_416 + 4_112)  # up 128 -> 64 (8 x 8192 + 64), 64 -> 32, 32 -> 16
    + (221_248 + 110_656 + 2 * 128)  # 64 + 64 -> 64, 64 -> 64
    + (55_328 + 27_680 + 2 * 64)  # 32 + 32 -> 32, 32 -> 32
    + (13_840 + 6_928 + 2 * 32)  # 16 + 16 -> 16, 16 -> 16
    + (16 + 1)  # head: 1x1x1, 16 -> 1
)

# Res2NetUNet's decoder: convolutions without bias (9ab), BN 2b, twice a stage.
DECODER_PARAMETERS = (
    (9 * 3072 * 320 + 9 * 320 * 320 + 4 * 320)  # 2048 + 1024 -> 320 at 1/16
    + (9 * 832 * 256 + 9 * 256 * 256 + 4 * 256)  # 320 + 512 -> 256 at 1/8
    + (9 * 512 * 128 + 9 * 128 * 128 + 4 * 128)  # 256 + 256 -> 128 at 1/4
    + (9 * 192 * 64 + 9 * 64 * 64 + 4 * 64)  # 128 + 64 -> 64 at 1/2
    + (9 * 64 * 32 + 9 * 32 * 32 + 4 * 32)  # 64 -> 32 at 1/1, no skip
    + (32 + 1)  # head
)


def res2net_parameters(in_channels: int) -> int:
    """Res2Net-50 26w 4s (Gao et al.) without its classifier: blocks of 1x1, three 3x3 of `w` channels, 1x1."""
    count = 49 * in_channels * 64 + 2 * 64  # 7x7 stem and its BN
    before = 64
    for planes, w, blocks in ((64, 26, 3), (128, 52, 4), (256, 104, 6), (512, 208, 3)):
        wide, out = 4 * w, 4 * planes
        for block in range(blocks):
            count += before * wide + 2 * wide  # 1x1 to four scales of w
            count += 3 * (9 * w * w + 2 * w)  # one scale passes untouched
            count += wide * out + 2 * out
            if block == 0:
                count += before * out + 2 * out  # projection of the short cut
            before = out
    return count


def count_of(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# Phase 2


@pytest.mark.parametrize(("norm", "kind"), NORMS.items())
def test_unet3d_has_the_layers_of_the_paper(norm: str, kind: type[nn.Module]) -> None:
    network = UNet3D(norm=norm)
    # Stem, two in each of four encoder and three decoder blocks, head: 1 + 8 + 6 + 1.
    assert count_of(network, nn.Conv3d) == 16
    assert count_of(network, nn.ConvTranspose3d) == 3
    assert count_of(network, kind) == 14
    assert count_of(network, nn.ReLU) == 14
    kernels = [m.kernel_size for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert kernels.count((3, 3, 3)) == 15
    assert network.head.kernel_size == (1, 1, 1)
    assert network.multiple == 8


def test_unet3d_widths_and_sizes_per_level() -> None:
    network = UNet3D().eval()
    shapes: list[tuple[int, ...]] = []
    for block in [*network.encoder, *network.decoder]:
        block.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    pooled: list[int] = []
    network.pool.register_forward_hook(lambda _m, _i, out: pooled.append(out.shape[2]))
    with torch.inference_mode():
        network(torch.zeros(1, 2, 16, 8, 24))
    levels = [(16, 16, 8, 24), (32, 8, 4, 12), (64, 4, 2, 6), (128, 2, 1, 3)]
    assert shapes == levels + levels[2::-1]
    assert pooled == [8, 4, 2]


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_unet3d_parameters(norm: str) -> None:
    assert UNET3D_PARAMETERS == 1_409_329
    assert parameters_of(UNet3D(norm=norm)) == UNET3D_PARAMETERS


@pytest.mark.parametrize("size", [(8, 8, 8), (8, 24, 40), (56, 8, 16), (24, 40, 8)])
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_unet3d_keeps_the_size(norm: str, size: tuple[int, int, int]) -> None:
    network = UNet3D(widths=(2, 3, 4, 5), norm=norm).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 2, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize("size", [(12, 8, 8), (8, 9, 8), (8, 8, 4), (128, 192, 161)])
def test_unet3d_refuses_other_sizes(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{size} was given; every size must be a multiple of 8")):
        UNet3D(widths=(2, 2, 2, 2))(torch.empty(1, 2, *size))


def test_unet3d_multiple_follows_the_depth() -> None:
    network = UNet3D(widths=(2, 3))
    assert network.multiple == 2
    with torch.inference_mode():
        assert network(torch.rand(1, 2, 6, 2, 10)).shape == (1, 1, 6, 2, 10)


def test_unet3d_refuses_an_unknown_norm() -> None:
    with pytest.raises(ValueError, match=r"norm 'group' is not known; expected .* \['batch', 'channels', 'window'\]"):
        UNet3D(norm="group")


def test_unet3d_skips_join_levels_of_the_same_size() -> None:
    """Every parameter takes part: none is left without a gradient."""
    network = UNet3D(widths=(2, 3, 4, 5))
    network(torch.rand(1, 2, 16, 16, 16)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# Norms


def with_random_scale(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


# Sizes that pool by 2 to the end, part of the way, and not at all.
@pytest.mark.parametrize("size", [(8, 16, 32), (4, 12, 20), (3, 4, 4), (5, 7, 9)])
def test_window_norm_is_group_norm_of_one_group(size: tuple[int, int, int]) -> None:
    norm = with_random_scale(WindowLayerNorm(6))
    group = nn.GroupNorm(1, 6)
    group.load_state_dict(norm.state_dict())
    x = 3 * torch.randn(2, 6, *size) + 2
    torch.testing.assert_close(norm(x), group(x), atol=1e-5, rtol=1e-5)


def test_channel_norm_is_layer_norm_over_channels() -> None:
    norm = with_random_scale(ChannelLayerNorm(6))
    x = 3 * torch.randn(2, 6, 3, 4, 5) + 2
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)  # of the population: divided by 6, not 5
    shape = (1, 6, 1, 1, 1)
    expected = (x - mean) / (variance + 1e-5).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("norm", "depends"), [("batch", False), ("channels", False), ("window", True)])
def test_only_the_window_norm_depends_on_the_rest_of_the_window(norm: str, depends: bool) -> None:
    layer = NORMS[norm](4).eval()
    x = torch.randn(1, 4, 4, 4, 8)
    changed = x.clone()
    changed[..., 4:] = 50.0
    same = torch.equal(layer(x)[..., :4], layer(changed)[..., :4])
    assert same is not depends


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_window_norm_over_millions_of_voxels_keeps_its_accuracy(memory_format: torch.memory_format) -> None:
    """Naive float32 sums of this window lose two digits (reference/performance.md, finding 2)."""
    torch.manual_seed(0)
    x = 10 + torch.rand(1, 2, 128, 128, 128)  # 4 million values, mean 35 times the standard deviation
    wide = x.double()
    expected = (wide - wide.mean()) / (wide.var(unbiased=False) + 1e-5).sqrt()
    difference = (WindowLayerNorm(2)(x.contiguous(memory_format=memory_format)) - expected).abs().max().item()
    # One rounding of the mean (float32 at 10: 1e-6) over a standard deviation of 0.29.
    assert difference < 2e-5


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_norms_keep_bfloat16(norm: str) -> None:
    assert NORMS[norm](4).bfloat16()(torch.rand(1, 4, 2, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


# Phase 1


@pytest.fixture(scope="module")
def localizer() -> Res2NetUNet:
    torch.manual_seed(0)
    return Res2NetUNet().eval()


def test_res2net_unet_encoder_is_res2net50_26w_4s(localizer: Res2NetUNet) -> None:
    assert ENCODER == "res2net50_26w_4s"
    assert localizer.encoder.feature_info.channels() == [64, 256, 512, 1024, 2048]
    assert localizer.encoder.feature_info.reduction() == [2, 4, 8, 16, 32]
    plain = timm.create_model("res2net50_26w_4s", in_chans=1).state_dict()
    mine = localizer.encoder.state_dict()
    assert {name: value.shape for name, value in plain.items() if not name.startswith("fc.")} == {
        name: value.shape for name, value in mine.items()
    }


def test_res2net_unet_decoder_stages(localizer: Res2NetUNet) -> None:
    assert len(localizer.decoder) == 5
    for stage, width in zip(localizer.decoder, (320, 256, 128, 64, 32), strict=True):
        assert [type(layer) for layer in stage] == 2 * [Conv3x3, nn.BatchNorm2d, nn.ReLU]
        convolutions = [layer for layer in stage if isinstance(layer, nn.Conv2d)]
        assert [(c.kernel_size, c.out_channels) for c in convolutions] == 2 * [((3, 3), width)]
    assert count_of(localizer.decoder, nn.Conv2d) == 10


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_res2net_unet_parameters_and_shape(in_channels: int) -> None:
    # With its classifier (2048 x 1000 + 1000) and three colours, the 25.70 million that its authors print.
    assert res2net_parameters(3) + 2_049_000 == 25_699_120
    network = Res2NetUNet(in_channels).eval()
    assert parameters_of(network.encoder) == res2net_parameters(in_channels)
    assert parameters_of(network) == res2net_parameters(in_channels) + DECODER_PARAMETERS
    with torch.inference_mode():
        assert network(torch.rand(2, in_channels, 32, 64)).shape == (2, 1, 32, 64)


@pytest.mark.parametrize("size", [(32, 32), (96, 32), (32, 160)])
def test_res2net_unet_keeps_the_size(localizer: Res2NetUNet, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert localizer(torch.rand(1, 1, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("size", [(32, 48), (400, 384), (31, 32)])
def test_res2net_unet_refuses_other_sizes(localizer: Res2NetUNet, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{size} was given; both sizes must be multiples of 32")):
        localizer(torch.empty(1, 1, *size))


def test_res2net_unet_stride_sees_means_and_interpolates(localizer: Res2NetUNet) -> None:
    network = Res2NetUNet(stride=2).eval()
    network.load_state_dict(localizer.state_dict())
    image = torch.rand(1, 1, 64, 128)
    assert network.multiple == 64
    with torch.inference_mode():
        coarse = localizer(nn.functional.avg_pool2d(image, 2))
        expected = nn.functional.interpolate(coarse, size=(64, 128), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image), expected)
    with pytest.raises(ValueError, match="stride is 0; expected at least 1"):
        Res2NetUNet(stride=0)


def _by_matmul(result: torch.Tensor) -> bool:
    return "ConvByMatmul" in str(result.grad_fn)


@pytest.mark.parametrize(("channels", "by_matmul"), [((96, 64), True), ((8, 4), False)])
def test_weight_gradients_by_matmul_are_those_of_the_convolution(channels: tuple[int, int], by_matmul: bool) -> None:
    ours, plain = Conv3x3(*channels), nn.Conv2d(*channels, 3, padding=1, bias=False)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, channels[0], 3, 5).to(memory_format=torch.channels_last)
    results = []
    for convolution in (ours, plain):
        own = x.clone().requires_grad_()
        y = convolution(own)
        assert _by_matmul(y) is (by_matmul and convolution is ours)
        y.square().sum().backward()
        results.append((y, own.grad, convolution.weight.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert not _by_matmul(ours.eval()(x))


def test_weight_gradients_by_matmul_in_bfloat16() -> None:
    convolution, x = Conv3x3(96, 64), torch.randn(2, 96, 3, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution(x)
    assert y.dtype == torch.bfloat16
    assert _by_matmul(y)
    y.float().square().sum().backward()
    weight, exact_x = (one.detach().clone().requires_grad_() for one in (convolution.weight, x))
    nn.functional.conv2d(exact_x, weight, padding=1).square().sum().backward()
    for mine, theirs in ((convolution.weight.grad, weight.grad), (x.grad, exact_x.grad)):
        assert mine is not None
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.01 * theirs.norm()


def test_weight_gradients_by_matmul_of_frozen_weights() -> None:
    convolution, x = Conv3x3(96, 64).requires_grad_(False), torch.randn(2, 96, 3, 5, requires_grad=True)
    convolution(x).sum().backward()
    assert convolution.weight.grad is None
    assert x.grad is not None


def test_res2net_unet_widths_are_a_setting() -> None:
    network = build("localizer", {"in_channels": 1, "widths": [10, 8, 6, 4, 2]})
    assert [stage[0].out_channels for stage in network.decoder] == [10, 8, 6, 4, 2]
    assert network.head.in_channels == 2


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What timm would fetch for ImageNet: three colours, a classifier; random values instead."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("timm") / "res2net50.safetensors"
    save_file(timm.create_model(ENCODER).state_dict(), str(path))
    return path


@pytest.mark.parametrize("in_channels", [1, 3])
def test_encoder_weights_from_a_file(encoder_file: Path, in_channels: int) -> None:
    torch.manual_seed(1)
    given = timm.create_model(ENCODER).state_dict()
    loaded = Res2NetUNet(in_channels, (10, 8, 6, 4, 2), str(encoder_file)).encoder.state_dict()
    first = given["conv1.weight"]
    expected = first.sum(dim=1, keepdim=True) if in_channels == 1 else first
    torch.testing.assert_close(loaded["conv1.weight"], expected)
    different = [name for name, value in loaded.items() if name != "conv1.weight" and not value.equal(given[name])]
    assert different == []


def test_a_missing_file_of_encoder_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.safetensors"
    with pytest.raises(FileNotFoundError, match=re.escape(f"no file of encoder weights {path}; expected 'imagenet'")):
        Res2NetUNet(encoder_weights=str(path))


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_encoder_weights_are_never_unpickled(tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"state_dict": Trap(sprung)}, protocol=2))
    with pytest.raises(FileNotFoundError, match="safetensors"):
        Res2NetUNet(encoder_weights=str(path))
    assert not sprung.exists()
