"""Commands on training data: draw it, look at it, measure how it is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.extras import TRAINING, require
from l2snet.cli.options import (
    CacheOption,
    HoldOutOption,
    RecipeOption,
    ResampleOption,
    TrainingDataArgument,
    names,
    recipe_named,
    voxels,
)

app = typer.Typer()


@app.command()
def synth(
    organs: Annotated[Path, typer.Argument(help="Organ label map (.nii.gz), or a folder of them.")],
    out: Annotated[Path, typer.Argument(help="Folder for the study folders; bodies that it holds are kept.")],
    count: Annotated[int, typer.Option(min=1, help="How many bodies; every second one has tumours.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first body; the next ones count on.")] = 0,
    spacing: Annotated[
        str, typer.Option(help="own (the organ map's grid), mixed (scanners' grids in half of them), or X,Y,Z in mm.")
    ] = "own",
    tumours: Annotated[
        Path | None, typer.Option(help="Study folders of real tumours, whose shape and texture some get.")
    ] = None,
    hold_out: HoldOutOption = "",
    sheet: Annotated[Path | None, typer.Option(help="PNG with pictures of the first bodies (extra: report).")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds a whole body several times over.")] = 1,
) -> None:
    """Make synthetic whole-body PET/CT with lesion masks, in the layout that l2snet train reads."""
    from l2snet.synthesis.cohort import write_cohort

    write_cohort(organs, out, count, seed, spacing, tumours, names(hold_out), sheet, workers)


@app.command()
def channels(
    study: Annotated[Path, typer.Argument(help="Study folder (SUV, CTres or CT, SEG .nii.gz) with a lesion.")],
    picture: Annotated[Path, typer.Argument(help="PNG to write.")],
    crop: Annotated[
        str, typer.Option(help="Z,Y,X of the network's voxels (default: the recipe's crop, all that training sees).")
    ] = "",
    recipe: RecipeOption = "paper",
    resample_ct: ResampleOption = False,
) -> None:
    """Draw the eight channels that Step-by-Step learns, in a coronal slice of a study."""
    require("the picture", "train", *TRAINING, "matplotlib")
    from l2snet.report.channels import channels_picture
    from l2snet.sources.autopet import read_study
    from l2snet.training.named import STEP_BY_STEPS

    chosen = recipe_named(STEP_BY_STEPS, recipe)
    if crop:
        chosen = replace(chosen, crop=voxels(crop))
    channels_picture(read_study(study, resample_ct, ct_optional=True), chosen, picture)


@app.command("benchmark-storage")
def benchmark_storage(
    data: TrainingDataArgument,
    crop: Annotated[str, typer.Option(help="Z,Y,X voxels of a crop (default: the paper's).")] = "32,160,160",
    reads: Annotated[int, typer.Option(min=1, help="Crops to read from each format, twice.")] = 30,
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
) -> None:
    """Size of DATA as NIfTI, plain arrays and LMDB store, and how fast one process reads crops from each."""
    require("the store", "train", *TRAINING)
    from l2snet.training.step_by_step import stored_cases
    from l2snet.training.storage import compare
    from l2snet.training.train import cached_cases

    size = voxels(crop)
    stored = stored_cases(data, cache, resample_ct=resample_ct)
    cached = cached_cases(data, cache, resample_ct=resample_ct)
    typer.echo(compare(data, cached, stored, size, reads))
