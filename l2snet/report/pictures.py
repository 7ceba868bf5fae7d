"""Projections as nuclear medicine shows them: inverse grey, SUV 0 to 10, lesions in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from l2snet.errors import MissingPackageError
from l2snet.volume import Array, Volume

MAX_SUV = 10.0
LESION_COLOUR = "#e6195c"


def projection_picture(suv: Volume, mask: Volume, path: Path, title: str) -> None:
    """Coronal and sagittal maximum-intensity projections, plain and with the mask, as a PNG.

    Raises
    ------
    MissingPackageError : matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("the picture", "report") from error
    suv, mask = suv.canonical(), mask.canonical()
    dz, dy, dx = suv.geometry.spacing_mm
    figure = Figure(figsize=(10, 5.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1])
    # Axis 1 runs to the posterior and axis 2 to the left: a coronal view shows the patient's left on the right.
    views = (("coronal", 1, dx, False), ("coronal, segmented", 1, dx, True), ("sagittal, segmented", 2, dy, True))
    for ax, (name, axis, across, marked) in zip(axes, views, strict=True):
        shown = suv.array.max(axis=axis)
        height, width = shown.shape[0] * dz, shown.shape[1] * across
        extent = (0.0, width, 0.0, height)
        image = ax.imshow(shown, cmap="gray_r", vmin=0, vmax=MAX_SUV, origin="lower", extent=extent)
        if marked:
            flat = mask.array.max(axis=axis)
            ax.imshow(_overlay(flat), origin="lower", extent=extent, interpolation="nearest")
        ax.set_title(name, fontsize=10)
        ax.set_axis_off()
    figure.colorbar(image, ax=axes, label="SUV", shrink=0.7)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _overlay(flat: Array) -> Array:
    """(z, x) mask to (z, x, 4): the lesion colour, half transparent."""
    red, green, blue = (int(LESION_COLOUR[i : i + 2], 16) / 255 for i in (1, 3, 5))
    out = np.zeros((*flat.shape, 4), np.float32)
    out[flat > 0] = (red, green, blue, 0.6)
    return out
