"""DICOM in: folders to studies, studies to series, and which of these are the PET, its CT and its SEG.

Which series is the PET and which its CT is decided from the headers (attenuation correction, frame of reference,
overlap), never from names; a choice that the headers leave open is an error that lists the candidates.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.misc import is_dicom

from l2snet.case import MIN_SLICES
from l2snet.errors import InputError
from l2snet.sources.dicom_enhanced import CT_IMAGE, ENHANCED, PET_IMAGE, frames
from l2snet.sources.dicom_file import read_header
from l2snet.sources.dicom_series import Series, stack
from l2snet.sources.files import MIN_OVERLAP, check_covers
from l2snet.sources.folders import walk
from l2snet.volume import Geometry

logger = logging.getLogger(__name__)

PET, CT, SEG = "PT", "CT", "SEG"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
# The list of what is on a disc, by this name in the standard (PS3.10): DICOM, and no image.
DIRECTORY = "DICOMDIR"
# Scouts and projections have the storage class of slices.
NO_SLICES = {"LOCALIZER", "MIP", "PROJECTION IMAGE"}
# Two CTs that cover the PET alike are two reconstructions of one scan.
SAME_OVERLAP = 0.05


@dataclass(frozen=True)
class DicomStudy:
    """The folders that hold one study; `patient` and `name` are the folder names that results are filed under."""

    uid: str
    patient: str
    name: str
    folders: tuple[Path, ...]


def find_dicom_studies(root: Path, patients_once: bool = True) -> list[DicomStudy]:
    """The studies under `root`, also through links, in order of patient and name; a header of every folder is read.

    A study takes its name, and its patient's, from its folders (PATIENT/STUDY/SERIES, as the TCIA's downloader lays
    them out). Where there is one folder alone, it gives both; where `root` is the study's, it gives the patient's, and
    StudyInstanceUID the study's. PatientID names nothing.

    Parameters
    ----------
    patients_once : refuse folders that make several patients of one PatientID.

    Raises
    ------
    InputError : there is no DICOM file, or a patient is refused.
    """
    folders: dict[str, list[Path]] = defaultdict(list)
    patients: dict[str, str] = {}
    for folder, _, names in walk(root):
        header = _first_header(folder, names)
        if header is not None:
            uid = str(header.get("StudyInstanceUID", ""))
            folders[uid].append(folder)
            patients[uid] = str(header.get("PatientID") or "")
    if not folders:
        raise InputError(f"no DICOM file was found under {root}; expected PATIENT/STUDY/SERIES folders of them")
    studies = []
    taken: set[tuple[str, str]] = set()
    for uid, found in sorted(folders.items()):
        parts = Path(os.path.commonpath(found)).relative_to(root).parts
        patient = parts[-2:][0] if parts else root.resolve().name or uid
        name = parts[-1] if parts and (patient, parts[-1]) not in taken else uid
        taken.add((patient, name))
        studies.append(DicomStudy(uid, patient, name, tuple(sorted(found))))
    if patients_once:
        _check_patients(studies, patients)
    return sorted(studies, key=lambda study: (study.patient, study.name))


def first_study_uid(folder: Path, deep: bool = True) -> str | None:
    """StudyInstanceUID of the first image of a study in a folder, at any depth or there alone; None without any."""
    for place, folders, names in walk(folder):
        folders[:] = sorted(folders) if deep else []
        header = _first_header(place, names)
        if header is not None:
            return str(header.get("StudyInstanceUID", ""))
    return None


def check_wanted(series: Sequence[Series], wanted: Collection[str]) -> None:
    """Refuse series that a study does not have.

    Raises
    ------
    InputError : lists those that it has.
    """
    unknown = sorted(set(wanted) - {s.uid for s in series})
    if unknown:
        raise InputError(f"there is no series {unknown[0]} in the study; expected one of {_listed(series)}")


def _check_patients(studies: Sequence[DicomStudy], patients: Mapping[str, str]) -> None:
    """Refuse one patient under two names, who would be trained and tested on; `patients` are PatientIDs by study."""
    names: dict[str, str] = {}
    for study in studies:
        patient = patients[study.uid]
        if patient and names.setdefault(patient, study.patient) != study.patient:
            raise InputError(
                f"one PatientID is in the folders {names[patient]} and {study.patient}; expected "
                "PATIENT/STUDY/SERIES, one folder a patient: move these studies into one, or give every patient an ID"
            )


def read_series(study: DicomStudy) -> list[Series]:
    """Every series of a study, headers alone, in order of UID.

    Raises
    ------
    InputError : a folder also holds files of another study.
    """
    series: dict[str, list[Dataset]] = defaultdict(list)
    for folder in study.folders:
        for path in sorted(p for p in folder.iterdir() if p.is_file()):
            header = _header(path)
            if header is None:
                continue
            if str(header.get("StudyInstanceUID", "")) != study.uid:
                raise InputError(f"{folder} holds files of more than one study; give every study a folder of its own")
            series[str(header.get("SeriesInstanceUID", ""))].extend(frames(header))
    return [Series(uid, tuple(headers)) for uid, headers in sorted(series.items())]


def passed_over(study: DicomStudy, series: Sequence[Series]) -> list[Path]:
    """The files among a study's images that should be images and are none: empty, cut off, damaged or without rights.

    What is hidden, or by its first bytes and name of another kind, is litter.

    Parameters
    ----------
    series : all that were read of the study.
    """
    read = {str(header.filename) for one in series for header in one.headers}
    files = (path for folder in study.folders for path in sorted(folder.iterdir()) if path.is_file())
    suffixes = {".dcm"} | {Path(name).suffix.lower() for name in read}
    return [path for path in files if str(path) not in read and _should_be_image(path, suffixes)]


def passed_over_note(paths: Sequence[Path], named: bool = False) -> str:
    """The sentence that says so; with the first files' names, which may be patients', only where it is asked for."""
    names = f" ({', '.join(path.name for path in paths[:3])}{', ...' if len(paths) > 3 else ''})" if named else ""
    return f"passed over {len(paths)} file(s) among the DICOM images that cannot be read{names}: is the copy complete?"


def choose_pet(series: Sequence[Series], wanted: Collection[str]) -> Series:
    """The attenuation-corrected PET; `wanted` are UIDs that decide where there are several.

    Raises
    ------
    InputError : there is none, or more than one.
    """
    pets = _wanted(_images(series, PET, PET_IMAGE), wanted)
    corrected = [s for s in pets if "ATTN" in _texts(s.first, "CorrectedImage")]
    if pets and not corrected:
        raise InputError(
            f"no PET is attenuation corrected (CorrectedImage without ATTN; found: {', '.join(map(str, pets))}); SUV "
            "needs one that is"
        )
    return _only(corrected, "attenuation-corrected PET")


def choose_ct(series: Sequence[Series], pet: Series, grid: Geometry, wanted: Collection[str]) -> tuple[Series, float]:
    """The CT in the PET's frame of reference that covers most of its slices, and that share (0 to 1).

    Raises
    ------
    InputError : there is none, none makes a stack, none covers half of the PET along every axis, or two cover it alike.
    """
    cts = _wanted(_images(series, CT, CT_IMAGE), wanted)
    frame = pet.first.get("FrameOfReferenceUID")
    same = [s for s in cts if (frame and s.first.get("FrameOfReferenceUID") == frame) or s.uid in wanted]
    if cts and not same:
        found = (
            "no CT is in the PET's frame of reference"
            if frame
            else "the PET has no FrameOfReferenceUID to find a CT by"
        )
        raise InputError(
            f"{found}: {_listed(cts)}; if one is aligned with the PET all the same, name it with --series UID"
        )
    overlaps: list[tuple[float, Series, Geometry]] = []
    refused: list[InputError] = []
    for s in same:
        try:
            geometry = stack(s, "CT").geometry
            overlaps.append((geometry.covered(grid)[0], s, geometry))  # along the slice normal
        except InputError as error:  # such as the images of one place that wait for a contrast bolus
            logger.info("left out: %s", error)
            refused.append(error)
    if refused and not overlaps:
        raise refused[0]
    best = max((share for share, *_ in overlaps), default=0.0)
    chosen = _only([s for share, s, _ in overlaps if share >= best - SAME_OVERLAP], "CT that covers the PET")
    if best < MIN_OVERLAP:
        raise InputError(
            f"the CT ({chosen}) covers {best:.0%} of the PET's slices; expected at least {MIN_OVERLAP:.0%}"
        )
    check_covers(chosen, next(geometry for _, s, geometry in overlaps if s is chosen), grid)
    return chosen, best


def choose_segmentation(series: Sequence[Series], pet: Series, wanted: Collection[str]) -> Series | None:
    """The DICOM SEG that refers to the PET, or the one that refers to nothing; None where there is none at all.

    Raises
    ------
    InputError : there are several, or all refer to other series.
    """
    found = [s for s in series if _is_segmentation(s)]
    if not found:
        return None
    chosen = (
        [s for s in found if s.uid in wanted]
        or [s for s in found if pet.uid in _referred(s)]
        or [s for s in found if not _referred(s)]
    )
    if not chosen:
        raise InputError(
            f"no DICOM SEG refers to the PET ({pet}): {_listed(found)}; if one is of this PET all the same, name it "
            "with --series UID, else take it away"
        )
    only = _only(chosen, "DICOM SEG")
    if len(only.headers) > 1:
        raise InputError(f"the DICOM SEG has {len(only.headers)} files; expected one: take the outdated ones away")
    return only


def has_segmentation(series: Sequence[Series]) -> bool:
    """Whether there is a DICOM SEG, of whichever image."""
    return any(map(_is_segmentation, series))


def _is_segmentation(series: Series) -> bool:
    return bool(series.first.get("SOPClassUID") == SEGMENTATION)


def _images(series: Sequence[Series], modality: str, storage: str) -> list[Series]:
    return [
        s
        for s in series
        if s.first.get("Modality") == modality
        and s.first.get("SOPClassUID") in {storage, *ENHANCED[storage]}
        and not NO_SLICES & set(_texts(s.first, "ImageType"))
        and len(s.headers) >= MIN_SLICES
    ]


def _wanted(series: list[Series], wanted: Collection[str]) -> list[Series]:
    return [s for s in series if s.uid in wanted] or series


def _only(series: Sequence[Series], what: str) -> Series:
    if not series:
        raise InputError(f"there is no {what} in the study; expected one: is the download complete?")
    if len(series) > 1:
        raise InputError(f"there is more than one {what}: {_listed(series)}; name one with --series UID")
    return series[0]


def _listed(series: Sequence[Series]) -> str:
    return ", ".join(s.candidate for s in series)


def _referred(series: Series) -> set[str]:
    return {str(item.SeriesInstanceUID) for item in series.first.get("ReferencedSeriesSequence") or []}


def _texts(header: Dataset, keyword: str) -> list[str]:
    value: Any = header.get(keyword) or []
    return [value] if isinstance(value, str) else [str(text) for text in value]


def _first_header(folder: Path, names: Sequence[str]) -> Dataset | None:
    headers = (_header(folder / name) for name in sorted(names))
    return next((header for header in headers if header is not None), None)


def _should_be_image(path: Path, suffixes: Set[str]) -> bool:
    if path.name.startswith(".") or path.stem.upper() == DIRECTORY:
        return False
    if path.suffix.lower() == ".dcm" or not os.access(path, os.R_OK) or is_dicom(path):
        return True
    return path.stat().st_size == 0 and path.suffix.lower() in suffixes


def _header(path: Path) -> Dataset | None:
    """A file's header without pixels; None for what is no image of a study (other files, DICOMDIR)."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with disable_value_validation():
            header = read_header(path)
    except (
        *(InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, struct.error, zlib.error),
        RecursionError,  # sequences within sequences, without end
    ):
        return None
    return header if "StudyInstanceUID" in header and "SeriesInstanceUID" in header else None
