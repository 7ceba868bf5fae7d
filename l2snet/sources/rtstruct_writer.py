"""Lesions as DICOM RT Structure Set: a region a lesion, its outlines on the PET's slices.

highdicom writes no RTSTRUCT, and the libraries that do round outlines to pixels; so it is made here, by pydicom.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

from l2snet.measure.lesions import Lesion
from l2snet.sources.contours import outlines
from l2snet.sources.dicom_write import (
    CATEGORY,
    LESION,
    MANUFACTURER,
    MODEL,
    SERIAL,
    SERIES_NUMBERS,
    Author,
    Reference,
    result_uid,
    tracking_uids,
    write_dicom,
)
from l2snet.volume import Volume

DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
# Outlines are written to a hundredth of a micrometre; DICOM has room for 16 characters.
DECIMALS = 5
RED = [255, 0, 0]
_COPIED = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "SpecificCharacterSet",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)


def write_rtstruct(
    labels: Volume, lesions: tuple[Lesion, ...], reference: Reference, author: Author, path: Path
) -> Path:
    """A structure set with a region a lesion; without lesions, one region that has no outline.

    Parameters
    ----------
    labels : (z, y, x) the lesions by number, in order of the reference's slices.

    Raises
    ------
    OutputError : it cannot be written.
    """
    return write_dicom(lambda: _structure_set(labels, lesions, reference, author), path)


def _structure_set(labels: Volume, lesions: tuple[Lesion, ...], reference: Reference, author: Author) -> Dataset:
    pet, now = reference.headers[0], datetime.now()  # DICOM's are local
    series = pet.SeriesInstanceUID
    uid = result_uid(series, author.method, author.version, "rtstruct", sha256(labels.array.tobytes()).hexdigest())
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # an explicit VR has room for 64 KiB of an outline
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, uid
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in _COPIED:
        if keyword in pet:
            dataset[keyword] = pet[keyword]
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, uid
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", result_uid(series, author.method, author.version, "rt")
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBERS["rtstruct"], 1
    dataset.SeriesDescription, dataset.StructureSetLabel = "L2SNet lesion outlines", "L2SNet lesions"
    dataset.OperatorsName = ""
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, MODEL
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = author.version, SERIAL
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(reference)]
    numbers = [lesion.number for lesion in lesions] or [1]
    dataset.StructureSetROISequence = [_region(n, bool(lesions), pet, author) for n in numbers]
    boxes = ndimage.find_objects(labels.array, max_label=numbers[-1])
    dataset.ROIContourSequence = [_contours(n, box, labels, reference) for n, box in zip(numbers, boxes, strict=True)]
    uids = tracking_uids(labels.array, reference, author)
    dataset.RTROIObservationsSequence = [_observation(n, uids[n] if lesions else None) for n in numbers]
    return dataset


def _frame_of_reference(reference: Reference) -> Dataset:
    pet = reference.headers[0]
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = pet.SeriesInstanceUID
    series.ContourImageSequence = [_image(image) for image in reference.images]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = DETACHED_STUDY, pet.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = pet.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _region(number: int, found: bool, pet: Dataset, author: Author) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ReferencedFrameOfReferenceUID = number, pet.FrameOfReferenceUID
    item.ROIName = f"Lesion {number}" if found else "No lesion"
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{author.method} {author.version}"
    return item


def _contours(number: int, box: tuple[slice, slice, slice] | None, labels: Volume, reference: Reference) -> Dataset:
    """A region's outlines; `box` is where it lies, None where there is none."""
    item = Dataset()
    item.ROIDisplayColor, item.ReferencedROINumber = RED, number
    if box is None:
        return item
    contours: list[Dataset] = []
    for z, inside in enumerate(labels.array[box] == number, start=box[0].start):
        for outline in outlines(inside):
            y, x = outline[:, 1] + box[1].start, outline[:, 0] + box[2].start
            points = labels.geometry.world(np.column_stack([np.full(len(outline), z), y, x]))
            contour = Dataset()
            contour.ContourImageSequence = [_image(reference.headers[z])]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(outline)
            contour.ContourNumber = len(contours) + 1
            contour.ContourData = [f"{v:.{DECIMALS}f}" for v in points.ravel()]
            contours.append(contour)
    item.ContourSequence = contours
    return item


def _observation(number: int, tracking: str | None) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    item.RTROIIdentificationCodeSequence = [_code(LESION)]
    item.SegmentedPropertyCategoryCodeSequence = [_code(CATEGORY)]
    if tracking is not None:
        item.TrackingID, item.TrackingUID = f"Lesion {number}", tracking
    return item


def _image(header: Dataset) -> Dataset:
    """A reference to a slice: its file, and its frame there."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    frame: Any = header.get("ReferencedFrameNumber")
    if frame:
        item.ReferencedFrameNumber = int(frame)
    return item


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item
