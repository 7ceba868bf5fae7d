"""A DICOM SEG as a mask on an image's grid; every segment counts as lesion."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from l2snet.errors import InputError, reason
from l2snet.sources.dicom_file import read_whole
from l2snet.volume import SAME_GRID_VOXELS, Array, Geometry, Volume

# A voxel of a fractional segmentation is lesion from half of the highest value on.
FRACTION = 0.5


@dataclass(frozen=True)
class Segmentation:
    """A binary mask (uint8) and the labels of the segments that it joins."""

    mask: Volume
    labels: tuple[str, ...]


def read_segmentation(path: Path, grid: Geometry) -> Segmentation:
    """The union of a DICOM SEG's segments on `grid`.

    Frames lie where their own position says, in any order, plane and sense of the axes; frames without lesion may be
    missing, as DICOM allows. Values are moved, never interpolated.

    Raises
    ------
    InputError : the file cannot be read, or its frames do not lie on `grid`, to a tenth of a voxel.
    """
    try:
        dataset = read_whole(path)
        labels = tuple(str(item.get("SegmentLabel", "")) for item in dataset.SegmentSequence)
        frames = _lesion_frames(dataset)
        mask = np.zeros(grid.size, dtype=np.uint8)
        for frame, item in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            _place(mask, frame, _plane(dataset, item), grid)
    except InputError as error:
        raise InputError(f"the DICOM SEG {path.name} {error}") from error
    except (RuntimeError, ValueError, AttributeError, KeyError, IndexError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"the DICOM SEG {path.name} cannot be read: {reason(error)}; download it again") from error
    return Segmentation(Volume(mask, grid), labels)


@dataclass(frozen=True)
class _Plane:
    """Where a frame lies: its first pixel, and the steps (mm) to the next row and column."""

    position_mm: Array
    row_step_mm: Array
    column_step_mm: Array


def _plane(dataset: Dataset, item: Dataset) -> _Plane:
    """From a frame's own functional groups, or those that all frames share."""
    cosines = np.array(_group(dataset, item, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
    spacing = np.array(_group(dataset, item, "PixelMeasuresSequence").PixelSpacing, dtype=float)
    position = np.array(_group(dataset, item, "PlanePositionSequence").ImagePositionPatient, dtype=float)
    return _Plane(position, cosines[3:] * spacing[0], cosines[:3] * spacing[1])


def _group(dataset: Dataset, item: Dataset, keyword: str) -> Any:
    for place in (item, dataset.SharedFunctionalGroupsSequence[0]):
        if keyword in place:
            return place[keyword][0]
    raise AttributeError(f"{keyword} is missing")


def _lesion_frames(dataset: Dataset) -> Array:
    """(frames, rows, columns) bool."""
    frames: Array = dataset.pixel_array
    frames = frames.reshape((-1, *frames.shape[-2:]))
    if dataset.get("SegmentationType") != "FRACTIONAL":
        return frames > 0
    return frames >= FRACTION * float(dataset.MaximumFractionalValue)


def _place(mask: Array, frame: Array, plane: _Plane, grid: Geometry) -> None:
    """Write a frame's lesion pixels into `mask`, which lies on `grid`."""
    pixels = np.argwhere(frame)
    if not len(pixels):
        return
    to_index = np.linalg.inv(grid.affine[:3, :3])
    steps = to_index @ np.stack([plane.row_step_mm, plane.column_step_mm], axis=1)
    index = (to_index @ (plane.position_mm - np.asarray(grid.origin_mm)))[None] + pixels @ steps.T
    nearest = np.rint(index).astype(int)
    unit = np.abs(np.rint(steps)).sum(axis=0).tolist() == [1, 1]
    inside = (nearest >= 0).all() and (nearest < np.array(grid.size)).all()
    if not (unit and inside and np.abs(index - nearest).max() <= SAME_GRID_VOXELS):
        raise InputError(
            f"has a frame at {np.round(plane.position_mm, 2).tolist()} mm that is not on the PET's grid ({grid}); "
            "expected a segmentation of this PET: name another with --series UID"
        )
    mask[tuple(nearest.T)] = 1
