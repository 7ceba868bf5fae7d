"""A result in the formats asked for: DICOM that refers to the PET it came from, or plain images."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from l2snet.errors import InputError, MissingPackageError
from l2snet.measure.patient import Measurement
from l2snet.volume import Volume, write_volume

if TYPE_CHECKING:
    from pydicom import Dataset

    from l2snet.sources.dicom_write import Author, Reference


class Format(StrEnum):
    """What a result can be written as.

    `seg`: DICOM SEG, a segment a lesion. `fractional`: DICOM SEG of the probability. `rtstruct`: outlines. `sr`: the
    table as a DICOM report (with `seg`, to which it refers). `nifti`, `nrrd`: mask, and lesions by number.
    """

    seg = "seg"
    fractional = "fractional"
    rtstruct = "rtstruct"
    sr = "sr"
    nifti = "nifti"
    nrrd = "nrrd"


OF_DICOM = {Format.seg, Format.fractional, Format.rtstruct, Format.sr}
IMAGES = {Format.nifti: ".nii.gz", Format.nrrd: ".nrrd"}
IMAGE_NAMES = MASK, LESIONS = "mask", "lesions"
FILES = {
    Format.seg: "lesions_seg.dcm",
    Format.fractional: "probability_seg.dcm",
    Format.rtstruct: "lesions_rtstruct.dcm",
    Format.sr: "lesions_sr.dcm",
}


def parse_formats(text: str) -> frozenset[Format]:
    """Formats separated by commas.

    Raises
    ------
    InputError : one of them is not known.
    """
    found = {name.strip().lower() for name in text.split(",") if name.strip()}
    unknown = sorted(found - set(Format))
    if unknown:
        raise InputError(f"--format {unknown[0]!r} is not known; expected some of {', '.join(Format)}")
    return frozenset(Format(name) for name in found)


def check_formats(formats: Collection[Format], pet: Dataset | None) -> None:
    """Refuse formats that cannot be had of a case.

    Parameters
    ----------
    pet : a header of the PET; None where the case came from no DICOM.

    Raises
    ------
    InputError : DICOM is asked for, and there is none to refer to, or its PET has no frame of reference.
    """
    wanted = OF_DICOM & set(formats)
    if wanted and pet is None:
        raise InputError(f"--format {min(wanted)} needs DICOM input, to which it refers; leave it out")
    if wanted and pet is not None and not pet.get("FrameOfReferenceUID"):
        raise InputError(f"--format {min(wanted)} needs the PET's FrameOfReferenceUID, which is missing; leave it out")


def write_formats(
    formats: Collection[Format],
    measured: Measurement,
    probability: Volume,
    folder: Path,
    reference: Reference | None = None,
    author: Author | None = None,
) -> dict[str, Path]:
    """Write a result; the paths by format.

    Parameters
    ----------
    probability : float32, 0 to 1, on the lesions' grid.
    reference, author : of DICOM formats.

    Raises
    ------
    InputError : see `check_formats`.
    OutputError : a file cannot be written.
    MissingPackageError : the extra `dicom` is not installed.
    """
    wanted = OF_DICOM & set(formats)
    check_formats(wanted, reference.headers[0] if reference and author else None)
    written: dict[str, Path] = {}
    for form, suffix in IMAGES.items():
        if form in formats:
            for name, volume in ((MASK, measured.mask), (LESIONS, measured.labels)):
                written[f"{form}_{name}"] = folder / f"{name}{suffix}"
                write_volume(volume, written[f"{form}_{name}"], compress=True)
    if wanted and reference and author:
        written |= _write_dicom(wanted, measured, probability, folder, reference, author)
    return written


def _write_dicom(
    wanted: Collection[Format],
    measured: Measurement,
    probability: Volume,
    folder: Path,
    reference: Reference,
    author: Author,
) -> dict[str, Path]:
    try:
        from pydicom import dcmread

        from l2snet.sources.rtstruct_writer import write_rtstruct
        from l2snet.sources.seg_writer import write_fractional_seg, write_seg
        from l2snet.sources.sr_writer import write_sr
    except ImportError as error:
        raise MissingPackageError("writing DICOM", "dicom") from error
    paths = {form: folder / name for form, name in FILES.items()}
    written: dict[str, Path] = {}
    if Format.seg in wanted or Format.sr in wanted:
        written[Format.seg] = write_seg(measured.labels.array, measured.lesions, reference, author, paths[Format.seg])
    if Format.sr in wanted:
        seg = dcmread(paths[Format.seg], stop_before_pixels=True)
        written[Format.sr] = write_sr(measured, seg, reference, author, paths[Format.sr])
    if Format.fractional in wanted:
        path = paths[Format.fractional]
        written[Format.fractional] = write_fractional_seg(probability.array, reference, author, path)
    if Format.rtstruct in wanted:
        path = paths[Format.rtstruct]
        written[Format.rtstruct] = write_rtstruct(measured.labels, measured.lesions, reference, author, path)
    return written
