"""Commands on weights: make them of a run, score them, set their thresholds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.extras import EVALUATION, needs, require
from l2snet.cli.options import (
    Device,
    DeviceOption,
    EverySliceOption,
    MethodOption,
    Precision,
    PrecisionOption,
    ResampleOption,
    TrainingDataArgument,
    WeightsOption,
)
from l2snet.errors import InputError

app = typer.Typer()


class Bits(StrEnum):
    """Bits of a filter's numbers."""

    b6 = "6"
    b8 = "8"
    b16 = "16"


@app.command("export")
def export_weights(
    run: Annotated[Path, typer.Argument(help="Run folder of l2snet train.")],
    folder: Annotated[Path, typer.Argument(help="Weights folder to write, such as weights/localizer.")],
    bits: Annotated[
        Bits, typer.Option(help="Of the filters' numbers; 8 halve the file, 6 compress better yet.")
    ] = Bits.b16,
) -> None:
    """Write a run's last checkpoint as a weights folder (ONNX, filters in 16, 8 or 6 bits, hashes)."""
    with needs("export", "train"):
        from l2snet.export import export_run
    export_run(run, folder, int(bits))


@app.command()
def validate(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders of study folders (SUV, CTres or CT if any, SEG .nii.gz).")
    ] = None,
    method: MethodOption = "l2snet",
    weights: WeightsOption = None,
    resample_ct: ResampleOption = False,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
    every_slice: EverySliceOption = False,
    work: Annotated[
        Path | None, typer.Option(help="Folder for one file per case; a run that was stopped goes on from it.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add the table, under this name, to the weights' metrics.json.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recorded tables, and compute nothing.")] = False,
) -> None:
    """Score the weights on the cases of DATA of patients whom they were not trained on."""
    if show == bool(data):
        raise InputError("give folders with studies to score, or --show to print what is recorded")
    if (record is not None or show) and weights is not None and len(weights) > 1:
        raise InputError("--record and --show need one weights folder; the mean of several has none of its own")
    from l2snet.evaluation.validate import held_out, read_metrics, report, validate, write_metrics
    from l2snet.methods import load_method, roles_of

    folder = weights[0] if weights else None
    if show or data is None:
        for name, table in read_metrics(roles_of(method), folder).items():
            typer.echo(f"# {name}\n\n{report(table)}")
        return
    require("validation", "evaluate", *EVALUATION)
    loaded = load_method(method, weights or [], device, precision, every_slice=every_slice or None)
    table = validate(loaded, held_out(data, loaded), resample_ct, work)
    typer.echo(report(table))
    if record is not None:
        write_metrics(table, loaded, folder, record)


@app.command()
def calibrate(
    data: TrainingDataArgument,
    method: MethodOption = "l2snet",
    weights: Annotated[
        Path | None, typer.Option(help="Weights folder (holds the method's networks, such as localizer/).")
    ] = None,
    resample_ct: ResampleOption = False,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
) -> None:
    """Choose the weights' thresholds on cases of DATA of patients whom they were not trained on, and write them down.

    The configs get those of the least FPV + FNV among the thresholds whose mean Dice is within 0.01 of the best.
    """
    require("calibration", "evaluate", *EVALUATION)
    from l2snet.evaluation.calibrate import best, calibrate, write_choice
    from l2snet.evaluation.validate import held_out
    from l2snet.methods import load_method
    from l2snet.sources.autopet import patients_of, with_patients

    loaded = load_method(method, [weights] if weights else [], device, precision)
    studies = held_out(data, loaded, calibrating=True)
    choices = calibrate(loaded, studies, resample_ct)
    chosen = best(choices)
    for choice in sorted(choices, key=lambda one: one.fpv_ml + one.fnv_ml):
        typer.echo(f"{'*' if choice == chosen else ' '} {choice}")
    seen = with_patients((folder.name for folder in studies), patients_of(data))
    write_choice(chosen, seen, loaded.roles, weights)
