"""Trainings and tests in one command, as papers report them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.extras import EVALUATION, TRAINING, needs, require
from l2snet.cli.options import (
    CompileOption,
    MethodOption,
    RecipeOption,
    TrainingDataArgument,
    TrainingOptions,
    names,
    with_options,
)
from l2snet.errors import InputError
from l2snet.progress import is_first_process

app = typer.Typer()


@app.command()
@with_options
def crossval(
    data: TrainingDataArgument,
    out: Annotated[Path, typer.Argument(help="Folder for folds, runs, weights and table; what was stopped goes on.")],
    *,
    method: MethodOption = "l2snet",
    recipe: RecipeOption = "paper",
    folds: Annotated[int, typer.Option(min=2, help="Parts of the patients.")] = 5,
    inner_folds: Annotated[
        int | None, typer.Option(min=2, help="l2snet: parts of a training set, for its cues (default: 2).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the parts.")] = 0,
    also: Annotated[
        list[Path] | None, typer.Option("--also", help="Studies to train on in every fold and never test; repeatable.")
    ] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Weights folder (holds the method's networks) to start every training from.")
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option(help="Run this fold alone, from 0; repeatable (for several machines).")
    ] = None,
    compiled: CompileOption = False,
    options: TrainingOptions,
) -> None:
    """Train and test a method by patient-level cross-validation: the rows of l2snet validate, of unseen cases alone."""
    require("cross-validation", "train", *TRAINING, *EVALUATION)
    with needs("cross-validation", "train"):
        from l2snet.evaluation.validate import report
        from l2snet.methods import make_plan
        from l2snet.training.crossval import Setup, crossval, write_table
        from l2snet.training.fold import Machine
    folders = [*data, *(also or [])]
    plan = make_plan(method, lambda named: options.choose(named, recipe, folders), inner_folds=inner_folds)
    setup = Setup(plan, folds, seed, pretrained, options.resample_ct)
    machine = Machine(options.device, options.workers, compiled)
    text = report(crossval(data, out, setup, options.cache, also or [], machine, fold))
    if is_first_process():
        write_table(text, out)
        typer.echo(text)


@app.command()
@with_options
def ablation(
    data: TrainingDataArgument,
    out: Annotated[Path, typer.Argument(help="Folder for runs, weights, scores and table; what was stopped goes on.")],
    hold_out: Annotated[str, typer.Option(help="Names of the studies to test on, separated by commas.")],
    *,
    network: Annotated[str, typer.Option(help="step-by-step, or segmenter (trained without cues).")] = "step-by-step",
    recipe: RecipeOption = "small",
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Settings of a further arm, such as 'norm=window window=null'; repeatable. [channels=1]"),
    ] = None,
    settings: Annotated[str, typer.Option("--set", help="Settings of every arm, such as 'epochs=8'.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas; a training of every arm each.")] = "0,1,2",
    pet_only: Annotated[bool, typer.Option("--pet-only", help="Test without CT.")] = False,
    compiled: CompileOption = False,
    options: TrainingOptions,
) -> None:
    """Train and test a 3D network as its recipe is and with other settings, to see what they are worth."""
    require("the ablation", "train", *TRAINING, *EVALUATION)
    from l2snet.files import write_text
    from l2snet.sources.autopet import patients_of
    from l2snet.training.ablation import KEPT, MASK_ALONE, Ablation, named_recipes, named_studies, table, trained_on
    from l2snet.training.distributed import in_turn
    from l2snet.training.fold import Machine
    from l2snet.training.settings import changed
    from l2snet.weights import STEP_BY_STEP

    role = network.replace("-", "_")
    recipes = named_recipes(role)
    arms = arm or ([MASK_ALONE] if role == STEP_BY_STEP else [])
    if not arms:
        raise InputError("nothing to compare with; give --arm, such as --arm norm=channels")
    chosen = changed(options.choose(recipes, recipe, data), settings, KEPT)
    if not all(seed.strip().isdecimal() for seed in seeds.split(",")):
        raise InputError(f"--seeds {seeds!r} was given; expected whole numbers separated by commas, such as 0,1,2")
    numbers = [int(seed) for seed in seeds.split(",")]
    studies = named_studies(data, names(hold_out))
    with in_turn(options.device):
        cases = trained_on(role, data, options.cache, names(hold_out), options.resample_ct)
    trial = Ablation(chosen, arms, numbers, out, Machine(options.device, options.workers, compiled))
    text = table(trial.run(cases, studies, patients_of(data), options.resample_ct, pet_only))
    if is_first_process():
        write_text(text, out / ("table_pet_only.md" if pet_only else "table.md"))
        typer.echo(text)
