"""Options that several commands have, and what their text means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_type_hints

import typer

from l2snet.errors import InputError
from l2snet.sources.suv import TimeConvention

if TYPE_CHECKING:
    from l2snet.training.recipes import Recipe

R = TypeVar("R", bound="Recipe")


class Device(StrEnum):
    """Where networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class Precision(StrEnum):
    """float32, or what the hardware is fast at."""

    exact = "exact"
    fast = "fast"


MethodOption = Annotated[
    str, typer.Option(envvar="L2SNET_METHOD", help="l2snet, or step-by-step (Liu et al.).", show_envvar=False)
]
WeightsOption = Annotated[
    list[Path] | None,
    typer.Option(help="Weights folder (holds the method's networks, such as localizer/); several are averaged."),
]
DeviceOption = Annotated[
    Device, typer.Option(help="auto takes CUDA where it can be had, else the CPU; tensorrt builds its engines first.")
]
EverySliceOption = Annotated[
    bool,
    typer.Option("--every-slice", help="Show the 2D network every coronal slice, whatever the weights' slice_stride."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="exact is float32; fast is bfloat16 (CPU), TensorFloat-32 (CUDA) or float16 (TensorRT)."),
]
SeriesOption = Annotated[
    list[str] | None, typer.Option(help="SeriesInstanceUID to take where DICOM offers several; may be repeated.")
]
ConventionOption = Annotated[
    TimeConvention, typer.Option(help="DICOM: moment that the PET is corrected to, by QIBA or as autoPET's data.")
]
ResampleOption = Annotated[bool, typer.Option("--resample-ct", help="Bring a CT on another grid onto the PET's.")]
HoldOutOption = Annotated[str, typer.Option(help="Names of cases to leave out, separated by commas.")]
RecipeOption = Annotated[str, typer.Option(help="A name of l2snet/training/named.py: paper, small, ...")]
ShareOption = Annotated[
    str, typer.Option(help="Shares of the DATA folders in the samples, such as 2,1 (default: every case alike).")
]
CacheOption = Annotated[Path, typer.Option(help="Folder for the cases as the networks see them.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that make samples.")]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Let torch.compile fuse the 3D network (needs a C++ compiler).")
]
SettingsOption = Annotated[
    str, typer.Option("--set", help="Settings in place of the recipe's, such as 'seed=1 epochs=40'; values in JSON.")
]
WatchOption = Annotated[
    list[Path] | None,
    typer.Option(help="Folders of studies that are not trained on, whose loss the log has too; may be repeated."),
]
PretrainedOption = Annotated[Path | None, typer.Option(help="Weights folder to start from, such as weights/localizer.")]
DataArgument = Annotated[Path, typer.Argument(help="Folder of study folders (SUV, CTres or CT, SEG .nii.gz).")]
TrainingDataArgument = Annotated[
    list[Path], typer.Argument(help="Folders of study folders (SUV, CTres or CT, SEG .nii.gz).")
]


@dataclass(frozen=True)
class TrainingOptions:
    """What every command that trains takes, as options of `with_options`."""

    share: ShareOption = ""
    resample_ct: ResampleOption = False
    cache: CacheOption = Path("cache")
    device: DeviceOption = Device.auto
    workers: WorkersOption = 1

    def choose(self, recipes: Mapping[str, R], name: str, data: list[Path]) -> R:
        """The recipe of this name, with the shares of the data folders."""
        return replace(recipe_named(recipes, name), shares=shares(self.share, data))


@dataclass(frozen=True)
class RunOptions(TrainingOptions):
    """What every command takes that trains one network."""

    pretrained: PretrainedOption = None
    hold_out: HoldOutOption = ""
    watch: WatchOption = None
    settings: SettingsOption = ""

    def choose(self, recipes: Mapping[str, R], name: str, data: list[Path]) -> R:
        """As of all trainings, then with the settings."""
        from l2snet.training.settings import changed
        from l2snet.training.train import check_statistics

        recipe = changed(super().choose(recipes, name, data), self.settings, kept=frozenset({"name", "shares"}))
        check_statistics(recipe, self.pretrained)
        return recipe


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of those of its parameters that are dataclasses."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parts = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            types = get_type_hints(groups[name], include_extras=True)
            parts.update({field.name: (types[field.name], field.default) for field in fields(groups[name])})
        else:
            parts[name] = hints[name], parameter.default
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
        for name, (hint, default) in parts.items()
    ]

    @wraps(command)
    def expanded(**given: object) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    return expanded


def names(text: str) -> set[str]:
    """Names separated by commas."""
    return {name.strip() for name in text.split(",") if name.strip()}


def voxels(text: str) -> tuple[int, int, int]:
    """(z, y, x) of --crop."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--crop {text!r} was given; expected three numbers of voxels, such as 32,160,160")
    z, y, x = (int(part) for part in parts)
    return z, y, x


def shares(text: str, data: list[Path]) -> tuple[float, ...] | None:
    """A number for each data folder, or None."""
    if not text:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--share {text!r} was given; expected numbers separated by commas, such as 2,1") from error
    if len(numbers) != len(data) or not min(numbers) > 0:
        raise InputError(f"--share {text!r} was given; expected a positive number for each of the {len(data)} folders")
    return numbers


def recipe_named(recipes: Mapping[str, R], name: str) -> R:
    """The recipe of this name."""
    if name not in recipes:
        raise InputError(f"recipe {name!r} is not known; expected one of {', '.join(recipes)}")
    return recipes[name]
