"""The TCIA download (DICOM PET, CT and SEG) to the study folders of autoPET."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path

from l2snet.case import AIR_HU, Case
from l2snet.errors import InputError
from l2snet.prepare.run import Job, Outcome, Prepared, Record, compact, prepare_all
from l2snet.sources import autopet
from l2snet.sources.dicom import (
    DicomStudy,
    choose_ct,
    choose_pet,
    choose_segmentation,
    find_dicom_studies,
    has_segmentation,
    passed_over,
    passed_over_note,
    read_series,
)
from l2snet.sources.dicom_seg import read_segmentation
from l2snet.sources.dicom_series import Series, read_ct, read_pet
from l2snet.sources.suv import TimeConvention
from l2snet.volume import Geometry, Volume

logger = logging.getLogger(__name__)

PET = "PET.nii.gz"


def prepare_autopet(
    root: Path,
    out: Path,
    convention: TimeConvention,
    mask_optional: bool = False,
    wanted: Collection[str] = (),
    workers: int = 1,
) -> list[Outcome]:
    """Make OUT/PATIENT/STUDY/{SUV,CTres,CT,PET,SEG}.nii.gz and prepare.json of every study under `root`.

    Parameters
    ----------
    mask_optional : prepare a study without DICOM SEG too (no SEG.nii.gz is written).
    wanted : SeriesInstanceUIDs that decide where a study offers several.

    Raises
    ------
    InputError : there is no DICOM file under `root`.
    L2SNetError : a study failed; the others are done.
    """
    jobs = []
    for study in find_dicom_studies(root):
        folder = out / study.patient / study.name
        options = (convention, mask_optional, frozenset(wanted))
        settings, make = partial(identify, study, *options), partial(convert, study, folder, *options)
        jobs.append(Job(f"{study.patient}/{study.name}", folder, folder / autopet.SUV, settings, make))
    return prepare_all(jobs, out, workers)


def identify(study: DicomStudy, convention: TimeConvention, mask_optional: bool, wanted: Collection[str]) -> Record:
    """What must be the same for a prepared study to be kept; headers are read where an option depends on them.

    Raises
    ------
    InputError : a folder also holds files of another study.
    """
    series = read_series(study) if mask_optional or wanted else []
    return {
        "source": "dicom",
        "study": study.uid,
        "time_convention": str(convention),
        "series": sorted({s.uid for s in series} & set(wanted)),  # what is wanted of another study plays no part
        "mask": not mask_optional or has_segmentation(series),
    }


def convert(
    study: DicomStudy, folder: Path, convention: TimeConvention, mask_optional: bool, wanted: Collection[str]
) -> Prepared:
    """One study: PET to SUV, CT onto the PET's grid (linear, air outside), SEG to a mask.

    Files among its images that cannot be read are a warning, and a note of the record.

    Raises
    ------
    InputError : the study cannot be used; the sentence says why.
    """
    series = read_series(study)
    lost = passed_over(study, series)
    if lost:
        logger.warning("warning: %s/%s: %s", study.patient, study.name, passed_over_note(lost, named=True))
    pet_series = choose_pet(series, wanted)
    pet, suv, factors = read_pet(pet_series, convention)
    ct_series, overlap = choose_ct(series, pet_series, suv.geometry, wanted)
    seg_series = choose_segmentation(series, pet_series, wanted)
    if seg_series is None and not mask_optional:
        raise InputError("the study has no DICOM SEG; download it, or prepare without masks by --mask-optional")
    mask, seg_record = _mask(seg_series, suv.geometry)
    ct = read_ct(ct_series)
    resampled = ct.to_grid(suv.geometry, outside=AIR_HU)
    Case(study.name, suv, resampled, mask)  # refuses what cannot be SUV or HU
    volumes = {
        **({folder / autopet.LESIONS: mask} if mask is not None else {}),
        folder / autopet.CT: compact(ct),
        folder / autopet.CT_RESAMPLED: resampled,
        folder / PET: pet,
        folder / autopet.SUV: suv,  # last: training looks for this one
    }
    record = {
        "study_uid": study.uid,
        "pet": _record(pet_series) | {"units": str(pet_series.first.get("Units"))},
        "suv_factor": [min(factors.values), max(factors.values)],
        "suv_rule": factors.rule,
        "ct": _record(ct_series) | {"covers": round(overlap, 3)},
        "seg": seg_record,
        "notes": [passed_over_note(lost)] if lost else [],
    }
    return Prepared(volumes, record)


def _mask(series: Series | None, grid: Geometry) -> tuple[Volume | None, Record]:
    if series is None:
        return None, {}
    found = read_segmentation(Path(str(series.first.filename)), grid)
    lesion_ml = round(int(found.mask.array.sum()) * grid.voxel_ml, 3)
    return found.mask, _record(series) | {"labels": list(found.labels), "lesion_ml": lesion_ml}


def _record(series: Series) -> Record:
    return {"uid": series.uid, "files": len(series.headers)}
