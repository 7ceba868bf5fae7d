"""The lesion table as a DICOM structured report (TID 1500, by highdicom): coded numbers, each of a segment of a SEG."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from highdicom.sr import (
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from l2snet.measure import patient
from l2snet.measure.lesions import Lesion
from l2snet.measure.table import AXES
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

PROCEDURE = Code("82918005", "SCT", "Positron emission tomography")
GRAM, SQUARE_CM, PER_M = Code("g", "UCUM", "gram"), Code("cm2", "UCUM", "square centimeter"), Code("/m", "UCUM", "/m")
# What DICOM and SNOMED have no code for.
OURS = "99L2SNET"
CENTROID = tuple(Code(f"centroid-{axis[:1]}", OURS, f"Centroid, mm towards {axis}") for axis in AXES)
DMAX = Code("dmax", OURS, "Largest distance between the centroids of two lesions")
SDMAX = Code("sdmax", OURS, "Largest distance between lesions in m over body surface in m2")
# SUV by body weight, lean body mass (Janmahasatian) and body surface: unit, method, and the unit of TLG.
SUV = {
    "bw": (codes.UCUM.StandardizedUptakeValueBodyWeight, codes.DCM.SUVBodyWeightCalculationMethod, GRAM),
    "lbm": (
        codes.UCUM.StandardizedUptakeValueLeanBodyMassJanma,
        codes.DCM.SUVLeanBodyMassCalculationJanmahasatianMethod,
        GRAM,
    ),
    "bsa": (
        codes.UCUM.StandardizedUptakeValueBodySurfaceArea,
        codes.DCM.SUVBodySurfaceAreaCalculationMethod,
        SQUARE_CM,
    ),
}


def write_sr(measured: patient.Measurement, seg: Dataset, reference: Reference, author: Author, path: Path) -> Path:
    """A report with a group of measurements a lesion, and one of the patient.

    Parameters
    ----------
    seg : the DICOM SEG of the same lesions, without pixels.

    Raises
    ------
    OutputError : it cannot be written.
    """
    return write_dicom(lambda: _report(measured, seg, reference, author), path)


def _report(measured: patient.Measurement, seg: Dataset, reference: Reference, author: Author) -> Dataset:
    series = reference.headers[0].SeriesInstanceUID
    device = DeviceObserverIdentifyingAttributes(
        uid=result_uid(author.method, author.version, "device"), name=MODEL, manufacturer_name=MANUFACTURER
    )
    observer = ObserverContext(codes.DCM.Device, device)
    every, *uids = tracking_uids(measured.labels.array, reference, author)
    groups = [
        _lesion_group(a, measured.suv_type, seg, reference, b) for a, b in zip(measured.lesions, uids, strict=True)
    ]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=PROCEDURE,
        imaging_measurements=[*groups, _patient_group(measured, every)],
        title=codes.DCM.ImagingMeasurementReport,
        # highdicom lists the images of classic files alone.
        referenced_images=list(reference.images) if reference.frames is None else None,
    )
    text = repr((measured.lesions, measured.burden, measured.suv_type))
    return Comprehensive3DSR(
        evidence=[*reference.images, seg],
        content=content[0],
        series_instance_uid=result_uid(series, author.method, author.version, "sr", "series"),
        series_number=SERIES_NUMBERS["sr"],
        sop_instance_uid=result_uid(seg.SOPInstanceUID, "sr", sha256(text.encode()).hexdigest()),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        series_description="L2SNet lesion table",
        manufacturer_model_name=MODEL,
        software_versions=author.version,
        device_serial_number=SERIAL,
    )


def _lesion_group(
    lesion: Lesion, suv_type: str, seg: Dataset, reference: Reference, uid: UID
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    numbers = [
        Measurement(codes.SCT.Volume, lesion.volume_ml, codes.UCUM.CubicCentimeter),
        _suv(lesion.suv_max, codes.SCT.Maximum, suv_type),
        _suv(lesion.suv_mean, codes.SCT.Mean, suv_type),
        _suv(lesion.suv_peak, codes.DCM.PeakValueWithinROI, suv_type),
        Measurement(codes.DCM.TotalLesionGlycolysis, lesion.tlg, SUV[suv_type][2]),
        Measurement(
            codes.SCT.Diameter, lesion.longest_diameter_mm, codes.UCUM.Millimeter, derivation=codes.SCT.Maximum
        ),
        *(
            Measurement(code, value, codes.UCUM.Millimeter)
            for code, value in zip(CENTROID, lesion.centroid_mm, strict=True)
        ),
    ]
    if lesion.probability is not None:
        numbers.append(
            Measurement(codes.DCM.Probability, lesion.probability, codes.UCUM.NoUnits, derivation=codes.SCT.Mean)
        )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier=f"Lesion {lesion.number}"),
        referenced_segment=ReferencedSegment(
            seg.SOPClassUID,
            seg.SOPInstanceUID,
            lesion.number,
            source_series=SourceSeriesForSegmentation(reference.headers[0].SeriesInstanceUID),
        ),
        finding_category=CATEGORY,
        finding_type=LESION,
        measurements=numbers,
    )


def _patient_group(measured: patient.Measurement, uid: UID) -> MeasurementsAndQualitativeEvaluations:
    burden, total = measured.burden, codes.SCT.Total
    numbers = [
        Measurement(codes.SCT.NumberOfLesions, burden.lesions, codes.UCUM.NoUnits),
        Measurement(codes.SCT.Volume, burden.tmtv_ml, codes.UCUM.CubicCentimeter, derivation=total),
        Measurement(codes.DCM.TotalLesionGlycolysis, burden.tlg, SUV[measured.suv_type][2], derivation=total),
    ]
    if burden.suv_max is not None:
        numbers.append(_suv(burden.suv_max, codes.SCT.Maximum, measured.suv_type))
    if burden.dmax_mm is not None:
        numbers.append(Measurement(DMAX, burden.dmax_mm, codes.UCUM.Millimeter))
    if burden.sdmax_per_m is not None:
        numbers.append(Measurement(SDMAX, burden.sdmax_per_m, PER_M))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier="All lesions"),
        finding_category=CATEGORY,
        finding_type=LESION,
        finding_sites=[FindingSite(codes.SCT.EntireBody)],
        measurements=numbers,
    )


def _suv(value: float, derivation: Code, suv_type: str) -> Measurement:
    unit, method, _ = SUV[suv_type]
    return Measurement(codes.DCM.StandardizedUptakeValue, value, unit, derivation=derivation, method=method)
