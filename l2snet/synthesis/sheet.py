"""A sheet of pictures: every body's projection, its tumours and a slice of its CT, to judge it by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from l2snet.case import AIR_HU, Case
from l2snet.report.pictures import LESION_COLOUR, MAX_SUV, new_figure
from l2snet.volume import Array

CT_WINDOW_HU = (-300.0, 400.0)
HEIGHT_INCHES = 4.0
COLUMNS = 4


def picture_sheet(cases: Sequence[Case], path: Path) -> None:
    """Write a PNG: per case a coronal projection (SUV 0 to 10, inverse grey), the same with its tumours, and its CT.

    Raises
    ------
    MissingPackageError : matplotlib is not installed.
    """
    rows = -(-len(cases) // COLUMNS)
    figure = new_figure(figsize=(2.1 * 3 * COLUMNS, HEIGHT_INCHES * rows), dpi=80)
    axes = figure.subplots(rows, 3 * COLUMNS, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for index, case in enumerate(cases):
        projection, lesions, slice_, aspect = _views(case)
        shown = {"origin": "lower", "aspect": aspect, "interpolation": "bilinear"}
        first, second, third = axes[3 * index : 3 * index + 3]
        first.imshow(projection, cmap="gray_r", vmin=0, vmax=MAX_SUV, **shown)
        first.set_title(case.name, fontsize=7)
        second.imshow(projection, cmap="gray_r", vmin=0, vmax=MAX_SUV, **shown)
        if lesions.any():
            second.contour(lesions, levels=[0.5], colors=[LESION_COLOUR], linewidths=0.7)
        low, high = CT_WINDOW_HU
        third.imshow(slice_, cmap="gray", vmin=low, vmax=high, **shown)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.97, 0.02, 0.06)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _views(case: Case) -> tuple[Array, Array, Array, float]:
    """Projection, projected tumours, a coronal CT slice (air without CT), all (z, x), and the voxels' aspect."""
    suv = case.suv.canonical()
    warm = suv.array > 0.15
    columns, rows = np.flatnonzero(warm.any(axis=(0, 1))), np.flatnonzero(warm.any(axis=(0, 2)))
    across = slice(int(columns[0]), int(columns[-1]) + 1)
    box = suv.array[:, :, across]
    lesions = np.zeros(box.shape[::2], np.uint8)
    if case.lesions is not None:
        lesions = case.lesions.canonical().array[:, :, across].max(axis=1)
    slice_ = np.full((box.shape[0], box.shape[2]), AIR_HU)
    if case.ct is not None:
        middle = int(0.45 * rows[0] + 0.55 * rows[-1])
        slice_ = case.ct.canonical().array[:, middle, across]
    dz, _, dx = suv.geometry.spacing_mm
    return box.max(axis=1), lesions, slice_, dz / dx
