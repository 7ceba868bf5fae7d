"""One input folder of any kind: the container's layout, a study folder in NIfTI, or DICOM."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from l2snet.case import Case
from l2snet.errors import InputError, MissingPackageError
from l2snet.sources import autopet, challenge
from l2snet.sources.files import read_case
from l2snet.sources.folders import walk
from l2snet.sources.suv import TimeConvention

if TYPE_CHECKING:
    from l2snet.sources.dicom_case import DicomCase

# Where every DICOM file says that it is one.
DICOM_MARK, DICOM_AT = b"DICM", 128


class Kind(StrEnum):
    """What a folder holds."""

    container = "container"
    nifti = "nifti"
    dicom = "dicom"


@dataclass(frozen=True)
class Reading:
    """How folders are read.

    Attributes
    ----------
    pet_only : do without a CT.
    resample_ct : bring a CT on another grid onto the PET's; DICOM's always is.
    convention, series : of DICOM, see `l2snet.sources.dicom_case.read_dicom_case`.
    """

    pet_only: bool = False
    resample_ct: bool = False
    convention: TimeConvention = TimeConvention.qiba
    series: Collection[str] = ()


@dataclass(frozen=True)
class Source:
    """A case, and its DICOM headers where it came from DICOM."""

    case: Case
    dicom: DicomCase | None = None


def kind_of(folder: Path) -> Kind | None:
    """What a folder holds, by the names and first bytes of files; None where it is nothing known."""
    if (folder / challenge.INPUTS).is_file():
        return Kind.container
    return kind_of_images(folder) or (Kind.dicom if has_dicom(folder) else None)


def kind_of_images(folder: Path) -> Kind | None:
    """What a folder holds where its images lie at the places of the container or of a study; a look at names alone."""
    if (folder / challenge.IMAGES / challenge.PET).is_dir():
        return Kind.container
    return Kind.nifti if (folder / autopet.SUV).is_file() else None


def has_dicom(folder: Path, deep: bool = True) -> bool:
    """Whether there is any DICOM file, at any depth and through links, or in the folder itself."""
    places = islice(walk(folder), None if deep else 1)
    return any(is_dicom(place / name) for place, _, names in places for name in sorted(names))


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM; a pipe, which would be waited for, does not."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(DICOM_AT)
            return file.read(len(DICOM_MARK)) == DICOM_MARK
    except OSError:
        return False


def read_input(folder: Path, reading: Reading | None = None, strict: bool = True) -> Source:
    """The case of a folder; a study in NIfTI or DICOM is named by it, the container's by its CT.

    Parameters
    ----------
    strict : a DICOM study must have the series that are asked for; else they may be of others.

    Raises
    ------
    InputError : there is none, or it cannot be used.
    MissingPackageError : it is DICOM, and the extra `dicom` is not installed.
    """
    reading = reading or Reading()
    kind = kind_of(folder)
    if kind is Kind.dicom:
        try:
            from l2snet.sources.dicom_case import read_dicom_case
        except ImportError as error:
            raise MissingPackageError("reading DICOM", "dicom") from error
        found = read_dicom_case(folder, reading.convention, reading.series, reading.pet_only, strict)
        return Source(found.case, found)
    if kind is Kind.nifti:
        return Source(_study(folder, reading))
    if kind is None and folder.is_dir() and not (folder / challenge.IMAGES).is_dir():
        places = " and ".join(f"{challenge.IMAGES}/{what}" for what in (challenge.PET, challenge.CT))
        raise InputError(
            f"{folder} holds no case; expected {challenge.SUFFIX} files in {places}; or {autopet.SUV} and "
            f"{autopet.CT_RESAMPLED}; or a study in DICOM"
        )
    return Source(challenge.read(folder, reading.pet_only, reading.resample_ct))


def _study(folder: Path, reading: Reading) -> Case:
    resampled = folder / autopet.CT_RESAMPLED
    ct = resampled if resampled.is_file() or not reading.resample_ct else folder / autopet.CT
    case = read_case(folder / autopet.SUV, None if reading.pet_only else ct, reading.resample_ct)
    return replace(case, name=folder.resolve().name)
