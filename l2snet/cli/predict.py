"""`l2snet predict`: one case to a mask."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.extras import require
from l2snet.cli.options import (
    ConventionOption,
    Device,
    DeviceOption,
    EverySliceOption,
    MethodOption,
    Precision,
    PrecisionOption,
    ResampleOption,
    SeriesOption,
    WeightsOption,
)
from l2snet.cli.report import REPORT, check_ct
from l2snet.errors import InputError
from l2snet.sources.suv import TimeConvention
from l2snet.subject import SuvType

app = typer.Typer()


class Fusion(StrEnum):
    """How cue and probability become a mask."""

    cued = "cued"
    adaptive = "adaptive"
    components = "components"


FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="Further formats, separated by commas: seg, fractional, rtstruct, sr (of DICOM input), nifti, nrrd.",
    ),
]
SmallestOption = Annotated[float, typer.Option(min=0, help="Leave lesions under so many ml out of mask and table.")]
FloorOption = Annotated[float, typer.Option(min=0, help="Leave voxels under this SUV out of mask and table.")]
SuvOption = Annotated[
    SuvType, typer.Option("--suv", help="What the table's SUV is normalised by: weight, lean mass or body surface.")
]


@app.command()
def predict(
    input_folder: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", help="DICOM study, study folder (SUV, CTres), or images/pet and images/ct."),
    ] = None,
    output: Annotated[Path | None, typer.Argument(metavar="OUTPUT", help="Folder for the results, one a case.")] = None,
    pet: Annotated[Path | None, typer.Option(help="PET file in SUV (.mha, .nii.gz, .nrrd), instead of INPUT.")] = None,
    ct: Annotated[Path | None, typer.Option(help="CT file in HU, on the PET's grid or with --resample-ct.")] = None,
    pet_only: Annotated[bool, typer.Option("--pet-only", help="Do without a CT.")] = False,
    resample_ct: ResampleOption = False,
    weights: WeightsOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
    method: MethodOption = "l2snet",
    fusion: Annotated[
        Fusion | None,
        typer.Option(help="adaptive is the paper's rule, components that of the authors' code (default: cued)."),
    ] = None,
    off_cue: Annotated[
        float | None, typer.Option(min=0, max=1, help="Threshold off the cue (default: the weights' own).")
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average over mirrored inputs: 2 passes in 2D, in 3D up to 8, as trained.")
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds from the start of the program; --mirror leaves out passes to keep to it."),
    ] = None,
    every_slice: EverySliceOption = False,
    whole_grid: Annotated[
        bool, typer.Option("--whole-grid", help="Run all of the grid, not only the body (slow; to compare).")
    ] = False,
    probability: Annotated[bool, typer.Option("--probability", help="Write probability.mha.")] = False,
    cue: Annotated[bool, typer.Option("--cue", help="Write cue.mha, the location cue.")] = False,
    picture: Annotated[bool, typer.Option("--picture", help="Write projection.png (extra: report).")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, to be read (extra: report).")] = False,
    viewer: Annotated[bool, typer.Option(help="--report: put the images into the page, to leaf through.")] = True,
    manifest: Annotated[bool, typer.Option(help="Write manifest.json.")] = True,
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Write the lesion table (extra: measure); always, of DICOM input.")
    ] = False,
    formats: FormatOption = "",
    smallest_ml: SmallestOption = 0.0,
    suv_floor: FloorOption = 0.0,
    suv_type: SuvOption = SuvType.bw,
    series: SeriesOption = None,
    time_convention: ConventionOption = TimeConvention.qiba,
) -> None:
    """Segment one case: l2snet predict INPUT OUTPUT, or l2snet predict --pet FILE --ct FILE OUTPUT."""
    began = time.perf_counter()
    from l2snet.methods import check_options, load_method
    from l2snet.predict import Wanted, check_output, networks_deadline, run_case, warn_of_limit
    from l2snet.results import Measuring
    from l2snet.sources.files import read_case
    from l2snet.sources.inputs import Reading, Source, read_input
    from l2snet.sources.result_writer import parse_formats

    if pet is not None and output is None:
        input_folder, output = None, input_folder
    if output is None or (input_folder is None) == (pet is None):
        raise InputError("give INPUT and OUTPUT, or --pet FILE, --ct FILE and OUTPUT")
    check_ct(pet, ct, pet_only)
    if off_cue is not None and fusion is Fusion.components:
        raise InputError("--off-cue has no part in --fusion components; leave one out")
    if picture:
        require("the picture", "report", *REPORT)
    if report:
        require("the report", "report", *REPORT)
    wanted = Measuring(parse_formats(formats), smallest_ml, suv_floor, suv_type)
    measured = lesions or wanted != Measuring()
    if measured:
        require("the lesion table", "measure", "cc3d")
    options = {
        "fusion": fusion,
        "off_cue": off_cue,
        "mirror": mirror,
        "every_slice": every_slice or None,
        "whole_grid": whole_grid,
        "deadline": None if time_limit is None else networks_deadline(time_limit),
    }
    check_options(method, options, cue)
    check_output(output)
    aside = ThreadPoolExecutor(1, "load")  # networks are loaded and compiled while the files are read
    try:
        loading = aside.submit(load_method, method, weights or [], device, precision, **options)
        if pet is not None:
            source = Source(read_case(pet, None if pet_only else ct, resample_ct))
        elif input_folder is not None:
            source = read_input(input_folder, Reading(pet_only, resample_ct, time_convention, series or ()))
        reading_seconds = time.perf_counter() - began
        loaded = loading.result()
    finally:  # what goes wrong with the files is said at once, whatever is still being loaded
        aside.shutdown(wait=False, cancel_futures=True)
    measuring = replace(wanted, source=source.dicom) if measured or source.dicom is not None else None
    page = None
    if report:
        from l2snet.report.casepage import Options

        page = Options(viewer=viewer)
    written = Wanted(probability, cue, picture, manifest, measuring, page)
    run_case(source.case, loaded, output, written, reading_seconds)
    warn_of_limit(time_limit)
