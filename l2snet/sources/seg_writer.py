"""Lesions and their probability as DICOM SEG, by highdicom: a segment a lesion, frames where the PET has them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from l2snet.measure.lesions import Lesion
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
from l2snet.volume import Array

# The probability is stored in so many steps: a byte.
FRACTIONS = 255
RED = CIELabColor(53.2, 80.1, 67.2)


def write_seg(labels: Array, lesions: tuple[Lesion, ...], reference: Reference, author: Author, path: Path) -> Path:
    """A binary SEG with a segment a lesion; without lesions, one segment that is empty.

    Parameters
    ----------
    labels : (z, y, x) the lesions by number, in order of the reference's slices.

    Raises
    ------
    OutputError : it cannot be written.
    """
    uids = tracking_uids(labels, reference, author)
    described = [_segment(n.number, f"Lesion {n.number}", author, uids[n.number]) for n in lesions]
    described = described or [_segment(1, "No lesion", author)]
    return write_dicom(lambda: _segmentation(labels, described, reference, author, "seg"), path)


def write_fractional_seg(probability: Array, reference: Reference, author: Author, path: Path) -> Path:
    """A fractional SEG of one segment: the network's probability of lesion, in steps of 1/255.

    Parameters
    ----------
    probability : (z, y, x) 0 to 1, in order of the reference's slices.

    Raises
    ------
    OutputError : it cannot be written.
    """
    described = [_segment(1, "Lesion probability", author)]
    values = np.clip(probability, 0.0, 1.0).astype(np.float32)[..., None]
    return write_dicom(lambda: _segmentation(values, described, reference, author, "fractional"), path)


def _segmentation(
    array: Array, described: list[SegmentDescription], reference: Reference, author: Author, kind: str
) -> Segmentation:
    fractional = kind == "fractional"
    array = np.ascontiguousarray(reference.in_file_order(array))
    uid = reference.headers[0].SeriesInstanceUID
    types = SegmentationTypeValues
    return Segmentation(
        source_images=list(reference.images),
        pixel_array=array,
        segmentation_type=types.FRACTIONAL if fractional else types.BINARY,
        fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=FRACTIONS,
        segment_descriptions=described,
        series_instance_uid=result_uid(uid, author.method, author.version, kind, "series"),
        series_number=SERIES_NUMBERS[kind],
        sop_instance_uid=result_uid(uid, author.method, author.version, kind, sha256(array.data).hexdigest()),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        software_versions=author.version,
        device_serial_number=SERIAL,
        content_label="PROBABILITY" if fractional else "LESIONS",
        content_description=f"Lesion {'probability' if fractional else 'mask'} by {author.method}",
        series_description=f"L2SNet lesion {'probability' if fractional else 'mask'}",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _segment(number: int, label: str, author: Author, uid: UID | None = None) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=CATEGORY,
        segmented_property_type=LESION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=author.method, family=codes.DCM.ArtificialIntelligence, version=author.version
        ),
        display_color=RED,
        tracking_id=None if uid is None else label,
        tracking_uid=uid,
    )
