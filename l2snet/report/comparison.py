"""The paper's Fig. 3: coronal views of the truth and of several methods, their errors boxed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.evaluation.metrics import Components, components, confusion
from l2snet.report.pictures import MAX_SUV, new_figure
from l2snet.report.views import warm_box
from l2snet.volume import Array

# Okabe and Ito's colours, which colour-blind readers tell apart; the line styles say the same in print.
LESION, FALSE_POSITIVE, FALSE_NEGATIVE = "#009e73", "#d55e00", "#0072b2"
MOST_INCHES, LEAST_WIDTH_INCHES = (5.0, 3.2), 2.0  # a panel: at most (height, width)
# Boxes beyond the largest few hide what they should show; the count in the title is of all.
MOST_BOXES = 12
BOX_MARGIN_MM = 6.0
SCALE_MM = 100.0
OPACITY = 0.65


@dataclass(frozen=True)
class Panel:
    """One view of a mask: what of it is right, wrong and missing.

    Attributes
    ----------
    mask, wrong, missing : (z, y, x) bool: the mask, its components that touch no lesion, lesions it does not touch.
    boxes : colour, line style and (z, y, x) box of each boxed component.
    """

    title: str
    mask: Array
    wrong: Array
    missing: Array
    boxes: tuple[tuple[str, str, tuple[slice, ...]], ...] = ()


def comparison_picture(
    case: Case,
    masks: Mapping[str, Array],
    path: Path,
    projection: bool = True,
) -> None:
    """Draw the truth and each mask over coronal PET, as a PNG; false positives and false negatives are boxed.

    A false positive is a predicted component that touches no lesion, a false negative a lesion that no prediction
    touches, as FPV and FNV count them.

    Parameters
    ----------
    case : with its lesions.
    masks : name of a method to its (z, y, x) mask, on the case's grid.
    projection : maximum-intensity projections; else the coronal slice with the most lesion (the most predicted volume,
        where there is no lesion).

    Raises
    ------
    InputError : the case has no lesion mask.
    MissingPackageError : matplotlib, or the extra `evaluate`, is not installed.
    """
    if case.lesions is None:
        raise InputError(f"case {case.name} has no lesion mask to compare with")
    pet, right = case.suv.canonical(), case.lesions.canonical().array > 0.5
    found = {name: case.suv.with_array(mask).canonical().array > 0 for name, mask in masks.items()}
    box = warm_box(pet.array)
    depth = slice(None) if projection else _slice_with_most(right[box], [mask[box] for mask in found.values()])
    spacing_mm = pet.geometry.spacing_mm
    none = np.zeros_like(right)
    panels = [Panel(f"truth\n{_truth_line(right, pet.geometry.voxel_ml)}", right, none, none)]
    panels += [panel(name, right, mask, pet.geometry.voxel_ml) for name, mask in found.items()]
    _draw(pet.array, panels, box, depth, spacing_mm, path, case.name)


def _truth_line(truth: Array, voxel_ml: float) -> str:
    lesions = len(components(truth, truth).voxels)
    return f"{lesions} lesion{'' if lesions == 1 else 's'}, {truth.sum() * voxel_ml:.1f} ml"


def panel(name: str, truth: Array, mask: Array, voxel_ml: float) -> Panel:
    """A method's panel, of (z, y, x) bool masks: what is wrong in it, its boxes, and its numbers as the title."""
    marks, lesions = components(mask, truth), components(truth, mask)
    boxes = [
        (colour, style, place)
        for colour, style, parts in ((FALSE_POSITIVE, "-", marks), (FALSE_NEGATIVE, "--", lesions))
        for place in _largest_untouched(parts)
    ]
    wrong, missing = _untouched(marks), _untouched(lesions)
    dice = confusion(truth, mask).dice if truth.any() else None
    line = "no lesion" if dice is None else f"Dice {dice:.2f}"
    volumes = ", ".join(
        f"{what} {part.sum() * voxel_ml:.1f} ml ({parts.untouched.sum()})"
        for what, part, parts in (("FPV", wrong, marks), ("FNV", missing, lesions))
    )
    return Panel(f"{name}\n{line}\n{volumes}", mask, wrong, missing, tuple(boxes))


def _untouched(parts: Components) -> Array:
    """(z, y, x) bool: the components that the other mask does not touch."""
    return np.concatenate([[False], parts.untouched])[parts.labels]


def _largest_untouched(parts: Components) -> list[tuple[slice, ...]]:
    """Boxes of the largest components that the other mask does not touch."""
    places = ndimage.find_objects(parts.labels.astype(np.int32))
    order = [k for k in np.argsort(-parts.voxels, kind="stable") if parts.untouched[k]]
    return [places[k] for k in order[:MOST_BOXES]]


def _slice_with_most(truth: Array, masks: list[Array]) -> slice:
    """The coronal slice with the most lesion; with the most prediction, where there is no lesion."""
    what = truth if truth.any() else np.sum(masks, axis=0)
    where = int(np.argmax(np.sum(what, axis=(0, 2))))
    return slice(where, where + 1)


def _draw(
    pet: Array,
    panels: list[Panel],
    box: tuple[slice, ...],
    depth: slice,
    spacing_mm: tuple[float, float, float],
    path: Path,
    title: str,
) -> None:
    """Draw the panels side by side, the truth first.

    Axis 1 runs to the posterior and axis 2 to the left: the patient's left is on the right, as in radiology.
    """
    dz, _, dx = spacing_mm
    shown = pet[box][:, depth]
    height, width = shown.shape[0] * dz, shown.shape[2] * dx
    inches_per_mm = min(MOST_INCHES[0] / height, MOST_INCHES[1] / width)
    size = (max(LEAST_WIDTH_INCHES, width * inches_per_mm) * len(panels) + 0.8, height * inches_per_mm + 1.4)
    figure = new_figure(figsize=size, dpi=150, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    extent = (0.0, width, 0.0, height)
    outline = panels[0].mask[box][:, depth].any(axis=1)
    for ax, panel in zip(axes, panels, strict=True):
        image = ax.imshow(
            shown.max(axis=1),
            cmap="gray_r",
            vmin=0,
            vmax=MAX_SUV,
            interpolation="bilinear",
            origin="lower",
            extent=extent,
        )
        ax.imshow(_overlay(panel, box, depth), interpolation="nearest", origin="lower", extent=extent)
        if panel is not panels[0] and outline.any():
            ax.contour(outline, levels=[0.5], colors="black", linewidths=0.8, extent=extent, origin="lower")
        for colour, style, place in panel.boxes:
            _draw_box(ax, colour, style, place, box, depth, spacing_mm)
        ax.set_title(panel.title, fontsize=9)
        ax.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[], aspect="equal")
        for spine in ax.spines.values():
            spine.set(color="0.8")
    _scale_bar(axes[0])
    figure.colorbar(image, ax=axes, label="SUV", shrink=0.6, pad=0.01)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _overlay(panel: Panel, box: tuple[slice, ...], depth: slice) -> Array:
    """(z, x, 4): the mask, over it what is wrong, over that what is missing."""
    from matplotlib.colors import to_rgba

    flat = [part[box][:, depth].any(axis=1) for part in (panel.mask, panel.wrong, panel.missing)]
    out = np.zeros((*flat[0].shape, 4), np.float32)
    for where, colour in zip(flat, (LESION, FALSE_POSITIVE, FALSE_NEGATIVE), strict=True):
        out[where] = to_rgba(colour, OPACITY)
    return out


def _draw_box(
    ax: Any,
    colour: str,
    style: str,
    place: tuple[slice, ...],
    box: tuple[slice, ...],
    depth: slice,
    spacing_mm: tuple[float, float, float],
) -> None:
    """A rectangle a little outside the component, in mm of the view; none where the slice does not cut it."""
    from matplotlib.patches import Rectangle

    starts = [p.start - (b.start or 0) for p, b in zip(place, box, strict=True)]
    sizes = [p.stop - p.start for p in place]
    if depth.start is not None and not starts[1] <= depth.start < starts[1] + sizes[1]:
        return
    (z, x), (high, wide) = (
        [v * spacing_mm[axis] for axis, v in ((0, values[0]), (2, values[2]))] for values in (starts, sizes)
    )
    margin = BOX_MARGIN_MM
    corner = (x - margin, z - margin)
    ax.add_patch(
        Rectangle(corner, wide + 2 * margin, high + 2 * margin, fill=False, edgecolor=colour, linestyle=style, lw=1.3)
    )


def _scale_bar(ax: Any) -> None:
    """10 cm in the lower left corner, and which side is the patient's left."""
    ax.plot([10, 10 + SCALE_MM], [12, 12], color="black", lw=2, solid_capstyle="butt")
    ax.text(10 + SCALE_MM / 2, 18, "10 cm", ha="center", va="bottom", fontsize=8)
    ax.text(0.98, 0.5, "L", transform=ax.transAxes, ha="right", va="center", fontsize=9)
    ax.text(0.02, 0.5, "R", transform=ax.transAxes, ha="left", va="center", fontsize=9)


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=LESION, alpha=OPACITY, label="mask"),
        Line2D([], [], color="black", lw=0.8, label="outline of the truth"),
        Patch(facecolor="none", edgecolor=FALSE_POSITIVE, label="false positive: touches no lesion"),
        Patch(facecolor="none", edgecolor=FALSE_NEGATIVE, linestyle="--", label="false negative: lesion not touched"),
    ]
