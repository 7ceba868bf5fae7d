"""One DICOM series: its slices sorted by position, made sure of to be one upright stack, and read as a Volume."""

from __future__ import annotations

import logging
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

from l2snet.case import AIR_HU, MIN_SLICES
from l2snet.errors import InputError, reason
from l2snet.images.claims import check_size
from l2snet.sources.dicom_file import read_whole
from l2snet.sources.suv import KEYWORDS, PetHeader, SuvFactors, TimeConvention, suv_factors
from l2snet.volume import SAME_GRID_VOXELS, Array, Geometry, Volume

# Cosines are written with six digits.
SAME_ORIENTATION = 1e-4
# Bed joins shift a slice by 0.1 mm; a missing slice doubles a gap.
UNEVEN_FRACTION = 0.15
# Small uneven gaps may add up; beyond half a slice a lesion would move.
MAX_OFF_SLICES = 0.5
PHILIPS, GE = "Philips PET Private Group", "GEMS_PETD_01"
# It logs a traceback for every decoder that fails; what comes of them is told in one sentence.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
_RESCALE = ("RescaleSlope", "RescaleIntercept")


@dataclass(frozen=True)
class Series:
    """One series; `headers` have no pixels, one a slice, and are in order of their files' names (and frames)."""

    uid: str
    headers: tuple[Dataset, ...]

    @property
    def first(self) -> Dataset:
        """The header of the first file."""
        return self.headers[0]

    def __str__(self) -> str:
        """As logs and errors call it: without UID, and without the header's free text."""
        return f"{len(self.headers)} slice{'s' if len(self.headers) > 1 else ''}"

    @property
    def candidate(self) -> str:
        """As it is listed to a user who has to choose, and to nobody else: by its description and UID."""
        description = str(self.first.get("SeriesDescription") or "no description")
        return f"{description!r} ({len(self.headers)} slices, {self.uid})"


@dataclass(frozen=True)
class Stack:
    """The grid of a series, and its headers from the first slice of the array to the last."""

    geometry: Geometry
    headers: tuple[Dataset, ...]


def stack(series: Series, what: str) -> Stack:
    """The grid of a series; slices are sorted by their position along the slice normal.

    Raises
    ------
    InputError : a slice is missing or doubled, or the slices do not make one upright stack (the sentence says where).
    """
    label = f"the {what} ({series})"
    headers = series.headers
    if any(int(_field(header, "NumberOfFrames", label) or 1) > 1 for header in headers):
        raise InputError(f"{label} is multi-frame; expected one file a slice: export it as classic DICOM")
    if len(headers) < MIN_SLICES:
        raise InputError(f"{label} has too few slices; expected at least {MIN_SLICES}")
    cosines = _shared(headers, "ImageOrientationPatient", 6, SAME_ORIENTATION, label)
    spacing_mm = _shared(headers, "PixelSpacing", 2, 1e-4, label)
    size = {tuple(int(_numbers(header, side, 1, label)[0]) for side in ("Rows", "Columns")) for header in headers}
    if len(size) > 1:
        raise InputError(f"{label} has slices of several sizes {sorted(size)}; expected one")
    along_row, along_column = cosines[:3], cosines[3:]
    normal = np.cross(along_row, along_column)
    positions = np.array([_numbers(header, "ImagePositionPatient", 3, label) for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    step_mm = _slice_step_mm(positions[order], normal, min(spacing_mm), label)
    rows, columns = size.pop()
    first = positions[order[0]]
    geometry = Geometry(
        size=(len(headers), rows, columns),
        spacing_mm=(step_mm, float(spacing_mm[0]), float(spacing_mm[1])),  # PixelSpacing is (row, column): y, x
        origin_mm=(float(first[0]), float(first[1]), float(first[2])),
        direction=tuple(tuple(float(c) for c in row) for row in np.stack([normal, along_column, along_row], axis=1)),
    )
    return Stack(geometry, tuple(headers[i] for i in order))


def read_pet(series: Series, convention: TimeConvention) -> tuple[Volume, Volume, SuvFactors]:
    """PET in its own units, the same in SUV, and the factors from the one to the other (in order of file name).

    Raises
    ------
    InputError : the slices make no stack, a pixel array cannot be read, or the header does not give SUV.
    """
    stacked = stack(series, "PET")
    factors = suv_factors([pet_header(header) for header in series.headers], convention)
    by_slice = dict(zip(map(_place, series.headers), factors.values, strict=True))
    values = _voxels(stacked, "PET")
    per_slice = np.array([by_slice[_place(header)] for header in stacked.headers], dtype=np.float32)
    suv = values * per_slice[:, None, None]
    return Volume(values, stacked.geometry), Volume(suv, stacked.geometry), factors


def read_ct(series: Series) -> Volume:
    """CT in HU; what lies below air (the padding outside a scanner's round field) becomes air.

    Raises
    ------
    InputError : the slices make no stack, or a pixel array cannot be read.
    """
    stacked = stack(series, "CT")
    return Volume(np.maximum(_voxels(stacked, "CT"), np.float32(AIR_HU)), stacked.geometry)


def missing_slices(series: Series) -> str | None:
    """A sentence where fewer slices were found than the PET may have by its header; None where there is no doubt.

    By DICOM PS3.3 C.8.9.1 NumberOfSlices is the most that there can be, so that a lack is no proof.
    """
    try:
        told = _field(series.first, "NumberOfSlices", "PET")
    except InputError:  # nothing else hangs on it
        return None
    if not isinstance(told, int) or told <= len(series.headers):
        return None
    return f"the PET has {series}, and its NumberOfSlices is {told}: is the copy complete?"


def _slice_step_mm(positions: Array, normal: Array, pixel_mm: float, label: str) -> float:
    """The distance of neighbouring slices; `positions` (n, 3) in mm, sorted along `normal`."""
    along = positions @ normal
    gaps = np.diff(along)
    step_mm = float((along[-1] - along[0]) / (len(along) - 1))
    usual = float(np.median(gaps))
    doubled = np.flatnonzero(gaps < 1e-3)
    if len(doubled):
        raise InputError(
            f"{label} has {len(doubled) + 1} or more slices at one place, the first at {along[doubled[0]]:.2f} mm; "
            "expected one a position: keep a single phase, and no file twice"
        )
    uneven = np.flatnonzero(np.abs(gaps - usual) > UNEVEN_FRACTION * usual)
    if len(uneven):
        at = int(uneven[0])
        raise InputError(
            f"{label} has a gap of {gaps[at]:.2f} mm after its slice at {along[at]:.2f} mm, and of {usual:.2f} mm "
            "elsewhere; expected even slices: is one missing?"
        )
    even = along[0] + step_mm * np.arange(len(along))
    off = along - even
    at = int(np.abs(off).argmax())
    if abs(off[at]) > MAX_OFF_SLICES * step_mm:
        raise InputError(
            f"{label} has slices at changing distances: its slice at {along[at]:.2f} mm is {off[at]:+.2f} mm off even "
            f"steps of {step_mm:.2f} mm; expected even ones: give a resampled series"
        )
    aside = positions - positions[0] - np.outer(along - along[0], normal)
    if np.abs(aside).max() > SAME_GRID_VOXELS * pixel_mm:
        raise InputError(
            f"{label} is sheared: its slices move sideways by {np.abs(aside).max():.2f} mm, as with a tilted gantry; "
            "expected a stack along the slice normal: resample it first"
        )
    return step_mm


def _voxels(stacked: Stack, what: str) -> Array:
    """(z, y, x) float32, each slice by its own RescaleSlope and RescaleIntercept; a slope of 0 is for empty slices."""
    try:
        check_size(stacked.geometry.size[::-1])
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    voxels = np.empty(stacked.geometry.size, dtype=np.float32)
    file: tuple[Path, Array] | None = None
    lost: list[str] = []
    for target, header in zip(voxels, stacked.headers, strict=True):
        path = Path(str(header.filename))
        slope, intercept = (_numbers(header, k, 1, f"{what} {path.name}")[0] for k in _RESCALE)
        if file is None or file[0] != path:  # all frames of a multi-frame file are decoded at once
            file = path, _stored(path, header, what)
        frames = file[1].reshape(-1, *file[1].shape[-2:])
        _, number = _place(header)
        if frames.shape[1:] != target.shape or number > len(frames):
            promised = f"{target.shape} pixels, frame {number}"
            raise InputError(f"{what} {path.name} cannot be read: {frames.shape}, {promised} promised; copy it again")
        if slope == 0 and frames[number - 1].any():
            lost.append(path.name)
        target[...] = frames[number - 1].astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if lost:
        raise InputError(
            f"the {what} has a RescaleSlope of 0 in {len(lost)} of {len(voxels)} slices, the first {lost[0]}, so that "
            "their pixels have no value; expected another number: export the series again"
        )
    return voxels


def _place(header: Dataset) -> tuple[str, int]:
    """A slice's file, and its frame there."""
    return str(header.filename), int(header.get("ReferencedFrameNumber") or 1)


def _stored(path: Path, header: Dataset, what: str) -> Array:
    """A file's pixels as they are stored, decompressed."""
    try:
        pixels: Array = read_whole(path).pixel_array
    except InputError as error:
        raise InputError(f"{what} {path.name} {error}") from error
    except (RuntimeError, ValueError, AttributeError, OSError, EOFError, struct.error, zlib.error) as error:
        syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        named = "no TransferSyntaxUID" if syntax is None else syntax.name
        raise InputError(
            f"{what} {path.name} ({named}) cannot be read: {reason(error)}; copy it again, or store it uncompressed "
            "(gdcmconv --raw)"
        ) from error
    return pixels


def pet_header(header: Dataset) -> PetHeader:
    """What SUV needs of a slice.

    Raises
    ------
    InputError : it lists several injections, or a number is none.
    """
    injections = header.get("RadiopharmaceuticalInformationSequence") or [Dataset()]
    if len(injections) > 1:
        raise InputError(
            "RadiopharmaceuticalInformationSequence lists several injections; expected one: leave the study out"
        )
    with disable_value_validation():
        values = {keyword: _either(injections[0], header, keyword) for keyword in KEYWORDS.values()}
        values["GEScanDateTime"] = _private(header, 0x0009, GE, 0x0D)
        values["PhilipsSUVScaleFactor"] = _private(header, 0x7053, PHILIPS, 0x00)
        values["PhilipsActivityConcentrationScaleFactor"] = _private(header, 0x7053, PHILIPS, 0x09)
        return PetHeader.from_keywords(values)


def _private(header: Dataset, group: int, creator: str, offset: int) -> str | None:
    """A private field's text, whichever block its maker was given; the first where that names no maker."""
    try:
        value = header.private_block(group, creator)[offset].value
    except KeyError:
        element = None if (group, 0x0010) in header else header.get((group, 0x1000 + offset))
        value = None if element is None else element.value
    return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else value


def _shared(headers: Sequence[Dataset], keyword: str, count: int, tolerance: float, label: str) -> Array:
    """A field of `count` numbers that all slices must agree on."""
    values = np.array([_numbers(header, keyword, count, label) for header in headers])
    if np.ptp(values, axis=0).max() > tolerance:
        raise InputError(f"{label} has slices of different {keyword}; expected one stack: split the series")
    shared: Array = values[0]
    return shared


def _numbers(header: Dataset, keyword: str, count: int, label: str) -> list[float]:
    value = _field(header, keyword, label)
    values = list(value) if isinstance(value, MultiValue) else [value]
    name = Path(str(header.filename)).name
    if len(values) != count or any(v is None or str(v) == "" for v in values):
        raise InputError(f"{label}: {keyword} is missing in {name}; export the series again")
    try:
        numbers = [float(v) for v in values]
    except (ValueError, TypeError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        listed = ", ".join(map(str, values))
        raise InputError(f"{label}: {keyword} is {listed} in {name}; expected numbers: export the series again")
    return numbers


def _either(injection: Dataset, header: Dataset, keyword: str) -> Any:
    value = _field(injection, keyword, "PET")
    return _field(header, keyword, "PET") if value is None else value


def _field(header: Dataset, keyword: str, label: str) -> Any:
    """A field's value, None where there is none; pydicom converts it here, and refuses numbers that are none."""
    try:
        with disable_value_validation():
            return header.get(keyword)
    except (ValueError, TypeError, struct.error, BytesLengthException) as error:
        name = Path(str(getattr(header, "filename", ""))).name
        place = f" in {name}" if name else ""
        raise InputError(
            f"{label}: {keyword} cannot be read{place} ({reason(error)}); correct it, or export the series again"
        ) from error
