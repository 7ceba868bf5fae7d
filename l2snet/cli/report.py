"""`l2snet report`: a case, or a cohort, as a page to read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2snet.cli.extras import require
from l2snet.cli.options import ConventionOption, ResampleOption, SeriesOption
from l2snet.errors import InputError
from l2snet.sources.suv import TimeConvention

if TYPE_CHECKING:
    from l2snet.report.findings import Findings
    from l2snet.sources.inputs import Reading

app = typer.Typer()
# What a report needs (extra `report`), and what it takes more to set it beside a truth (extra `evaluate`).
REPORT = ("jinja2", "matplotlib", "PIL", "cc3d")
TRUTH = "grand_challenge_metrics"


@app.command()
def report(
    context: typer.Context,
    input_folder: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", help="What l2snet predict read; with --pet, leave it out."),
    ] = None,
    result: Annotated[
        Path | None, typer.Argument(metavar="RESULT", help="The folder that l2snet predict wrote, or any mask's file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Page to write (default: report.html in or beside RESULT).")] = None,
    pet: Annotated[Path | None, typer.Option(help="PET file in SUV, instead of INPUT.")] = None,
    ct: Annotated[Path | None, typer.Option(help="CT file in HU, with --pet.")] = None,
    pet_only: Annotated[bool, typer.Option("--pet-only", help="Do without a CT.")] = False,
    resample_ct: ResampleOption = False,
    truth: Annotated[Path | None, typer.Option(help="True mask to compare with (extra: evaluate).")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another mask to compare with, not taken for the truth (extra: evaluate).")
    ] = None,
    earlier: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="INPUT RESULT", help="An earlier examination of the patient.")
    ] = None,
    max_suv: Annotated[float, typer.Option(min=0.1, help="SUV at which projections are darkest.")] = 10.0,
    png: Annotated[bool, typer.Option("--png", help="Write every picture as a file, too.")] = False,
    viewer: Annotated[bool, typer.Option(help="Put the images into the page, to leaf through.")] = True,
    cohort: Annotated[
        Path | None, typer.Option(help="Write cohort.html over the report.html of every case in this folder.")
    ] = None,
    series: SeriesOption = None,
    time_convention: ConventionOption = TimeConvention.qiba,
) -> None:
    """Write a case's report: l2snet report INPUT RESULT, or a cohort's: l2snet report --cohort FOLDER."""
    require("the report", "report", *REPORT)
    if cohort is not None:
        if input_folder is not None or pet is not None:
            raise InputError("--cohort was given with a case; give one of them")
        _check_alone(context)
        from l2snet.report.cohort import write_cohort

        typer.echo(write_cohort(cohort))
        return
    if pet is not None and result is None:
        input_folder, result = None, input_folder
    if result is None or (input_folder is None) == (pet is None):
        raise InputError("give INPUT and RESULT, or --pet FILE, --ct FILE and RESULT, or --cohort FOLDER")
    check_ct(pet, ct, pet_only)
    if not math.isfinite(max_suv):
        raise InputError(f"--max-suv is {max_suv}; expected a number from 0.1")
    if truth is not None and against is not None:
        raise InputError("--truth and --against exclude each other; leave one out")
    other = truth or against
    if other is not None:
        require("a comparison", "evaluate", TRUTH)
    from l2snet.predict import REPORT as PAGE
    from l2snet.report.casepage import Options
    from l2snet.report.files import write_files
    from l2snet.sources.inputs import Reading

    reading = Reading(pet_only, resample_ct, time_convention, series or ())
    # With an earlier examination, each has series of its own.
    findings = _read(input_folder, pet, ct, result, reading, other, earlier is None)
    before = None if earlier is None else _read(earlier[0], None, None, earlier[1], reading, None, False)
    page = out or (result if result.is_dir() else result.parent) / PAGE
    options = Options(max_suv, viewer, other.name if other else "", against is None, before)
    write_files(findings, page, options, png)


def _check_alone(context: typer.Context) -> None:
    """--cohort takes no other option."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name != "cohort" and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--cohort was given with {parameter.opts[0]}, which is of a case; leave one out")


def check_ct(pet: Path | None, ct: Path | None, pet_only: bool) -> None:
    """A CT belongs to --pet, where it may not be wanted."""
    if pet is not None and ct is None and not pet_only:
        raise InputError("--pet was given without --ct; give the CT too, or --pet-only to do without")
    if pet_only and ct is not None:
        raise InputError("--ct and --pet-only exclude each other; leave one out")
    if pet is None and ct is not None:
        raise InputError("--ct was given with INPUT, which has a CT of its own; give --pet and --ct, or INPUT alone")


def _read(
    input_folder: Path | None,
    pet: Path | None,
    ct: Path | None,
    result: Path,
    reading: Reading,
    other: Path | None,
    strict: bool,
) -> Findings:
    """A case from a folder or files, with its result and the mask to compare with; `strict` as of `read_input`."""
    from dataclasses import replace

    import numpy as np

    from l2snet.report.findings import read_findings, read_mask_on
    from l2snet.report.origin import origin_of
    from l2snet.sources.files import read_case
    from l2snet.sources.inputs import Source, read_input

    if pet is not None:
        source = Source(read_case(pet, None if reading.pet_only else ct, reading.resample_ct))
    elif input_folder is not None:
        source = read_input(input_folder, reading, strict)
    case = source.case
    if other is not None:
        right = read_mask_on(other, "mask to compare with", case.geometry)
        case = replace(case, lesions=case.suv.with_array(right.astype(np.uint8)))
    findings = read_findings(case, result, source.dicom.subject if source.dicom else None)
    return replace(findings, origin=origin_of(source.dicom))
