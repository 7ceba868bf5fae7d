"""Commands on masks, whoever made them: score, compare and draw them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.extras import EVALUATION, require
from l2snet.cli.options import Device, DeviceOption, ResampleOption, WeightsOption
from l2snet.errors import L2SNetError

app = typer.Typer()


class View(StrEnum):
    """How a case is drawn."""

    projection = "projection"
    slice = "slice"


@app.command()
def evaluate(
    truth: Annotated[Path, typer.Argument(help="Folder of true masks: a file per case, or a folder per case.")],
    predictions: Annotated[list[Path], typer.Argument(help="Folders of predicted masks, a row of the table each.")],
    output: Annotated[Path, typer.Option(help="Folder for cases.csv, summary.json, table.md and cases.png.")],
    surface_mm: Annotated[
        float | None, typer.Option(min=0, help="Tolerance of the surface Dice (default: it is left out).")
    ] = None,
    least_overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of a lesion to cover for it to count as found; 0: one voxel.")
    ] = 0.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Cases at a time (default: one for each CPU).")] = None,
) -> None:
    """Compare any method's masks with the truth, case by case; what OUTPUT holds already is not done again."""
    require("evaluation", "evaluate", *EVALUATION, "matplotlib")
    from l2snet.evaluation.evaluate import Settings, evaluate
    from l2snet.predict import check_output

    check_output(output)
    result = evaluate(truth, predictions, output, Settings(surface_mm, least_overlap), workers)
    typer.echo(result.text)
    result.check()


@app.command()
def figure(
    study: Annotated[Path, typer.Argument(help="Study folder (SUV, SEG, and CTres or CT if any, .nii.gz).")],
    picture: Annotated[Path, typer.Argument(help="PNG to write.")],
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A method's mask; several: side by side (default: run the networks)."),
    ] = None,
    view: Annotated[View, typer.Option(help="Projection, or the coronal slice of the most lesion.")] = View.projection,
    weights: WeightsOption = None,
    resample_ct: ResampleOption = False,
    device: DeviceOption = Device.auto,
) -> None:
    """Draw a case's truth beside 2D network, 3D network and L2SNet, with what is false boxed (Fig. 3 of the paper)."""
    require("the figure", "evaluate", *EVALUATION, "matplotlib")
    from l2snet.evaluation.pairs import read_named_masks
    from l2snet.evaluation.validate import paper_masks
    from l2snet.report.comparison import comparison_picture
    from l2snet.sources.autopet import read_study

    case = read_study(study, resample_ct, ct_optional=True)
    if mask:
        masks = read_named_masks(mask, case.geometry)
    else:
        from l2snet.pipeline import L2SNet

        masks = paper_masks(L2SNet.from_weights(weights or [], device), case)
    comparison_picture(case, masks, picture, view is View.projection)


@app.command()
def compare(
    expected: Annotated[Path, typer.Argument(help="Output folder with the right mask.")],
    actual: Annotated[Path, typer.Argument(help="Output folder to judge.")],
    least_dice: Annotated[float, typer.Option(min=0, max=1, help="Dice that is enough.")] = 0.999,
) -> None:
    """Check an output folder of the container against the expected one; fails where they differ."""
    from l2snet.evaluation.compare import compare_outputs

    differences = compare_outputs(expected, actual, least_dice)
    if differences:
        raise L2SNetError(f"{actual} differs from {expected}: {'; '.join(differences)}")
    typer.echo(f"{actual} is as expected")
