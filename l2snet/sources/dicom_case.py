"""One study in DICOM as a case: which series was taken and why, PET in SUV, CT on its grid, the patient's body."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2snet.case import AIR_HU, Case
from l2snet.errors import InputError
from l2snet.sources.dicom import (
    check_wanted,
    choose_ct,
    choose_pet,
    find_dicom_studies,
    passed_over,
    passed_over_note,
    read_series,
)
from l2snet.sources.dicom_series import Series, Stack, missing_slices, pet_header, read_ct, read_pet, stack
from l2snet.sources.suv import TimeConvention
from l2snet.subject import Subject

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomCase:
    """A case, and what of its headers results need.

    Attributes
    ----------
    pet : the PET's slices, to which results refer.
    subject : weight, height and sex, as far as the PET says.
    record : what was chosen and why, for the manifest; holds UIDs and numbers, no name.
    notes : what a reader of the result should know, for the manifest; neither names nor UIDs.
    """

    case: Case
    pet: Stack
    subject: Subject
    record: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID; empty where the record is without."""
        return str(self.record.get("study_uid", ""))


def read_dicom_case(
    folder: Path,
    convention: TimeConvention = TimeConvention.qiba,
    wanted: Collection[str] = (),
    pet_only: bool = False,
    strict: bool = True,
) -> DicomCase:
    """The one study under a folder, whatever else is there; named by the folder.

    The CT is brought onto the PET's grid (linear, air outside).

    Parameters
    ----------
    convention : the moment that the PET is taken to be corrected to, see `TimeConvention`.
    wanted : SeriesInstanceUIDs that decide where the study offers several.
    strict : the study must have all that are wanted; else they may be of other studies.

    Raises
    ------
    InputError : there is no study or more than one, a choice is open, or a series cannot be used.
    """
    studies = find_dicom_studies(folder, patients_once=False)
    if len(studies) > 1:
        places = ", ".join(str(study.folders[0].relative_to(folder)) for study in studies[:3])
        raise InputError(
            f"{folder} holds {len(studies)} DICOM studies ({places}, ...); give the folder of one, or use l2snet cohort"
        )
    (study,) = studies
    series = read_series(study)
    lost = _lost(passed_over(study, series))
    if strict:
        check_wanted(series, wanted)
    pet_series = choose_pet(series, wanted)
    _, suv, factors = read_pet(pet_series, convention)
    record: dict[str, Any] = {
        "study_uid": study.uid,
        "pet_series": pet_series.uid,
        "suv_factor": [min(factors.values), max(factors.values)],
        "suv_rule": factors.rule,
    }
    logger.info("PET: %s, attenuation corrected%s; SUV by %s", pet_series, _named(pet_series, wanted), factors.rule)
    doubt = missing_slices(pet_series)
    if doubt:
        logger.warning("%s", doubt)
    ct = None
    if not pet_only:
        ct_series, covered = choose_ct(series, pet_series, suv.geometry, wanted)
        ct = read_ct(ct_series).to_grid(suv.geometry, outside=AIR_HU)
        record |= {"ct_series": ct_series.uid, "ct_covers": round(covered, 3)}
        why = _named(ct_series, wanted) or ", in the PET's frame of reference"
        logger.info("CT: %s, covers %.0f%% of the PET%s; resampled to its grid", ct_series, 100 * covered, why)
    return DicomCase(
        Case(folder.resolve().name, suv, ct),
        stack(pet_series, "PET"),
        pet_header(pet_series.first).subject,
        record,
        tuple(note for note in (lost, doubt) if note),
    )


def _lost(paths: Sequence[Path]) -> str | None:
    """A sentence where there are files that cannot be read; their names, maybe patients', are in the log alone."""
    if not paths:
        return None
    note = passed_over_note(paths)
    logger.info("cannot be read: %s", ", ".join(path.name for path in paths[:3]))
    logger.warning("warning: %s", note)
    return note


def _named(series: Series, wanted: Collection[str]) -> str:
    return ", named by --series" if series.uid in wanted else ""
