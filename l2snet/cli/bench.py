"""`l2snet bench`: how fast the product is on this machine, beside others with the same weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from l2snet.cli.options import Device, DeviceOption, Precision, PrecisionOption

app = typer.Typer()


@app.command()
def bench(
    body: Annotated[
        Path | None, typer.Option(help="Study folder to run, such as one of l2snet synth (default: a phantom).")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights folder (holds localizer/ and segmenter/).")] = None,
    device: DeviceOption = Device.cpu,
    precision: PrecisionOption = Precision.exact,
    full_grid: Annotated[bool, typer.Option(help="Run the others on the full grid, too.")] = True,
    part: Annotated[
        bool, typer.Option("--part", help="Of the full grid give the others one layer of windows, and scale it up.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small phantom in small windows: to see that it runs, not how fast.")
    ] = False,
) -> None:
    """Time each stage from files to mask, MONAI and nnU-Net with the same weights, and a matrix product, in a table.

    MONAI needs the extra train, nnU-Net the extra bench; what is not installed is left out, and the table says so.
    """
    from l2snet.bench.phantom import SMALL_BODY, WHOLE_BODY, whole_body
    from l2snet.bench.run import MATRIX, SMALL_MATRIX, Settings, bench, shrunk, table
    from l2snet.sources.inputs import Reading, read_input

    size = SMALL_BODY if quick else WHOLE_BODY
    case = whole_body(size) if body is None else read_input(body, Reading(resample_ct=True)).case
    with TemporaryDirectory() as scratch:
        chosen = shrunk(weights, Path(scratch)) if quick else weights
        settings = Settings(chosen, device, precision, full_grid, part, SMALL_MATRIX if quick else MATRIX)
        typer.echo(table(bench(case, settings)))
