"""What a result is worth, written: the lesion table, and the mask in the formats asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2snet.case import Case
from l2snet.errors import MissingPackageError
from l2snet.pipeline import Method, Segmentation
from l2snet.sources.result_writer import Format, check_formats
from l2snet.subject import Subject, SuvType

if TYPE_CHECKING:
    from l2snet.measure.lesions import Rules
    from l2snet.measure.patient import Measurement
    from l2snet.sources.dicom_case import DicomCase


@dataclass(frozen=True)
class Measuring:
    """How a result is measured and written.

    Attributes
    ----------
    formats : beside the container's mask.
    smallest_ml, suv_floor : what counts as lesion, see `l2snet.measure.lesions.Rules`; the mask is thinned so, too.
    suv_type : what SUV is normalised by in the table (and the floor); the network always sees body weight.
    source : the DICOM that the case came from.
    """

    formats: frozenset[Format] = frozenset()
    smallest_ml: float = 0.0
    suv_floor: float = 0.0
    suv_type: SuvType = SuvType.bw
    source: DicomCase | None = None

    @property
    def rules(self) -> Rules:
        """What counts as lesion."""
        from l2snet.measure.lesions import Rules

        return Rules(self.smallest_ml, self.suv_floor)


def check_measuring(measuring: Measuring) -> None:
    """Refuse formats that the source of a case does not give, before it is segmented.

    Raises
    ------
    InputError : see `l2snet.sources.result_writer.check_formats`.
    """
    check_formats(measuring.formats, measuring.source.pet.headers[0] if measuring.source else None)


def write_measured(
    case: Case, result: Segmentation, method: Method, folder: Path, measuring: Measuring
) -> tuple[Segmentation, dict[str, Any]]:
    """Write tables and formats; the result with the mask that the table lists, and entries for the manifest.

    Raises
    ------
    InputError : a format needs DICOM input, or SUV of that type something that is not known of the body.
    OutputError : a file cannot be written.
    MissingPackageError : an extra is not installed.
    """
    from l2snet.measure.table import write_tables
    from l2snet.sources.result_writer import write_formats

    source = measuring.source
    measured = measure_case(case, result, measuring)
    identity = {"case": case.name, **({"study_uid": source.study_uid} if source and source.study_uid else {})}
    write_tables(measured, identity, folder)
    dicom = _dicom(source, method) if source else ()
    write_formats(measuring.formats, measured, result.probability, folder, *dicom)
    record: dict[str, Any] = {
        "measured": {
            "lesions": measured.burden.lesions,
            "smallest_ml": measuring.smallest_ml,
            "suv_floor": measuring.suv_floor,
            "suv_type": str(measuring.suv_type),
        }
    }
    if source:
        record["dicom"] = source.record
    notes = (*result.notes, *source.notes) if source else result.notes
    return replace(result, mask=measured.mask, notes=notes), record


def measure_case(case: Case, result: Segmentation, measuring: Measuring) -> Measurement:
    """The lesions of a result, and their numbers.

    Raises
    ------
    InputError, MissingPackageError : see `write_measured`.
    """
    from l2snet.measure.patient import measure

    subject = measuring.source.subject if measuring.source else Subject()
    scale = subject.suv_scale(measuring.suv_type)
    suv = case.suv if scale == 1.0 else case.suv.with_array(case.suv.array * case.suv.array.dtype.type(scale))
    return measure(result, suv, measuring.rules, subject, measuring.suv_type)


def settings_hash(method: Method) -> str:
    """Sha256 of a method's settings, the hashes of its weights among them: what else made a result."""
    return hashlib.sha256(json.dumps(method.settings, sort_keys=True, default=str).encode()).hexdigest()


def _dicom(source: DicomCase, method: Method) -> tuple[Any, Any]:
    """What DICOM results refer to, and who made them."""
    try:
        from l2snet.sources.dicom_write import Author, Reference
    except ImportError as error:
        raise MissingPackageError("writing DICOM", "dicom") from error
    return Reference.of(source.pet), Author(str(method.settings["method"]), settings_hash(method))
