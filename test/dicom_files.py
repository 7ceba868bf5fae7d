"""Tiny DICOM studies made on the fly: a PET, a CT and a SEG of a few voxels whose SUV is worked out by hand.

The PET is 8 x 6 x 5 voxels (x, y, z) of 4 x 4 x 3 mm. 70 kg and 280 MBq, injected at 10:00:00; half-life 6600 s.
The series begins at 11:50:00, a half-life later: SUV = 70000 g / 140 MBq = 5e-4 per Bq/ml. All slices were
acquired 660 s later, a tenth of a half-life more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage
from pydicom.uid import SegmentationStorage as SegStorage

Array = NDArray[Any]

STUDY, FRAME = "1.2.3", "1.2.3.9"
PET_UID, CT_UID, SEG_UID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PET_SHAPE, PET_SPACING, PET_ORIGIN = (5, 6, 8), (3.0, 4.0, 4.0), (-14.0, -10.0, -600.0)
CT_SHAPE, CT_SPACING, CT_ORIGIN = (7, 10, 10), (2.5, 2.0, 2.0), (-9.0, -9.0, -601.0)
QIBA_FACTOR = 5e-4
CHALLENGE_FACTOR = 5e-4 * 2**0.1


def activity() -> Array:
    """(z, y, x) stored PET values; with the slope (slice + 1) they stay below a hot spot of 20000 Bq/ml."""
    stored = np.full(PET_SHAPE, 1000, dtype=np.int16)
    stored[2, 3, 4] = 7000
    return stored


def hounsfield() -> Array:
    """(z, y, x) stored CT values, with an intercept of -1024: water, and padding far below air in a corner."""
    stored = np.full(CT_SHAPE, 1024, dtype=np.int16)
    stored[:, :2, :2] = -2000
    stored[:, 8:, 8:] = 1024 - 1000
    return stored


def lesion() -> Array:
    mask = np.zeros(PET_SHAPE, dtype=np.uint8)
    mask[2:4, 3, 4] = 1
    mask[1, 0, 0] = 1
    return mask


def write_pet(folder: Path, stored: Array | None = None, **changes: Any) -> list[Path]:
    """One file a slice; names run from foot to head, InstanceNumber from head to foot. Slope: slice + 1."""
    injection = Dataset()
    injection.RadionuclideTotalDose = "280000000"
    injection.RadionuclideHalfLife = "6600"
    injection.RadiopharmaceuticalStartTime = "100000.00"
    fields: dict[str, Any] = {
        "Modality": "PT",
        "SOPClassUID": PositronEmissionTomographyImageStorage,
        "SeriesInstanceUID": PET_UID,
        "SeriesDescription": "PET WB",
        "Units": "BQML",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "DecayCorrection": "START",
        "SeriesDate": "20200101",
        "SeriesTime": "115000",
        "AcquisitionDate": "20200101",
        "AcquisitionTime": "120100",
        "ActualFrameDuration": "120000",
        "PatientWeight": "70",
        "RadiopharmaceuticalInformationSequence": [injection],
    }
    values = activity() if stored is None else stored
    slopes = [float(n + 1) for n in range(len(values))]
    return write_slices(folder, values, PET_ORIGIN, PET_SPACING, fields | changes, slopes, intercept=0.0)


def write_ct(folder: Path, stored: Array | None = None, origin: tuple[float, ...] = CT_ORIGIN, **changes: Any) -> None:
    fields = {
        "Modality": "CT",
        "SOPClassUID": CTImageStorage,
        "SeriesInstanceUID": CT_UID,
        "SeriesDescription": "CT WB",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }
    values = hounsfield() if stored is None else stored
    write_slices(folder, values, origin, CT_SPACING, fields | changes, [1.0] * len(values), intercept=-1024.0)


def write_slices(
    folder: Path,
    stored: Array,
    origin: tuple[float, ...],
    spacing: tuple[float, float, float],
    fields: dict[str, Any],
    slopes: list[float],
    intercept: float,
) -> list[Path]:
    paths = []
    for n, pixels in enumerate(stored):
        path = folder / f"1-{n + 1:03}.dcm"
        dataset = new_file(path, fields["SOPClassUID"], f"{fields['SeriesInstanceUID']}.{n + 1}")
        dataset.ImageOrientationPatient = list(AXIAL)
        dataset.PixelSpacing = [spacing[1], spacing[2]]
        dataset.ImagePositionPatient = [origin[0], origin[1], origin[2] + n * spacing[0]]
        dataset.InstanceNumber = len(stored) - n
        dataset.RescaleSlope, dataset.RescaleIntercept = slopes[n], intercept
        set_pixels(dataset, pixels)
        for keyword, value in fields.items():
            setattr(dataset, keyword, value[n] if isinstance(value, tuple) else value)
        save(dataset, path)
        paths.append(path)
    return paths


def write_seg(
    folder: Path,
    mask: Array | None = None,
    *more: Array,
    reverse: bool = False,
    spacing: tuple[float, float, float] = PET_SPACING,
    **changes: Any,
) -> Path:
    """A binary SEG with a frame for every slice of the PET that holds lesion; `reverse` turns its rows round.

    Every mask is a segment: "Lesion", "Lesion 2" and so on.
    """
    masks = [lesion() if mask is None else mask, *more]
    used = [(n, z) for n, values in enumerate(masks) for z in range(len(values)) if values[z].any()] or [(0, 0)]
    dataset = new_file(folder / "1-1.dcm", SegStorage, SEG_UID + ".1")
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SegmentationType = "SEG", SEG_UID, "BINARY"
    dataset.SeriesDescription = "Segmentation"
    referred, shared, measures, orientation = Dataset(), Dataset(), Dataset(), Dataset()
    segments = [Dataset() for _ in masks]
    for n, segment in enumerate(segments, start=1):
        segment.SegmentNumber, segment.SegmentLabel = n, "Lesion" if n == 1 else f"Lesion {n}"
    referred.SeriesInstanceUID = PET_UID
    measures.PixelSpacing = [spacing[1], spacing[2]]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, -1, 0] if reverse else list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    dataset.SegmentSequence, dataset.ReferencedSeriesSequence = segments, [referred]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    rows = PET_SHAPE[1]
    for n, z in reversed(used):  # frames come in any order
        item, position, of = Dataset(), Dataset(), Dataset()
        y = PET_ORIGIN[1] + (rows - 1) * spacing[1] if reverse else PET_ORIGIN[1]
        position.ImagePositionPatient = [PET_ORIGIN[0], y, PET_ORIGIN[2] + z * spacing[0]]
        of.ReferencedSegmentNumber = n + 1
        item.PlanePositionSequence, item.SegmentIdentificationSequence = [position], [of]
        dataset.PerFrameFunctionalGroupsSequence.append(item)
    frames = np.stack([masks[n][z, ::-1] if reverse else masks[n][z] for n, z in reversed(used)])
    dataset.NumberOfFrames = len(frames)
    set_pixels(dataset, frames)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    dataset.PixelData = pack_bits(frames.ravel())
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    save(dataset, folder / "1-1.dcm")
    return folder / "1-1.dcm"


def write_study(folder: Path, study: str = STUDY, patient: str = "PETCT_1", **pet_changes: Any) -> Path:
    """A whole study in PATIENT/STUDY/SERIES folders; returns the study's."""
    ids = {"StudyInstanceUID": study, "PatientID": patient}
    write_pet(folder / "1-PET", **ids, **pet_changes)
    write_ct(folder / "2-CT", **ids)
    write_seg(folder / "3-SEG", **ids)
    return folder


def new_file(path: Path, storage: str, uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ExplicitVRLittleEndian,
        storage,
        uid,
    )
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = storage, uid
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID, dataset.PatientID = STUDY, FRAME, "PETCT_1"
    return dataset


def set_pixels(dataset: Dataset, pixels: Array) -> None:
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = pixels.astype("<i2").tobytes()


def save(dataset: FileDataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
