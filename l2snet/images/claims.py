"""What an image file claims to hold, held against its size before a voxel is given room."""

from __future__ import annotations

import math
from collections.abc import Sequence

from l2snet.errors import InputError

# Deflate (.gz, compressed .mha) codes at most 258 bytes by 2 bits: a file cannot hold more than that.
DEFLATE_RATIO = 1032
# 4 GiB as float32, five times the largest total-body PET.
MAX_VOXELS = 2**30


def check_size(size: Sequence[int]) -> None:
    """Refuse a grid that no scanner makes; `size` in any order.

    Raises
    ------
    InputError : its subject is the file; an axis is empty, or there are over `MAX_VOXELS` voxels.
    """
    shown = " x ".join(str(n) for n in size)
    if min(size, default=0) < 1:
        raise InputError(f"an image of {shown} has no voxels; expected at least one along every axis")
    if math.prod(size) > MAX_VOXELS:
        raise InputError(
            f"its header claims {shown} voxels; expected at most {MAX_VOXELS:.2g}, more than any scanner's"
        )


def check_stored(stored: int, expected: int, compressed: bool) -> None:
    """Refuse a file that cannot hold what it claims.

    Parameters
    ----------
    stored, expected : bytes in the file, and of the voxels that its header promises.
    compressed : whether those in the file are deflated.

    Raises
    ------
    InputError : its subject is the file; says both.
    """
    if stored * (DEFLATE_RATIO if compressed else 1) < expected:
        packed = " compressed" if compressed else ""
        raise InputError(
            f"it holds {stored}{packed} bytes of voxels and its header promises {expected}: it was cut off, copy it "
            "again"
        )
