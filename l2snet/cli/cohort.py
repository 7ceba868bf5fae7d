"""`l2snet cohort`: many patients to masks and one table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2snet.cli.extras import require
from l2snet.cli.options import (
    ConventionOption,
    Device,
    DeviceOption,
    MethodOption,
    Precision,
    PrecisionOption,
    ResampleOption,
    SeriesOption,
    WeightsOption,
)
from l2snet.cli.predict import (
    FloorOption,
    FormatOption,
    SmallestOption,
    SuvOption,
)
from l2snet.cli.report import REPORT
from l2snet.errors import InputError
from l2snet.sources.suv import TimeConvention
from l2snet.subject import SuvType

if TYPE_CHECKING:
    from l2snet.report.casepage import Options

app = typer.Typer()


@app.command()
def cohort(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder with a study a folder: DICOM, SUV and CTres, or images.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="For results and cohort.csv; what is done is kept.")],
    pet_only: Annotated[bool, typer.Option("--pet-only", help="Do without a CT.")] = False,
    resample_ct: ResampleOption = False,
    weights: WeightsOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
    method: MethodOption = "l2snet",
    probability: Annotated[bool, typer.Option("--probability", help="Write probability.mha of every case.")] = False,
    formats: FormatOption = "",
    smallest_ml: SmallestOption = 0.0,
    suv_floor: FloorOption = 0.0,
    suv_type: SuvOption = SuvType.bw,
    series: SeriesOption = None,
    time_convention: ConventionOption = TimeConvention.qiba,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html of every case, and cohort.html (extra: report).")
    ] = False,
    viewer: Annotated[bool, typer.Option(help="--report: put the images into the pages, to leaf through.")] = True,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Pseudonyms for names and UIDs in results, logs and table.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster to run on, HOST:PORT or auto (extra: cluster).")
    ] = None,
    cpus_per_case: Annotated[float, typer.Option(min=0, help="With --ray: CPUs that a case takes.")] = 1.0,
    gpus_per_case: Annotated[float, typer.Option(min=0, help="With --ray: GPUs, or the share of one.")] = 0.0,
) -> None:
    """Segment and measure every study under ROOT; go on where it stopped; one table, OUT/cohort.csv."""
    require("a cohort", "measure", "cc3d")
    if report:
        require("the reports", "report", *REPORT)
    from dataclasses import replace

    from l2snet.cohort.cases import find_anonymous, find_cases
    from l2snet.cohort.cluster import Cluster
    from l2snet.cohort.plan import Plan, made_by
    from l2snet.cohort.run import in_this_process, run_cohort
    from l2snet.methods import load_method
    from l2snet.predict import check_output
    from l2snet.results import Measuring
    from l2snet.sources.inputs import Reading
    from l2snet.sources.result_writer import OF_DICOM, parse_formats

    wanted = parse_formats(formats)
    if anonymous and OF_DICOM & wanted:
        raise InputError(
            f"--anonymous and --format {min(OF_DICOM & wanted)} exclude each other: DICOM results name the patient; "
            "leave one out"
        )
    if ray is not None:
        require("--ray", "cluster", "ray")
    check_output(out)
    cases = find_anonymous(root, out) if anonymous else find_cases(root, out)
    load = partial(load_method, method, [path.resolve() for path in weights or []], device, precision)
    loaded = load() if ray is None else load_method(method, weights or [], Device.cpu, precision)
    plan = Plan(
        out.resolve(),
        load if ray is not None else lambda: loaded,
        "",
        Reading(pet_only, resample_ct, time_convention, tuple(series or ())),
        Measuring(wanted, smallest_ml, suv_floor, suv_type),
        probability,
        _page(viewer) if report else None,
    )
    plan = replace(plan, made_by=made_by(loaded, precision, plan))
    run_cohort(cases, plan, in_this_process if ray is None else Cluster(ray, cpus_per_case, gpus_per_case))


def _page(viewer: bool) -> Options:
    from l2snet.report.casepage import Options

    return Options(viewer=viewer)
