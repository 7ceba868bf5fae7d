"""Whose an examination is and when it was made, as far as its headers tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l2snet.sources.dicom_case import DicomCase

DATES = ("AcquisitionDate", "SeriesDate", "StudyDate")


@dataclass(frozen=True)
class Origin:
    """What tells two examinations apart; None is what is not known.

    Attributes
    ----------
    patient : PatientID, to compare and never to print.
    born : PatientBirthDate, as well.
    taken : the day of the PET.
    """

    patient: str | None = field(default=None, repr=False)
    born: str | None = field(default=None, repr=False)
    taken: date | None = None

    def is_of(self, other: Origin) -> bool | None:
        """Whether both are of one patient; None where their headers do not tell."""
        if self.patient is None or other.patient is None:
            return None
        births = {self.born, other.born} - {None}
        return self.patient == other.patient and len(births) < 2


def origin_of(dicom: DicomCase | None) -> Origin:
    """Of a case from DICOM; of any other nothing is known."""
    if dicom is None:
        return Origin()
    header = dicom.pet.headers[0]
    patient, born, *days = (str(header.get(key) or "").strip() for key in ("PatientID", "PatientBirthDate", *DATES))
    return Origin(patient or None, born or None, next(filter(None, map(_day, days)), None))


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text.replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None
