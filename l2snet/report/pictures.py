"""Pictures as nuclear medicine shows them: projections in inverse grey, SUV 0 to 10, and hot PET over CT, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from l2snet.errors import MissingPackageError
from l2snet.report.shades import enlarged, fused, inverse_grey, stroke
from l2snet.report.strings import STRINGS, printable
from l2snet.report.views import CORONAL, LESION, SAGITTAL, View, projection, warm_box
from l2snet.volume import Array, Volume

MAX_SUV = 10.0
HEIGHT_INCHES = 7.0
SLICE_INCHES = 6.0
LESION_COLOUR = "#d55e00"
PIXEL_MM = 1.0  # of what is drawn, so that no voxel shows as a square
SCALE_MM = 100.0


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


def projection_picture(suv: Volume, labels: Volume, path: Path, title: str, max_suv: float = MAX_SUV) -> None:
    """Coronal and sagittal maximum-intensity projections, the coronal one plain too, lesions outlined, as a PNG.

    Parameters
    ----------
    labels : lesion numbers on the PET's grid; 0 outside. A mask of 0 and 1 is drawn as one lesion.

    Raises
    ------
    MissingPackageError : matplotlib is not installed.
    """
    suv, labels = suv.canonical(), labels.canonical()
    box = warm_box(suv.array, labels.array)
    coronal, sagittal = (projection(suv, {LESION: labels.array}, axis, box) for axis in (CORONAL, SAGITTAL))
    draw([replace(coronal, marks=()), coronal, sagittal], path, title, max_suv, HEIGHT_INCHES)


def slice_picture(view: View, path: Path, title: str, max_suv: float = MAX_SUV) -> None:
    """An axial slice, PET over CT, lesions outlined, as a PNG.

    Raises
    ------
    MissingPackageError : matplotlib is not installed.
    """
    height, width = view.size_mm
    draw([view], path, title, max_suv, SLICE_INCHES * min(1.0, height / width))


def draw(views: Sequence[View], path: Path, title: str, max_suv: float, inches: float) -> None:
    """Views side by side, this many inches high, with a scale of SUV and of length, as a PNG."""
    height = max(view.size_mm[0] for view in views)
    width = sum(view.size_mm[1] for view in views)
    size = (max(3.0, inches * width / height + 0.3 * len(views) + 0.9), inches + 0.75)
    figure = new_figure(figsize=size, dpi=150, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(views), width_ratios=[view.size_mm[1] for view in views]))
    for ax, view in zip(axes, views, strict=True):
        _draw_view(ax, view, max_suv)
    _scale_bar(axes[0], views[0])
    _suv_bar(figure, axes, views[0].ct is not None, max_suv)
    figure.suptitle(printable(title), fontsize=11, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def pixels(view: View, max_suv: float, pixel_mm: float = PIXEL_MM) -> Array:
    """(rows, columns, 3) uint8: the view without what is drawn on it."""
    size = (max(1, round(view.size_mm[0] / pixel_mm)), max(1, round(view.size_mm[1] / pixel_mm)))
    suv = enlarged(view.suv, size)
    if view.ct is None:
        return np.repeat(inverse_grey(suv, max_suv)[..., None], 3, axis=-1)
    return fused(suv, enlarged(view.ct, size), max_suv)


def _draw_view(ax: Any, view: View, max_suv: float) -> None:
    from matplotlib.patheffects import withStroke

    height, width = view.size_mm
    dark = view.ct is not None
    ax.imshow(pixels(view, max_suv), extent=(0, width, height, 0), interpolation="antialiased")
    halo = [withStroke(linewidth=3.0, foreground="black" if dark else "white")]
    for mark in view.marks:
        colour, style = stroke(mark)
        for line in mark.lines:
            ax.plot(line[:, 0], line[:, 1], color=colour, ls=style, lw=1.5, path_effects=halo)
        if mark.place is not None:
            text = {"color": "white" if dark else "black", "fontsize": 8, "weight": "bold", "path_effects": halo}
            ax.text(*mark.place, str(mark.number), ha="center", va="center", **text)
    marks = {"color": "white" if dark else "0.35", "fontsize": 9, "va": "center", "path_effects": halo}
    said = STRINGS["pictures"]
    ax.text(0.012 * width + 2, height / 2, said["letters"][view.ends[0]], ha="left", **marks)
    ax.text(0.988 * width - 2, height / 2, said["letters"][view.ends[1]], ha="right", **marks)
    ax.set_title(said[view.name], fontsize=9, color="0.3", pad=3)
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    ax.set_anchor("N")
    ax.spines[:].set_color("0.85")


def _scale_bar(ax: Any, view: View) -> None:
    """10 cm in the lower left corner."""
    height, width = view.size_mm
    if width < 1.3 * SCALE_MM:
        return
    colour = "white" if view.ct is not None else "black"
    ax.plot([8, 8 + SCALE_MM], [height - 8] * 2, color=colour, lw=2, solid_capstyle="butt")
    text = {"color": colour, "fontsize": 8, "ha": "center", "va": "bottom"}
    ax.text(8 + SCALE_MM / 2, height - 12, STRINGS["pictures"]["scale"], **text)


def _suv_bar(figure: Any, axes: Any, is_fused: bool, max_suv: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    from l2snet.report.shades import hot

    colours = ListedColormap(hot(np.linspace(0, 1, 256)).tolist()) if is_fused else "gray_r"
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, max_suv), colours), ax=axes, shrink=0.5, aspect=30, pad=0.01, fraction=0.04
    )
    bar.set_label(STRINGS["pictures"]["suv"], fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_edgecolor("0.7")
