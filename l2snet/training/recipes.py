"""Training recipes: frozen settings whose defaults are the paper's; named ones for smaller machines.

What the paper leaves open is marked "not given".
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from l2snet.preprocess import Window
from l2snet.weights import LOCALIZER, SEGMENTER


@dataclass(frozen=True)
class Recipe:
    """What both phases set."""

    name: str = "paper"
    epochs: int = 200
    steps_per_epoch: int = 250  # not given; nnU-Net's
    batch: int = 32
    learning_rate: float = 1e-3  # section 3.4
    decay_power: float = 0.9  # lr x (1 - epoch / epochs) ^ power
    momentum: float = 0.9  # not given
    weight_decay: float = 1e-4
    checkpoint_every: int = 1  # epochs
    seed: int = 0

    network = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")

    def learning_rate_at(self, epoch: int) -> float:
        """The polynomial schedule, constant within an epoch (counted from 0)."""
        return float(self.learning_rate * (1 - epoch / self.epochs) ** self.decay_power)

    def to_json(self) -> str:
        """All settings, as text that two equal recipes share."""
        return json.dumps({"network": self.network, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The recipe that `to_json` wrote."""
        values = json.loads(text)
        if values.pop("network") != cls.network:
            raise ValueError(f"not a recipe of the {cls.network}")
        for f in fields(cls):
            value = values.get(f.name)
            if isinstance(value, list):
                values[f.name] = tuple(value)
            elif isinstance(value, dict):
                values[f.name] = Window(**value)
        return cls(**values)


@dataclass(frozen=True)
class LocalizerRecipe(Recipe):
    """Phase 1, the 2D network on coronal slices (sections 3.2 and 3.4)."""

    crop: tuple[int, int] = (320, 384)  # (z, x)
    slices: int = 1  # neighbouring coronal slices as channels
    lesion_share: float = 0.2  # of each batch
    rotation_degrees: float = 15.0  # the angle is not given
    pet: Window = field(default_factory=lambda: Window(0.0, 35.0, -1.0, 1.0))
    widths: tuple[int, ...] = (320, 256, 128, 64, 32)
    encoder_weights: str | None = "imagenet"

    network = LOCALIZER

    @property
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments of `Res2NetUNet`, without the encoder's first weights."""
        return {"in_channels": self.slices, "widths": list(self.widths)}


@dataclass(frozen=True)
class SegmenterRecipe(Recipe):
    """Phase 2, the 3D network on windows of PET and CT (sections 3.3 and 3.4)."""

    epochs: int = 500
    batch: int = 2
    crop: tuple[int, int, int] = (128, 192, 160)  # (z, y, x)
    window: tuple[int, int, int] | None = None  # at inference; None: as the crop, which norm="window" needs
    lesion_share: float = 0.33  # of windows centred on a lesion; not given; nnU-Net's
    cue_weight: float = 1.0  # voxel weight 1 + cue_weight x P_loc (equation 3)
    ct_dropout: float = 0.0  # share of windows whose CT is blanked
    pet: Window = field(default_factory=lambda: Window(0.0, 15.0))
    ct: Window = field(default_factory=lambda: Window(-100.0, 250.0))
    widths: tuple[int, ...] = (16, 32, 64, 128)  # after 16 not given
    norm: str = "window"

    network = SEGMENTER

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "window" and self.window not in (None, self.crop):
            raise ValueError('with norm="window" the result depends on the window: it must be as the crop')

    @property
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments of `UNet3D`."""
        return {"in_channels": 2, "widths": list(self.widths), "norm": self.norm}


# Two CPU cores, bf16, without ImageNet weights: an hour each. A faster rate makes up for the few steps.
LOCALIZERS = {
    "paper": LocalizerRecipe(),
    "small": LocalizerRecipe(
        name="small",
        epochs=60,
        steps_per_epoch=40,
        batch=8,
        crop=(128, 160),
        lesion_share=0.5,
        learning_rate=0.02,
        checkpoint_every=5,
        encoder_weights=None,
    ),
}
SEGMENTERS = {
    "paper": SegmenterRecipe(),
    "small": SegmenterRecipe(
        name="small",
        epochs=60,
        steps_per_epoch=25,
        crop=(64, 96, 80),
        window=(128, 192, 160),
        learning_rate=0.02,
        lesion_share=0.5,
        ct_dropout=0.1,
        norm="channels",
        checkpoint_every=5,
    ),
}
