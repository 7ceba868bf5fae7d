"""What every DICOM result has in common: who made it, what it refers to, and how it is written."""

from __future__ import annotations

import hashlib
import logging
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DS
from scipy import ndimage

from l2snet import __version__
from l2snet.errors import OutputError, reason
from l2snet.files import aside_of
from l2snet.sources.dicom_enhanced import copied
from l2snet.sources.dicom_file import read_header
from l2snet.sources.dicom_series import Stack
from l2snet.volume import Array

MANUFACTURER, MODEL, SERIAL = "The L2SNet developers", "L2SNet", "0"
# Results come after the scanner's own series.
SERIES_NUMBERS = {"seg": 9001, "fractional": 9002, "rtstruct": 9003, "sr": 9004}
CATEGORY, LESION = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion
# Fields of patient and study that a result must have, empty where the PET has none.
NEVER_MISSING = (
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PositionReferenceIndicator",
)
UTF_8 = "ISO_IR 192"
# Characters of a DICOM text, and of a short one.
LONGEST_TEXT, LONGEST_ID = 64, 16


@dataclass(frozen=True)
class Author:
    """What made a result: the method's name and a text (its weights' hash) that tells its results from others'."""

    method: str
    weights: str

    @property
    def version(self) -> str:
        """Program and weights, in short."""
        return f"{__version__} {self.weights[:12]}".strip()[:LONGEST_TEXT]


@dataclass(frozen=True)
class Reference:
    """The PET that results refer to: what its files say, and which of their frames is which slice of the array.

    Attributes
    ----------
    images : one a slice in order of the array, or the only one where they are frames of one file; no pixels.
    frames : (z,) for each frame of a multi-frame file, in its order, the slice of the array; None for single files.
    headers : one a slice, in order of the array.
    """

    images: tuple[Dataset, ...]
    frames: Array | None
    headers: tuple[Dataset, ...]

    @classmethod
    def of(cls, stack: Stack) -> Reference:
        """The images of a series; headers of multi-frame files are read again, whole.

        Raises
        ------
        InputError : the file has gone.
        """
        numbers = [int(header.get("ReferencedFrameNumber") or 0) for header in stack.headers]
        with _quiet(), disable_value_validation():
            headers = tuple(_completed(header, stack) for header in stack.headers)
            if not any(numbers):
                return cls(headers, None, headers)
            image = read_header(Path(str(stack.headers[0].filename)))
            return cls((_completed(image, stack),), np.argsort(numbers), headers)

    def in_file_order(self, array: Array) -> Array:
        """(z, ...) voxels as the images and their frames come."""
        ordered: Array = array if self.frames is None else array[self.frames]
        return ordered


def _completed(header: Dataset, stack: Stack) -> Dataset:
    """A copy with what an anonymised PET may lack, and results must have, its texts in UTF-8."""
    whole = copied(header)
    _decode(whole)
    if whole.get("SpecificCharacterSet"):
        whole.add_new("SpecificCharacterSet", "CS", UTF_8)  # as an attribute, the header's own would change too
    elif "SpecificCharacterSet" in whole:
        del whole.SpecificCharacterSet
    if not whole.get("SliceThickness"):
        whole.SliceThickness = DS(stack.geometry.spacing_mm[0], auto_format=True)
    for keyword in NEVER_MISSING:
        if keyword not in whole:
            setattr(whole, keyword, "")
    whole.StudyID = str(whole.StudyID or "")[:LONGEST_ID]  # some anonymisers' is too long for DICOM
    return whole


def _decode(dataset: Dataset) -> None:
    """Read every text by the character sets that the header names, not all of which can be written by highdicom."""
    for tag in list(dataset.keys()):
        with suppress(ValueError, TypeError, struct.error, BytesLengthException):  # damaged: perhaps nobody needs it
            element = dataset[tag]
            for item in element.value if element.VR == "SQ" else ():
                _decode(item)


def result_uid(*parts: object) -> UID:
    """A UID drawn from what makes a result what it is: the same input gives the same one."""
    text = "|".join(map(str, parts))
    return generate_uid(entropy_srcs=[hashlib.sha256(text.encode()).hexdigest()])


def tracking_uids(labels: Array, reference: Reference, author: Author) -> list[UID]:
    """The tracking UID of all lesions together, then of each by number: one for SEG, RTSTRUCT and SR.

    Other voxels are another lesion, whatever its number.

    Parameters
    ----------
    labels : (z, y, x) the lesions by number, in order of the reference's slices.
    """
    parts = [hashlib.sha256((labels > 0).tobytes()).hexdigest()]
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == number
        parts.append(f"{[side.start for side in box]}|{inside.shape}|{hashlib.sha256(inside.tobytes()).hexdigest()}")
    uid = reference.headers[0].SeriesInstanceUID
    return [result_uid(uid, author.method, author.version, "lesion", n, part) for n, part in enumerate(parts)]


def write_dicom(make: Callable[[], Dataset], path: Path) -> Path:
    """Make a DICOM object and write it, aside first and then renamed.

    Raises
    ------
    OutputError : it cannot be made of these images, or not be written; the sentence says which.
    """
    aside = aside_of(path)
    try:
        with _quiet(), disable_value_validation():
            dataset: Any = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(aside, enforce_file_format=True)
        aside.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({reason(error)}); choose a folder with rights and space"
        ) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise OutputError(
            f"{path} cannot be made of the PET's header ({reason(error)}); correct it, or choose another --format"
        ) from error
    finally:
        with suppress(OSError):
            aside.unlink()
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without highdicom's messages and warnings, which hold names and UIDs of the patient's files."""
    log = logging.getLogger("highdicom")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
