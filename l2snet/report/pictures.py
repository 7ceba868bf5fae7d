"""Projections as nuclear medicine shows them: inverse grey, SUV 0 to 10, lesions in colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from l2snet.errors import MissingPackageError
from l2snet.volume import Array, Volume

MAX_SUV = 10.0
MIN_SHOWN_SUV = 0.2
HEIGHT_INCHES = 4.5
LESION_COLOUR = "#e6195c"


def new_figure(**settings: Any) -> Any:
    """A matplotlib figure that draws into memory, whatever display there is; `settings` as of `Figure`.

    Raises
    ------
    MissingPackageError : matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("a picture", "report") from error
    figure = Figure(**settings)
    FigureCanvasAgg(figure)
    return figure


def projection_picture(suv: Volume, mask: Volume, path: Path, title: str) -> None:
    """Coronal and sagittal maximum-intensity projections, plain and with the mask, as a PNG.

    Raises
    ------
    MissingPackageError : matplotlib is not installed.
    """
    suv, mask = suv.canonical(), mask.canonical()
    box = warm_box(suv.array)
    pet, marked = suv.array[box], mask.array[box]
    dz, dy, dx = suv.geometry.spacing_mm
    # Axis 1 runs to the posterior and axis 2 to the left: a coronal view shows the patient's left on the right.
    views = (("coronal", 1, dx, False), ("coronal, segmented", 1, dx, True), ("sagittal, segmented", 2, dy, True))
    height = pet.shape[0] * dz
    widths = [pet.shape[3 - axis] * across for _, axis, across, _ in views]
    figure = new_figure(
        figsize=(HEIGHT_INCHES * sum(widths) / height + 1.0, HEIGHT_INCHES + 0.7), dpi=120, layout="constrained"
    )
    axes = figure.subplots(1, len(views), width_ratios=widths)
    for ax, width, (name, axis, _, with_mask) in zip(axes, widths, views, strict=True):
        shown = {"origin": "lower", "extent": (0.0, width, 0.0, height)}
        image = ax.imshow(pet.max(axis=axis), cmap="gray_r", vmin=0, vmax=MAX_SUV, interpolation="bilinear", **shown)
        if with_mask:
            ax.imshow(_overlay(marked.max(axis=axis)), interpolation="nearest", **shown)
        ax.set_title(name, fontsize=10)
        ax.set_axis_off()
    figure.colorbar(image, ax=axes, label="SUV", shrink=0.7)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def warm_box(suv: Array) -> tuple[slice, ...]:
    """The box around what a projection shows as more than white."""
    warm = suv > MIN_SHOWN_SUV
    if not warm.any():
        return (slice(None),) * 3
    ends = [np.flatnonzero(warm.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(e[0]), int(e[-1]) + 1) for e in ends)


def _overlay(flat: Array) -> Array:
    """(z, x) mask to (z, x, 4): the lesion colour, half transparent."""
    red, green, blue = (int(LESION_COLOUR[i : i + 2], 16) / 255 for i in (1, 3, 5))
    out = np.zeros((*flat.shape, 4), np.float32)
    out[flat > 0] = (red, green, blue, 0.6)
    return out
