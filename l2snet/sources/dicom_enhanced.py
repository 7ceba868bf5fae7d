"""Enhanced (multi-frame) PET and CT: a header a frame, with the fields that classic files of one slice each have.

Two kinds are met: made so by the scanner, or converted from classic files (which keeps their fields, DICOM PS3.3 A.70).
The scanner's own say otherwise what SUV needs: units by a code (real world values), corrections by YES and NO, the
moment of the decay correction itself, and the dose in MBq.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileDataset

from l2snet.errors import InputError
from l2snet.sources.suv import MIN_DOSE_BQ, OFFSET, local_moment

PET_IMAGE, CT_IMAGE = "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.2"
SCANNER_S_PET = "1.2.840.10008.5.1.4.1.1.130"
# Made so by the scanner, and converted from classic files.
ENHANCED = {
    PET_IMAGE: frozenset({SCANNER_S_PET, "1.2.840.10008.5.1.4.1.1.128.1"}),
    CT_IMAGE: frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}),
}
# Functional groups whose fields a classic header has at its top.
GROUPS = (
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
)
FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames")
# UCUM codes of real world values to Units of a classic PET.
UNITS = {"Bq/ml": "BQML", "g/ml": "GML", "g/ml{SUVbw}": "GML", "{SUVbw}g/ml": "GML"}
CORRECTIONS = {
    "AttenuationCorrected": "ATTN",
    "DecayCorrected": "DECY",
    "ScatterCorrected": "SCAT",
    "RandomsCorrected": "RAN",
    "DeadTimeCorrected": "DTIM",
}


def frames(header: Dataset) -> tuple[Dataset, ...]:
    """A header a frame of an enhanced PET or CT, numbered by ReferencedFrameNumber; any other header as it is.

    Raises
    ------
    InputError : an enhanced file does not describe its frames.
    """
    if not any(header.get("SOPClassUID") in classes for classes in ENHANCED.values()):
        return (header,)
    shared, items = (header.get(FRAMES[0]) or [Dataset()])[0], header.get(FRAMES[1])
    if not items:
        name = Path(str(getattr(header, "filename", ""))).name
        raise InputError(f"{FRAMES[1]} is missing in {name}, which is multi-frame; export the series again")
    return tuple(_frame(header, (shared, item), number) for number, item in enumerate(items, start=1))


def copied(header: Dataset) -> Dataset:
    """A header of its own with the same elements: pydicom's copies share theirs."""
    other = FileDataset("", {}, file_meta=getattr(header, "file_meta", None))
    other.filename = header.get("filename", getattr(header, "filename", ""))
    other.update(header)
    return other


def _frame(header: Dataset, groups: tuple[Dataset, ...], number: int) -> Dataset:
    flat = copied(header)
    for keyword in FRAMES:
        if keyword in flat:
            del flat[keyword]
    for group in groups:
        for keyword in GROUPS:
            if group.get(keyword):
                flat.update(group[keyword][0])
    # After the loop: it stands in for PixelValueTransformation, whichever of the groups either is in.
    mappings = [mapping for group in groups[::-1] for mapping in group.get("RealWorldValueMappingSequence") or []]
    _real_world(flat, mappings)
    if flat.get("SOPClassUID") in ENHANCED[PET_IMAGE]:
        _times(flat)
    if flat.get("SOPClassUID") == SCANNER_S_PET:
        _dose(flat)
    if "CorrectedImage" not in flat:
        flat.CorrectedImage = [name for keyword, name in CORRECTIONS.items() if flat.get(keyword) == "YES"]
    flat.ReferencedFrameNumber = number
    return flat


def _real_world(flat: Dataset, mappings: Sequence[Dataset]) -> None:
    """Units, and the line from stored values to them, of the first mapping whose units are those of a PET."""
    for mapping in mappings:
        codes = mapping.get("MeasurementUnitsCodeSequence") or [Dataset()]
        units = UNITS.get(str(codes[0].get("CodeValue", "")))
        if units and "Units" not in flat and "RealWorldValueSlope" in mapping:
            flat.Units = units
            flat.RescaleSlope, flat.RescaleIntercept = (
                f"{mapping.get(keyword, 0.0):.10g}" for keyword in ("RealWorldValueSlope", "RealWorldValueIntercept")
            )


def _times(flat: Dataset) -> None:
    """Dates and times of a classic PET; the moment that decay was corrected to stands for series and acquisition."""
    if "DecayCorrection" not in flat and flat.get("DecayCorrected"):
        flat.DecayCorrection = "START" if flat.DecayCorrected == "YES" else "NONE"
    if flat.get("DecayCorrected") == "YES" and flat.get("DecayCorrectionDateTime"):
        for name in ("Series", "Acquisition"):
            _set_moment(flat, name, "DecayCorrectionDateTime")
    elif flat.get("FrameAcquisitionDateTime") and not flat.get("AcquisitionTime"):
        _set_moment(flat, "Acquisition", "FrameAcquisitionDateTime")
    if flat.get("FrameAcquisitionDuration") and not flat.get("ActualFrameDuration"):
        flat.ActualFrameDuration = round(float(flat.FrameAcquisitionDuration))


def _dose(flat: Dataset) -> None:
    """The dose in Bq, as a classic PET has it, on injections of its own.

    By DICOM PS3.3 C.8.22.4 it is in MBq; some makers write Bq. What would be too little for an image in Bq is in MBq.
    """
    injections = []
    for item in flat.get("RadiopharmaceuticalInformationSequence") or []:
        injection = Dataset()
        injection.update(item)
        with suppress(ValueError, TypeError):  # it is missing or no number, which SUV will say
            dose = float(item.get("RadionuclideTotalDose"))
            if dose < MIN_DOSE_BQ:
                injection.add_new("RadionuclideTotalDose", "DS", f"{1e6 * dose:.10g}")
        injections.append(injection)
    if injections:
        flat.add_new("RadiopharmaceuticalInformationSequence", "SQ", injections)


def _set_moment(flat: Dataset, name: str, keyword: str) -> None:
    """From a field of date and time; one with an offset is turned into the header's, as the injection's is.

    Where the header has none, this one becomes the header's, so that an injection of another is turned into it.
    """
    local = str(flat[keyword].value).strip()
    offset = OFFSET.search(local)
    if offset is not None:
        if not flat.get("TimezoneOffsetFromUTC"):
            flat.TimezoneOffsetFromUTC = offset.group()
        local = f"{local_moment(local, keyword, str(flat.TimezoneOffsetFromUTC)):%Y%m%d%H%M%S.%f}"
    setattr(flat, f"{name}Date", local[:8])
    setattr(flat, f"{name}Time", local[8:])
