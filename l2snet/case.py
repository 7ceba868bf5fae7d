"""A case: one PET, its CT and, in training, its lesions, on one grid, checked once and by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from l2snet.errors import InputError
from l2snet.volume import Array, Geometry, Volume

AIR_HU = -1024.0
MIN_SLICES = 2
# A body's median SUV is about 0.5 to 3; the same body in Bq/ml has 500 to 10000.
MAX_BODY_MEDIAN_SUV = 100.0
# Nothing in a body imaged after FDG stays this cold: such a PET was scaled to something else than SUV.
MIN_HOTTEST_SUV = 0.2
# Reconstruction leaves small negative values; a CT goes down to -1000.
MIN_COLDEST_SUV = -50.0
# HU of a body run from air or fat (below -50) to bone; scaled or shifted CTs do not.
MIN_CT_RANGE_HU = 200.0
MAX_COLDEST_CT_HU = -20.0
MAX_BODY_MEDIAN_HU = 500.0
# What some converters add to HU to have no negative numbers; a body's median is within 300 HU of water.
SHIFT_HU = 1024.0
MAX_FROM_WATER_HU = 300.0


@dataclass(frozen=True)
class Case:
    """PET in SUV, CT in HU and a lesion mask, all on the PET's grid.

    Attributes
    ----------
    name : the CT's uuid or the study folder's name; results are filed under it.
    suv : PET in SUV (body weight).
    ct : CT in HU on the PET's grid; None when only a PET is to be used.
    lesions : binary mask on the PET's grid; None outside training and evaluation.
    organs : labels of `l2snet.organs.OrganClass` on the PET's grid; None but for training with them.
    notes : what was doubtful or set right when it was read, for the manifest.

    Raises
    ------
    InputError : grids differ, an axis has a single slice, the PET cannot be SUV, or the CT cannot be HU.
    """

    name: str
    suv: Volume
    ct: Volume | None = None
    lesions: Volume | None = None
    organs: Volume | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.suv.geometry.size) < MIN_SLICES:
            raise InputError(
                f"the PET is one slice thick ({self.suv.geometry}); expected a volume of at least "
                f"{MIN_SLICES} slices along every axis"
            )
        check_suv(self.suv.array)
        for what, volume in (("CT", self.ct), ("lesion mask", self.lesions), ("organ map", self.organs)):
            if volume is not None and not volume.geometry.matches(self.suv.geometry):
                remedy = "; use --resample-ct to bring the CT onto the PET's grid" if what == "CT" else ""
                raise InputError(
                    f"the {what} ({volume.geometry}) is not on the PET's grid ({self.suv.geometry}){remedy}"
                )
        if self.ct is not None:
            check_ct(self.ct.array, self.suv.array)

    @property
    def geometry(self) -> Geometry:
        """The PET's grid, on which results are given."""
        return self.suv.geometry


def check_suv(array: Array) -> None:
    """Refuse (z, y, x) voxels that cannot be SUV.

    Raises
    ------
    InputError : says what was found.
    """
    hottest, coldest = float(array.max()), float(array.min())
    if not math.isfinite(hottest) or not math.isfinite(coldest):  # one NaN makes both NaN
        raise InputError("the PET has voxels that are not a number or infinite; expected SUV: convert the PET again")
    if hottest <= 0:
        raise InputError(
            f"the PET has no positive voxel (highest {hottest:g}); expected SUV, which is positive in the body"
        )
    if coldest < MIN_COLDEST_SUV:
        raise InputError(
            f"the PET's lowest value is {coldest:.4g}; expected SUV, which is not negative: is this the CT?"
        )
    if hottest < MIN_HOTTEST_SUV:
        raise InputError(
            f"the PET's highest value is {hottest:.3g}; expected SUV, which is above 1 somewhere in any body"
        )
    median = float(np.median(array[_body(array)]))
    if median > MAX_BODY_MEDIAN_SUV:
        raise InputError(
            f"the PET's median over the body is {median:.4g}, which looks like Bq/ml; expected SUV (about 1): "
            "convert it with the patient's weight and injected dose"
        )
    if coldest == hottest:
        raise InputError(f"every voxel of the PET is {hottest:g}; expected a body and air around it")


def check_ct(array: Array, suv: Array) -> None:
    """Refuse (z, y, x) voxels that cannot be HU; `suv` on the same grid tells where the body is.

    Raises
    ------
    InputError : says what was found.
    """
    low, high = float(array.min()), float(array.max())
    remedy = "give the CT in HU, or leave it out with --pet-only"
    if not math.isfinite(low) or not math.isfinite(high):
        raise InputError(f"the CT has voxels that are not a number or infinite; {remedy}")
    if high - low < MIN_CT_RANGE_HU:
        raise InputError(f"the CT's values span {low:.4g} to {high:.4g}, too little for HU; {remedy}")
    if low > MAX_COLDEST_CT_HU:
        raise InputError(
            f"the CT's lowest value is {low:.4g}; in HU fat and air are negative: was 1024 added? {remedy}"
        )
    median = float(np.median(array[_body(suv)]))
    if median > MAX_BODY_MEDIAN_HU:
        raise InputError(f"the CT's median over the body is {median:.4g}; in HU it is near 0: was 1024 added? {remedy}")


def is_shifted(array: Array, suv: Array) -> bool:
    """Whether (z, y, x) voxels of a CT that `check_ct` refuses are HU but for `SHIFT_HU` added."""
    body = _body(suv)
    if not body.any() or abs(float(np.median(array[body])) - SHIFT_HU) > MAX_FROM_WATER_HU:
        return False
    try:
        check_ct(array - np.float32(SHIFT_HU), suv)
    except InputError:
        return False
    return True


def _body(suv: Array) -> Array:
    """A rough body, whatever the unit: voxels above the mean, or all positive ones of a constant image."""
    warm: Array = suv > suv.mean()
    return warm if warm.any() else suv > 0
