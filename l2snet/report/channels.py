"""What Step-by-Step learns, as a picture: the eight channels of a crop of a study, in a coronal slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.report.pictures import new_figure
from l2snet.training.cache import training_arrays
from l2snet.training.recipes import StepByStepRecipe
from l2snet.training.step_by_step import CHANNELS, channels, crop_at
from l2snet.training.surroundings import surroundings

COLUMNS = 4


def channels_picture(case: Case, recipe: StepByStepRecipe, path: Path) -> None:
    """Draw the channels around the case's largest coronal slice of lesion, as a PNG.

    The crop has the recipe's size; `whole` is what it shows.

    Raises
    ------
    InputError : the case has no lesion, or no CT.
    MissingPackageError : matplotlib is not installed.
    """
    arrays, geometry = training_arrays(case)
    lesions = arrays["lesions"]
    if not lesions.any() or "ct" not in arrays:
        raise InputError(f"{case.name} has no {'CT' if lesions.any() else 'lesion'}; choose a study that has both")
    size = recipe.span
    y = int(lesions.sum(axis=(0, 2)).argmax())
    z, x = np.argwhere(lesions[:, y]).mean(axis=0)
    start = [round(at) - n // 2 for at, n in zip((z, y, x), size, strict=True)]
    image, levels = crop_at(start, arrays["suv"], arrays["ct"], surroundings(lesions), recipe)
    found = channels(torch.from_numpy(image)[None], torch.from_numpy(levels)[None])[0].numpy()
    found = found[:, :, recipe.crop[1] // 2]

    dz, _, dx = geometry.spacing_mm
    extent = (0.0, size[2] * dx, 0.0, size[0] * dz)
    rows = -(-len(CHANNELS) // COLUMNS)
    height = 3.2 * extent[3] / extent[1] + 0.35
    figure = new_figure(figsize=(3.2 * COLUMNS, rows * height), dpi=90, layout="constrained")
    for ax, name, array in zip(figure.subplots(rows, COLUMNS).flat, CHANNELS, found, strict=True):
        # Windows of the eye alone: PET up to SUV 15 in inverse grey, CT from fat to bone.
        scale = {"cmap": "gray", "vmin": 0.3, "vmax": 0.75} if "CT" in name else {"cmap": "gray_r", "vmin": 0}
        high = 4.0 if "PET" in name else 1.0
        ax.imshow(array, origin="lower", extent=extent, interpolation="nearest", **{"vmax": high, **scale})
        ax.set_title(name, fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
