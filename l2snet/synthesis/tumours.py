"""Real tumours to paste: their outline and uptake, cut from study folders (SUV and SEG)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from l2snet.errors import InputError
from l2snet.sources.autopet import LESIONS, SUV
from l2snet.sources.folders import walk
from l2snet.synthesis.drawing import Spacing
from l2snet.volume import Array, read_volume

# Of an anatomical outline, what takes up less than this share of the hottest part is not tumour on PET.
MIN_SHARE = 0.15
MIN_ML = 2.0


@dataclass(frozen=True)
class Tumour:
    """SUV over its 98th percentile, and the mask (0 or 1), (z, y, x) float32, in a tight box."""

    name: str
    relative: Array
    mask: Array
    spacing_mm: Spacing
    volume_ml: float


def read_tumours(root: Path, leave_out: set[str]) -> list[Tumour]:
    """The tumours of all study folders under `root` whose names are not in `leave_out`, in order of name.

    Raises
    ------
    InputError : there is none.
    """
    found = []
    for folder in sorted(place for place, _, names in walk(root) if SUV in names):
        if folder.name in leave_out or not (folder / LESIONS).is_file():
            continue
        found += _cut(folder)
    if not found:
        raise InputError(f"no tumour was found under {root}: expected study folders that hold {SUV} and {LESIONS}")
    return found


def _cut(folder: Path) -> list[Tumour]:
    suv = read_volume(folder / SUV, "PET").canonical()
    mask = read_volume(folder / LESIONS, "lesion mask").to_grid(suv.geometry, outside=0.0, nearest=True).array > 0
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box or box[0] is None or mask.sum() * suv.geometry.voxel_ml < MIN_ML:
        return []
    inside = mask[box[0]]
    values = suv.array[box[0]].astype(np.float32)
    top = float(np.percentile(values[inside], 98))
    inside = inside & (ndimage.gaussian_filter(values, 0.7) > MIN_SHARE * top)
    if not inside.any():
        return []
    return [
        Tumour(
            folder.name,
            np.pad(np.clip(values / top, 0, 1.3), 1, mode="edge"),
            np.pad(inside.astype(np.float32), 1),
            suv.geometry.spacing_mm,
            float(inside.sum() * suv.geometry.voxel_ml),
        )
    ]
