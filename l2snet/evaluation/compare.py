"""Whether the container's output is the expected one: file, header, grid and voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from l2snet.errors import InputError, reason
from l2snet.sources.challenge import OUTPUT, SUFFIX
from l2snet.volume import Array, Volume

# Programs that print coordinates with six digits move the far corner of a body by less than this.
SAME_PLACE_MM = 0.01
# Engines and processors round differently: a few voxels at a threshold may flip.
LEAST_DICE = 0.999
HEADER_BYTES = 1 << 16


def compare_outputs(expected: Path, actual: Path, least_dice: float = LEAST_DICE) -> list[str]:
    """What is wrong with an output folder of the container, in words; empty when it is as expected.

    Parameters
    ----------
    expected : output folder with the right mask; other files in it are not looked at.
    actual : output folder to judge; must hold one file, the mask, under the same name.
    least_dice : Dice that is enough.

    Raises
    ------
    InputError : the expected folder has no mask, or several.
    """
    masks = sorted((expected / OUTPUT).glob(f"*{SUFFIX}"))
    if len(masks) != 1:
        raise InputError(f"{len(masks)} {SUFFIX} files were found in {expected / OUTPUT}; expected one to compare with")
    wanted = masks[0].relative_to(expected)
    found = sorted(path.relative_to(actual) for path in actual.rglob("*") if not path.is_dir())
    if found != [wanted]:
        names = ", ".join(map(str, found)) or "no file"
        return [f"{names} was written; expected {wanted} alone"]
    return compare_masks(masks[0], actual / wanted, least_dice)


def compare_masks(expected: Path, actual: Path, least_dice: float = LEAST_DICE) -> list[str]:
    """What is wrong with a mask, in words: voxel type, values, compression, grid, Dice with the expected one.

    Raises
    ------
    InputError : the expected mask cannot be read.
    """
    right, _ = _read(expected)
    try:
        mask, voxel_type = _read(actual)
    except InputError as error:
        return [str(error)]
    problems = []
    if voxel_type != sitk.sitkUInt8:
        problems.append(f"voxels are {sitk.GetPixelIDValueAsString(voxel_type)}; expected 8-bit unsigned integer")
    values = np.unique(mask.array)
    if not np.isin(values, (0, 1)).all():
        problems.append(f"values {', '.join(f'{v:g}' for v in values[:5])} were found; expected 0 and 1 alone")
    if not is_compressed(actual):
        problems.append("the file is not compressed; expected CompressedData = True in its header")
    if mask.geometry.size != right.geometry.size or _apart_mm(right, mask) > SAME_PLACE_MM:
        problems.append(f"the grid is {mask.geometry}; expected {right.geometry}")
    if mask.geometry.size == right.geometry.size:
        overlap = agreement(right.array, mask.array)
        if overlap < least_dice:
            problems.append(f"Dice with the expected mask is {overlap:.4f}; expected at least {least_dice:g}")
    return problems


def agreement(one: Array, other: Array) -> float:
    """Dice of two (z, y, x) masks that should be the same: 1 when both are empty, unlike the challenge's."""
    one, other = one.astype(bool), other.astype(bool)
    total = int(one.sum()) + int(other.sum())
    return 1.0 if total == 0 else 2.0 * int((one & other).sum()) / total


def is_compressed(path: Path) -> bool:
    """Whether a MetaImage's header says that its voxels are compressed."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES).partition(b"ElementDataFile")[0].decode("latin-1")
    entries = (line.partition("=") for line in header.splitlines())
    return any(key.strip() == "CompressedData" and value.strip().lower() == "true" for key, _, value in entries)


def _read(path: Path) -> tuple[Volume, int]:
    """A mask as it is stored, and SimpleITK's number of its voxel type; `read_volume` would make it float32."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read, is it cut off or damaged? ({reason(error)})") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path} is a {image.GetDimension()}D image with {image.GetNumberOfComponentsPerPixel()} value(s) a voxel; "
            "expected a 3D image with one"
        )
    return Volume.from_sitk(image), image.GetPixelID()


def _apart_mm(one: Volume, other: Volume) -> float:
    """Largest distance between corresponding corners, along one axis."""
    return float(np.abs(one.geometry.corners_mm() - other.geometry.corners_mm()).max())
