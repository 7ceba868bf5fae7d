"""Step-by-Step (Liu et al.): MONAI's residual 3D U-Net, which gives the lesion and its surroundings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ResidualUNet3D(nn.Module):
    """MONAI's `UNet` with its defaults: instance norm, PReLU, strided convolutions.

    Instance norm has no weights and spans the window: what a voxel gets depends on the rest of its window, so inference
    takes windows of the training's crop size.

    Parameters
    ----------
    in_channels : 2, PET then CT.
    out_channels : 8, the lesion and seven surroundings; 1, the lesion alone.
    widths : filters per level.
    residual_units : convolutions per level and direction, with a residual connection around them.
    """

    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 8,
        widths: Sequence[int] = (96, 192, 384, 768, 1536),
        residual_units: int = 4,
        norm: str = "window",
    ) -> None:
        super().__init__()
        if norm != "window":
            raise ValueError(f"norm {norm!r} is not known; MONAI's instance norm spans the 'window'")
        from monai.networks.nets import UNet  # a slow import that the other networks do without

        self.multiple = 2 ** (len(widths) - 1)
        self.unet = UNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=tuple(widths),
            strides=(2,) * (len(widths) - 1),
            num_res_units=residual_units,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, z, y, x) to (n, out_channels, z, y, x): the lesion's logits, then images as the input's intensities.

        Sizes must be multiples of `multiple`, and larger than it along one axis at least: instance norm needs more than
        one voxel at the deepest level.
        """
        if any(n % self.multiple for n in x.shape[2:]):
            raise ValueError(
                f"a window of {tuple(x.shape[2:])} was given; every size must be a multiple of {self.multiple}"
            )
        out: Tensor = self.unet(x)
        return out
