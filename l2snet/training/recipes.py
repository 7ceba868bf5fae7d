"""Training recipes: frozen settings whose defaults are the paper's; those for smaller machines are in `named`.

What the paper leaves open is marked "not given".
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from l2snet.errors import InputError
from l2snet.preprocess import LogScale, Window, intensity
from l2snet.training.schedules import Fixed, MovingAverage, MovingAverageRule, Schedule
from l2snet.weights import LOCALIZER, SEGMENTER, STEP_BY_STEP, check_slices

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Recipe(ABC):
    """What every network's training sets."""

    name: str = "paper"
    epochs: int = 200
    steps_per_epoch: int = 250  # not given; nnU-Net's
    batch: int = 32
    learning_rate: float = 1e-3  # section 3.4
    optimizer: str = "sgd"  # not given; or "adam", "adamw"
    momentum: float = 0.9  # not given
    weight_decay: float = 1e-4
    shares: tuple[float, ...] | None = None  # of the samples, by data folder; None: every case alike
    checkpoint_every: int = 1  # epochs
    seed: int = 0
    keep_statistics: bool = False  # batch norms take those of the weights that are started from, as at inference

    network = ""

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments of the network, without its first weights."""

    @property
    @abstractmethod
    def inference(self) -> dict[str, Any]:
        """What the weights' config says of the network's input (fields of `NetworkConfig`)."""

    @abstractmethod
    def schedule(self) -> Schedule:
        """The learning rates of a new run."""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; expected one of {', '.join(OPTIMIZERS)}")
        if self.shares is not None and (min(self.shares) < 0 or sum(self.shares) <= 0):
            raise ValueError(f"shares are {self.shares}; expected positive numbers")

    def to_json(self) -> str:
        """All settings, as text that two equal recipes share."""
        return json.dumps({"network": self.network, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The recipe that `to_json` wrote."""
        values = json.loads(text)
        if values.pop("network") != cls.network:
            raise ValueError(f"not a recipe of the {cls.network}")
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise InputError(f"the recipe has settings of another version ({', '.join(unknown)}); use that version")
        for f in fields(cls):
            value = values.get(f.name)
            if isinstance(value, list):
                values[f.name] = tuple(value)
            elif isinstance(value, dict):
                values[f.name] = intensity(value)
        return cls(**values)


@dataclass(frozen=True)
class PolynomialRecipe(Recipe):
    """What both phases of L2SNet set."""

    decay_power: float = 0.9  # lr x (1 - epoch / epochs) ^ power
    bce_weight: float = 1.0  # of the cross-entropy beside Dice; small windows without lesion teach through it alone
    hot_weight: float = 0.0  # more weight of voxels that are hot or lesion: what is hard to tell apart
    organ_weight: float = 0.0  # of the cross-entropy over organs, beside the lesions', where cases have organ maps
    lesion_gain: float = 1.0  # lesions of half of the samples are made up to so many times as hot; not the paper's
    organ_gain: float = 1.0  # each organ, where they are learnt, of half of the samples: so many times as hot or cold
    lesion_floor: float = 0.0  # SUV below which no voxel is taught as lesion: an anatomical truth holds cold tissue
    warmup_steps: int = 0  # over which the rate rises from zero

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lesion_gain", "organ_gain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")

    def learning_rate_at(self, step: int) -> float:
        """The polynomial schedule, constant within an epoch, after a linear rise; steps are counted from 0."""
        epoch = step // self.steps_per_epoch
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return float(self.learning_rate * rise * (1 - epoch / self.epochs) ** self.decay_power)

    def schedule(self) -> Schedule:
        """`learning_rate_at`, whatever the loss."""
        return Fixed(self.learning_rate_at)


@dataclass(frozen=True)
class LocalizerRecipe(PolynomialRecipe):
    """Phase 1, the 2D network on coronal slices (sections 3.2 and 3.4)."""

    crop: tuple[int, int] = (320, 384)  # (z, x)
    slices: int = 1  # neighbouring coronal slices as channels
    slice_stride: int = 1  # inference runs the middle one of every so many coronal slices
    lesion_share: float = 0.2  # of each batch
    hot_share: float = 0.0  # of slices whose crop holds normal uptake; the rest may lie anywhere
    cut_share: float = 0.0  # share of slices that end at a random row, as where a field of view ends
    rotation_degrees: float = 15.0  # the angle is not given
    appearance: bool = False  # of slices is changed too (noise, blur, contrast, resolution, size), as of windows
    pet: Window | LogScale = field(default_factory=lambda: Window(0.0, 35.0, -1.0, 1.0))
    widths: tuple[int, ...] = (320, 256, 128, 64, 32)
    stride: int = 1  # pixels a side of which the network sees the mean
    encoder_weights: str | None = "imagenet"

    network = LOCALIZER

    def __post_init__(self) -> None:
        super().__post_init__()
        check_slices(self.slices, self.slice_stride)

    @property
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments of `Res2NetUNet`, without the encoder's first weights."""
        return {"in_channels": self.slices, "widths": list(self.widths), "stride": self.stride}

    @property
    def inference(self) -> dict[str, Any]:
        """PET alone, in slices as large as those of training."""
        return {"pet": self.pet, "slices": self.slices, "slice_stride": self.slice_stride, "window": self.crop}


@dataclass(frozen=True)
class SegmenterRecipe(PolynomialRecipe):
    """Phase 2, the 3D network on windows of PET and CT (sections 3.3 and 3.4)."""

    epochs: int = 500
    batch: int = 2
    crop: tuple[int, int, int] = (128, 192, 160)  # (z, y, x)
    window: tuple[int, int, int] | None = None  # at inference; None: as the crop, which norm="window" needs
    lesion_share: float = 0.33  # of windows centred on a lesion; not given; nnU-Net's
    hot_share: float = 0.0  # of windows centred on normal uptake; the rest lie anywhere
    cut_share: float = 0.0  # share of windows that end at a random axial slice, as where a field of view ends
    cue_weight: float = 1.0  # voxel weight 1 + cue_weight x P_loc (equation 3)
    ct_dropout: float = 0.0  # share of windows whose CT is blanked
    pet: Window | LogScale = field(default_factory=lambda: Window(0.0, 15.0))
    ct: Window = field(default_factory=lambda: Window(-100.0, 250.0))
    widths: tuple[int, ...] = (16, 32, 64, 128)  # after 16 not given
    norm: str = "window"
    stride: tuple[int, int, int] = (1, 1, 1)  # voxels, (z, y, x), of which the network sees the mean; crop is in these
    mirror_axes: tuple[int, ...] = (0, 1, 2)  # of (z, y, x), along which windows are flipped

    network = SEGMENTER

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "window" and self.window not in (None, self.crop):
            raise ValueError('with norm="window" the result depends on the window: it must be as the crop')

    @property
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments of `UNet3D`."""
        return {"in_channels": 2, "widths": list(self.widths), "norm": self.norm}

    @property
    def inference(self) -> dict[str, Any]:
        """PET and CT in windows."""
        return {
            "pet": self.pet,
            "ct": self.ct,
            "window": self.window or self.crop,
            "stride": self.stride,
            "mirror_axes": self.mirror_axes,
        }


@dataclass(frozen=True)
class StepByStepRecipe(Recipe):
    """Step-by-Step (Liu et al., autoPET 2022), the lesion together with ever wider surroundings.

    `steps_per_epoch` is replaced by what makes an epoch all images, unless `epoch_is_all_images` is False.
    """

    epochs: int = 360  # at most; the rule ends the run, after about 260 in the paper
    batch: int = 16
    learning_rate: float = 3e-4
    optimizer: str = "adam"
    weight_decay: float = 0.0  # not given
    epoch_is_all_images: bool = True
    lesion_repeat: int = 3  # times that an image with lesions counts; "more often", the number is not given
    lesion_share: float = 0.75  # of an image's crops that hold a voxel of its lesions; not given
    crop: tuple[int, int, int] = (32, 160, 160)  # (z, y, x)
    stride: tuple[int, int, int] = (1, 1, 1)  # as of `SegmenterRecipe`
    hot_share: float = 0.0  # of all crops that hold a drawn voxel of normal uptake; the rest lie anywhere
    mirror_axes: tuple[int, ...] = ()  # along each of which half of the crops are flipped; no augmentation is given
    appearance: bool = False  # of crops is changed (noise, blur, contrast, resolution), as of the segmenter's windows
    lesion_gain: float = 1.0  # as of `PolynomialRecipe`
    ct_dropout: float = 0.0  # share of crops whose CT is blanked
    rate_divisor: float = 2.5
    least_fall: float = 5e-3
    average_epochs: int = 10  # in the moving average; not given
    patience: int = 30  # epochs without such a fall; not given; nnU-Net's, whose rule this is
    lowest_rate: float = 1e-5
    cosine_rate: float = 1e-4
    cosine_epochs: int = 100
    pet: LogScale = field(default_factory=LogScale)  # log2(1 + SUV), as released
    ct: Window = field(default_factory=lambda: Window(-1000.0, 1000.0))  # clipped as released; the scale is not given
    channels: int = 8  # 1: without the auxiliary ones, to compare
    widths: tuple[int, ...] = (96, 192, 384, 768, 1536)
    residual_units: int = 4

    network = STEP_BY_STEP

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lesion_repeat", "average_epochs", "patience", "cosine_epochs", "lesion_gain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.cosine_epochs > self.epochs:
            raise ValueError(f"{self.cosine_epochs} cosine_epochs do not fit into {self.epochs} epochs")
        if self.channels not in (1, 8):
            raise ValueError(f"channels is {self.channels}; expected 8, or 1 for the lesion alone")

    @property
    def span(self) -> tuple[int, ...]:
        """(z, y, x) voxels of the working grid that a crop spans."""
        return tuple(n * step for n, step in zip(self.crop, self.stride, strict=True))

    @property
    def architecture(self) -> dict[str, Any]:
        """Constructor arguments of `ResidualUNet3D`."""
        return {
            "in_channels": 2,
            "out_channels": self.channels,
            "widths": list(self.widths),
            "residual_units": self.residual_units,
            "norm": "window",
        }

    @property
    def inference(self) -> dict[str, Any]:
        """PET and CT in windows of the crop's size, over which the norm spans."""
        return {
            "pet": self.pet,
            "ct": self.ct,
            "window": self.crop,
            "stride": self.stride,
            "mirror_axes": self.mirror_axes,
        }

    def schedule(self) -> Schedule:
        """The moving-average rule, then the cosine; the first part ends in time for the second."""
        rule = MovingAverageRule(
            start=self.learning_rate,
            divisor=self.rate_divisor,
            least_fall=self.least_fall,
            average_epochs=self.average_epochs,
            patience=self.patience,
            lowest=self.lowest_rate,
            last_epoch=self.epochs - self.cosine_epochs,
            cosine_start=self.cosine_rate,
            cosine_epochs=self.cosine_epochs,
        )
        return MovingAverage(rule, self.steps_per_epoch)


# Which recipe a run folder or a weights folder of a network holds.
RECIPES: dict[str, type[Recipe]] = {
    recipe.network: recipe for recipe in (LocalizerRecipe, SegmenterRecipe, StepByStepRecipe)
}
