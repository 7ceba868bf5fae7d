"""`l2snet train`: a network from study folders to a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.extras import TRAINING, needs, require
from l2snet.cli.options import (
    CompileOption,
    Precision,
    RecipeOption,
    RunOptions,
    TrainingDataArgument,
    names,
    with_options,
)
from l2snet.errors import InputError

app = typer.Typer(help="Train a network.", no_args_is_help=True)

RunArgument = Annotated[Path, typer.Argument(help="Run folder; a run that was stopped goes on.")]


@app.command("localizer")
@with_options
def train_localizer(
    data: TrainingDataArgument,
    run: RunArgument,
    *,
    recipe: RecipeOption = "paper",
    encoder_weights: Annotated[
        str | None,
        typer.Option(help="imagenet (timm fetches it), a local file of timm's, or none (default: the recipe's)."),
    ] = None,
    options: RunOptions,
) -> None:
    """Phase 1: the 2D network on coronal PET slices."""
    with needs("training", "train"):
        from l2snet.training.distributed import in_turn
        from l2snet.training.named import LOCALIZERS
        from l2snet.training.train import cached_cases, check_folders, train_localizer
    if encoder_weights is not None and options.pretrained is not None:
        raise InputError("--encoder-weights has no part in a run from --pretrained weights; leave one out")
    chosen = options.choose(LOCALIZERS, recipe, data)
    if encoder_weights is not None:
        chosen = replace(chosen, encoder_weights=None if encoder_weights == "none" else encoder_weights)
    with in_turn(options.device):
        check_folders(data, options.watch or [])
        cases = cached_cases(data, options.cache, names(options.hold_out), options.resample_ct)
        watch = cached_cases(options.watch or [], options.cache, resample_ct=options.resample_ct)
    train_localizer(cases, chosen, run, options.device, options.workers, pretrained=options.pretrained, watch=watch)


@app.command("segmenter")
@with_options
def train_segmenter(
    data: TrainingDataArgument,
    run: RunArgument,
    *,
    localizer: Annotated[
        list[Path] | None,
        typer.Option(
            help="Localizer weights folder that gives the cue of the loss; none: no cue weight. "
            "Of several, each case takes the first that did not see it."
        ),
    ] = None,
    recipe: RecipeOption = "paper",
    compiled: CompileOption = False,
    options: RunOptions,
) -> None:
    """Phase 2: the 3D network on windows of PET and CT, its loss weighted by the cue."""
    with needs("training", "train"):
        from l2snet.backend import load
        from l2snet.training.distributed import in_turn
        from l2snet.training.named import SEGMENTERS
        from l2snet.training.train import cached_cases, check_folders, check_watched, train_segmenter, write_cues
    if not localizer and "cue_weight" in options.settings:
        raise InputError("--set cue_weight needs a --localizer, which gives the cue")
    chosen = options.choose(SEGMENTERS, recipe, data)
    with in_turn(options.device):
        check_folders(data, options.watch or [])
        cases = cached_cases(data, options.cache, names(options.hold_out), options.resample_ct)
        watch = cached_cases(options.watch or [], options.cache, resample_ct=options.resample_ct)
        check_watched(cases, watch, options.pretrained)  # before the cues, which take long
        if localizer:
            cases = write_cues(cases, [load(folder, options.device, Precision.fast) for folder in localizer], run)
    if not localizer:
        chosen = replace(chosen, cue_weight=0.0)
    train_segmenter(
        cases, chosen, run, options.device, options.workers, None, options.pretrained, compiled=compiled, watch=watch
    )


@app.command("step-by-step")
@with_options
def train_step_by_step(
    data: Annotated[
        list[Path], typer.Argument(help="Stores of l2snet prepare lmdb, or folders of study folders (as for it).")
    ],
    run: RunArgument,
    *,
    recipe: RecipeOption = "paper",
    compiled: CompileOption = False,
    options: RunOptions,
) -> None:
    """The second method's one network: the lesion together with its surroundings (Liu et al.)."""
    require("training", "train", *TRAINING)
    from l2snet.training.distributed import in_turn
    from l2snet.training.named import STEP_BY_STEPS
    from l2snet.training.step_by_step import stored_cases, train_step_by_step

    chosen = options.choose(STEP_BY_STEPS, recipe, data)
    with in_turn(options.device):
        cases = stored_cases(data, options.cache, names(options.hold_out), options.resample_ct)
        watch = stored_cases(options.watch or [], options.cache, resample_ct=options.resample_ct)
    train_step_by_step(
        cases, chosen, run, options.device, options.workers, None, options.pretrained, compiled=compiled, watch=watch
    )
