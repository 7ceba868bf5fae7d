"""The command line: one command, thin subcommands; heavy imports stay inside the command that needs them."""

from __future__ import annotations

import logging
import sys
import time
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from l2snet import __version__
from l2snet.errors import InputError, L2SNetError, MissingPackageError
from l2snet.sources.suv import TimeConvention

logger = logging.getLogger(__name__)
T = TypeVar("T")
# What shells give a program that Ctrl-C ended.
INTERRUPTED = 130
# Packages that counting voxels and components needs (extra `evaluate`).
EVALUATION = ("cc3d", "grand_challenge_metrics")
# What training Step-by-Step needs beside PyTorch (extra `train`).
TRAINING = ("torch", "monai", "lmdb", "zstandard")

app = typer.Typer(
    help="Tumour segmentation in whole-body FDG-PET/CT. Not a medical device.",
    epilog="--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a network.", no_args_is_help=True)
app.add_typer(train_app, name="train")
prepare_app = typer.Typer(help="Make study folders, or the container's input, from a download.", no_args_is_help=True)
app.add_typer(prepare_app, name="prepare")


class Device(StrEnum):
    """Where networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """float32, or what the hardware is fast at."""

    exact = "exact"
    fast = "fast"


class Fusion(StrEnum):
    """How cue and probability become a mask."""

    adaptive = "adaptive"
    components = "components"


class View(StrEnum):
    """How a case is drawn."""

    projection = "projection"
    slice = "slice"


WeightsOption = Annotated[
    list[Path] | None,
    typer.Option(help="Weights folder (holds the method's networks, such as localizer/); several are averaged."),
]
MethodOption = Annotated[
    str, typer.Option(envvar="L2SNET_METHOD", help="l2snet, or step-by-step (Liu et al.).", show_envvar=False)
]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where it can be had, else the CPU.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="exact is float32; fast is bfloat16 (CPU) or TensorFloat-32 (GPU).")
]
ResampleOption = Annotated[bool, typer.Option("--resample-ct", help="Bring a CT on another grid onto the PET's.")]
HoldOutOption = Annotated[str, typer.Option(help="Names of cases to leave out, separated by commas.")]
RecipeOption = Annotated[str, typer.Option(help="A name of l2snet/training/recipes.py: paper, small, ...")]
CacheOption = Annotated[Path, typer.Option(help="Folder for the cases as the networks see them.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that make samples.")]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Let torch.compile fuse the 3D network (needs a C++ compiler).")
]
TrainingDataArgument = Annotated[
    list[Path], typer.Argument(help="Folders of study folders (SUV, CTres or CT, SEG .nii.gz).")
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder; a run that was stopped goes on.")]
PretrainedOption = Annotated[Path | None, typer.Option(help="Weights folder to start from, such as weights/localizer.")]
ShareOption = Annotated[
    str, typer.Option(help="Shares of the DATA folders in the samples, such as 2,1 (default: every case alike).")
]
PrepareWorkersOption = Annotated[int, typer.Option(min=1, help="Studies at a time; each is held in memory.")]
MaskOptionalOption = Annotated[
    bool, typer.Option("--mask-optional", help="Prepare a study without a mask too; it serves no training.")
]
PreparedArgument = Annotated[Path, typer.Argument(help="Folder to write; studies that it holds already are kept.")]
DataArgument = Annotated[Path, typer.Argument(help="Folder of study folders (SUV, CTres or CT, SEG .nii.gz).")]


@app.command()
def predict(
    input_folder: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="Folder in the container's layout: images/pet, images/ct.")
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
        Fusion | None, typer.Option(help="components is the authors' released rule (default: adaptive).")
    ] = None,
    off_cue: Annotated[
        float | None, typer.Option(min=0, max=1, help="Threshold off the cue (default: the weights' own).")
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average over mirrored inputs: 2 passes in 2D, 8 in 3D.")
    ] = False,
    whole_grid: Annotated[
        bool, typer.Option("--whole-grid", help="Run all of the grid, not only the body (slow; to compare).")
    ] = False,
    probability: Annotated[bool, typer.Option("--probability", help="Write probability.mha.")] = False,
    cue: Annotated[bool, typer.Option("--cue", help="Write cue.mha, the location cue.")] = False,
    picture: Annotated[bool, typer.Option("--picture", help="Write projection.png (extra: report).")] = False,
    manifest: Annotated[bool, typer.Option(help="Write manifest.json.")] = True,
) -> None:
    """Segment one case: l2snet predict INPUT OUTPUT, or l2snet predict --pet FILE --ct FILE OUTPUT."""
    began = time.perf_counter()
    from l2snet.predict import Wanted, check_output, run_case
    from l2snet.sources import challenge
    from l2snet.sources.files import read_case

    if pet is not None and output is None:
        input_folder, output = None, input_folder
    if output is None or (input_folder is None) == (pet is None):
        raise InputError("give INPUT and OUTPUT, or --pet FILE, --ct FILE and OUTPUT")
    if pet is not None and ct is None and not pet_only:
        raise InputError("--pet was given without --ct; give the CT too, or --pet-only to do without")
    if pet_only and ct is not None:
        raise InputError("--ct and --pet-only exclude each other; leave one out")
    if input_folder is not None and ct is not None:
        raise InputError("--ct was given with INPUT, which has a CT of its own; give --pet and --ct, or INPUT alone")
    if off_cue is not None and fusion is Fusion.components:
        raise InputError("--off-cue has no part in --fusion components; leave one out")
    if picture and find_spec("matplotlib") is None:
        raise MissingPackageError("the picture", "report")
    check_output(output)
    if pet is not None:
        case = read_case(pet, None if pet_only else ct, resample_ct)
    elif input_folder is not None:
        case = challenge.read(input_folder, pet_only, resample_ct)
    reading_seconds = time.perf_counter() - began
    from l2snet.methods import load_method

    options = {"fusion": fusion, "off_cue": off_cue, "mirror": mirror, "whole_grid": whole_grid}
    loaded = load_method(method, weights or [], device, precision, **options)
    run_case(case, loaded, output, Wanted(probability, cue, picture, manifest), reading_seconds)


@train_app.command("localizer")
def train_localizer(
    data: TrainingDataArgument,
    run: RunArgument,
    recipe: RecipeOption = "paper",
    encoder_weights: Annotated[
        str | None,
        typer.Option(help="imagenet (timm fetches it), a local file of timm's, or none (default: the recipe's)."),
    ] = None,
    pretrained: PretrainedOption = None,
    share: ShareOption = "",
    hold_out: HoldOutOption = "",
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
    device: DeviceOption = Device.auto,
    workers: WorkersOption = 1,
) -> None:
    """Phase 1: the 2D network on coronal PET slices."""
    with _needs("training", "train"):
        from dataclasses import replace

        from l2snet.training.recipes import LOCALIZERS
        from l2snet.training.train import cached_cases, train_localizer
    if encoder_weights is not None and pretrained is not None:
        raise InputError("--encoder-weights has no part in a run from --pretrained weights; leave one out")
    chosen = replace(_named(LOCALIZERS, recipe, "recipe"), shares=_shares(share, data))
    if encoder_weights is not None:
        chosen = replace(chosen, encoder_weights=None if encoder_weights == "none" else encoder_weights)
    cases = cached_cases(data, cache, _names(hold_out), resample_ct)
    train_localizer(cases, chosen, run, device, workers, pretrained=pretrained)


@train_app.command("segmenter")
def train_segmenter(
    data: TrainingDataArgument,
    run: RunArgument,
    localizer: Annotated[
        list[Path] | None,
        typer.Option(
            help="Localizer weights folder that gives the cue of the loss; none: no cue weight. "
            "Of several, each case takes the first that did not see it."
        ),
    ] = None,
    recipe: RecipeOption = "paper",
    pretrained: PretrainedOption = None,
    share: ShareOption = "",
    hold_out: HoldOutOption = "",
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
    device: DeviceOption = Device.auto,
    workers: WorkersOption = 1,
    compiled: CompileOption = False,
) -> None:
    """Phase 2: the 3D network on windows of PET and CT, its loss weighted by the cue."""
    with _needs("training", "train"):
        from dataclasses import replace

        from l2snet.backend import load
        from l2snet.training.recipes import SEGMENTERS
        from l2snet.training.train import cached_cases, train_segmenter, write_cues
    chosen = replace(_named(SEGMENTERS, recipe, "recipe"), shares=_shares(share, data))
    cases = cached_cases(data, cache, _names(hold_out), resample_ct)
    if localizer:
        cases = write_cues(cases, [load(folder, device, Precision.fast) for folder in localizer], run)
    else:
        chosen = replace(chosen, cue_weight=0.0)
    train_segmenter(cases, chosen, run, device, workers, pretrained=pretrained, compiled=compiled)


@train_app.command("step-by-step")
def train_step_by_step(
    data: Annotated[
        list[Path], typer.Argument(help="Stores of l2snet prepare lmdb, or folders of study folders (as for it).")
    ],
    run: RunArgument,
    recipe: RecipeOption = "paper",
    pretrained: PretrainedOption = None,
    share: ShareOption = "",
    hold_out: HoldOutOption = "",
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
    device: DeviceOption = Device.auto,
    workers: WorkersOption = 1,
    compiled: CompileOption = False,
) -> None:
    """The second method's one network: the lesion together with its surroundings (Liu et al.)."""
    _require("training", "train", *TRAINING)
    from dataclasses import replace

    from l2snet.training.recipes import STEP_BY_STEPS
    from l2snet.training.step_by_step import stored_cases, train_step_by_step

    chosen = replace(_named(STEP_BY_STEPS, recipe, "recipe"), shares=_shares(share, data))
    cases = stored_cases(data, cache, _names(hold_out), resample_ct)
    train_step_by_step(cases, chosen, run, device, workers, pretrained=pretrained, compiled=compiled)


@app.command()
def crossval(
    data: TrainingDataArgument,
    out: Annotated[Path, typer.Argument(help="Folder for folds, runs, weights and table; what was stopped goes on.")],
    recipe: RecipeOption = "paper",
    folds: Annotated[int, typer.Option(min=2, help="Parts of the patients.")] = 5,
    inner_folds: Annotated[int, typer.Option(min=2, help="Parts of a training set, for its cues.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the parts.")] = 0,
    also: Annotated[
        list[Path] | None, typer.Option("--also", help="Studies to train on in every fold and never test; repeatable.")
    ] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Weights folder (holds localizer/ and segmenter/) to start every training from.")
    ] = None,
    share: ShareOption = "",
    fold: Annotated[
        list[int] | None, typer.Option(help="Run this fold alone, from 0; repeatable (for several machines).")
    ] = None,
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
    device: DeviceOption = Device.auto,
    workers: WorkersOption = 1,
    compiled: CompileOption = False,
) -> None:
    """Train and test by patient-level cross-validation: the rows of the paper's Table 1."""
    with _needs("cross-validation", "train"):
        from dataclasses import replace

        from l2snet.evaluation.validate import report
        from l2snet.training.crossval import Machine, Setup, crossval, write_table
        from l2snet.training.recipes import LOCALIZERS, SEGMENTERS
    shares = _shares(share, [*data, *(also or [])])
    setup = Setup(
        replace(_named(LOCALIZERS, recipe, "recipe"), shares=shares),
        replace(_named(SEGMENTERS, recipe, "recipe"), shares=shares),
        folds,
        inner_folds,
        seed,
        pretrained,
        resample_ct,
    )
    table = crossval(data, out, setup, cache, also or [], Machine(device, workers, compiled), fold)
    text = report(table)
    write_table(text, out)
    typer.echo(text)


@app.command()
def ablation(
    data: TrainingDataArgument,
    out: Annotated[Path, typer.Argument(help="Folder for runs, weights, scores and table; what was stopped goes on.")],
    hold_out: Annotated[str, typer.Option(help="Names of the studies to test on, separated by commas.")],
    recipe: RecipeOption = "small",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas; two trainings each.")] = "0,1,2",
    share: ShareOption = "",
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
    device: DeviceOption = Device.auto,
    workers: WorkersOption = 1,
) -> None:
    """Train and test Step-by-Step with and without its auxiliary channels, to see what they are worth."""
    _require("the ablation", "train", *TRAINING, *EVALUATION)
    from dataclasses import replace

    from l2snet.files import write_text
    from l2snet.training.ablation import Ablation, named_studies, table
    from l2snet.training.recipes import STEP_BY_STEPS
    from l2snet.training.step_by_step import stored_cases

    chosen = replace(_named(STEP_BY_STEPS, recipe, "recipe"), shares=_shares(share, data))
    if not all(seed.strip().isdecimal() for seed in seeds.split(",")):
        raise InputError(f"--seeds {seeds!r} was given; expected whole numbers separated by commas, such as 0,1,2")
    numbers = [int(seed) for seed in seeds.split(",")]
    studies = named_studies(data, _names(hold_out))
    cases = stored_cases(data, cache, _names(hold_out), resample_ct)
    text = table(Ablation(chosen, numbers, out, device, workers).run(cases, studies, resample_ct))
    write_text(text, out / "table.md")
    typer.echo(text)


@app.command("benchmark-storage")
def benchmark_storage(
    data: TrainingDataArgument,
    crop: Annotated[str, typer.Option(help="Z,Y,X voxels of a crop (default: the paper's).")] = "32,160,160",
    reads: Annotated[int, typer.Option(min=1, help="Crops to read from each format, twice.")] = 30,
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
) -> None:
    """Size of DATA as NIfTI, plain arrays and LMDB store, and how fast one process reads crops from each."""
    _require("the store", "train", *TRAINING)
    from l2snet.training.step_by_step import stored_cases
    from l2snet.training.storage import compare
    from l2snet.training.train import cached_cases

    size = _voxels(crop)
    stored = stored_cases(data, cache, resample_ct=resample_ct)
    cached = cached_cases(data, cache, resample_ct=resample_ct)
    typer.echo(compare(data, cached, stored, size, reads))


@app.command()
def channels(
    study: Annotated[Path, typer.Argument(help="Study folder (SUV, CTres or CT, SEG .nii.gz) with a lesion.")],
    picture: Annotated[Path, typer.Argument(help="PNG to write.")],
    crop: Annotated[
        str, typer.Option(help="Z,Y,X voxels to show (default: the recipe's crop, the whole image of training).")
    ] = "",
    recipe: RecipeOption = "paper",
    resample_ct: ResampleOption = False,
) -> None:
    """Draw the eight channels that Step-by-Step learns, in a coronal slice of a study."""
    _require("the picture", "train", *TRAINING, "matplotlib")
    from dataclasses import replace

    from l2snet.report.channels import channels_picture
    from l2snet.sources.autopet import read_study
    from l2snet.training.recipes import STEP_BY_STEPS

    chosen = _named(STEP_BY_STEPS, recipe, "recipe")
    if crop:
        chosen = replace(chosen, crop=_voxels(crop))
    channels_picture(read_study(study, resample_ct, ct_optional=True), chosen, picture)


@app.command("export")
def export_weights(
    run: Annotated[Path, typer.Argument(help="Run folder of l2snet train.")],
    folder: Annotated[Path, typer.Argument(help="Weights folder to write, such as weights/localizer.")],
) -> None:
    """Write a run's last checkpoint as a weights folder (ONNX, float16 weights, hashes)."""
    with _needs("export", "train"):
        from l2snet.export import export_run
    export_run(run, folder)


@app.command()
def validate(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders of study folders (SUV, CTres or CT if any, SEG .nii.gz).")
    ] = None,
    weights: WeightsOption = None,
    resample_ct: ResampleOption = False,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
    work: Annotated[
        Path | None, typer.Option(help="Folder for one file per case; a run that was stopped goes on from it.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add the table, under this name, to the weights' metrics.json.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recorded tables, and compute nothing.")] = False,
) -> None:
    """Score the weights on the cases of DATA that they were not trained on."""
    if show == bool(data):
        raise InputError("give folders with studies to score, or --show to print what is recorded")
    if (record is not None or show) and weights is not None and len(weights) > 1:
        raise InputError("--record and --show need one weights folder; the mean of several has none of its own")
    from l2snet.evaluation.validate import held_out, read_metrics, report, validate, write_metrics

    folder = weights[0] if weights else None
    if show or data is None:
        for name, table in read_metrics(folder).items():
            typer.echo(f"# {name}\n\n{report(table)}")
        return
    _require("validation", "evaluate", *EVALUATION)
    from l2snet.pipeline import L2SNet

    method = L2SNet.from_weights(weights or [], device, precision)
    table = validate(method, held_out(data, method), resample_ct, work)
    typer.echo(report(table))
    if record is not None:
        write_metrics(table, method, folder, record)


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
    _require("evaluation", "evaluate", *EVALUATION, "matplotlib")
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
    _require("the figure", "evaluate", *EVALUATION, "matplotlib")
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
def calibrate(
    data: TrainingDataArgument,
    weights: Annotated[Path | None, typer.Option(help="Weights folder (holds localizer/ and segmenter/).")] = None,
    resample_ct: ResampleOption = False,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
) -> None:
    """Choose the weights' thresholds on cases of DATA that they were not trained on, and write them into their configs.

    The least FPV + FNV among the thresholds whose mean Dice is within 0.01 of the best.
    """
    _require("calibration", "evaluate", *EVALUATION)
    from l2snet.evaluation.calibrate import best, calibrate, write_choice
    from l2snet.evaluation.validate import held_out
    from l2snet.pipeline import L2SNet

    method = L2SNet.from_weights([weights] if weights else [], device, precision)
    studies = held_out(data, method)
    choices = calibrate(method, studies, resample_ct)
    chosen = best(choices)
    for choice in sorted(choices, key=lambda one: one.fpv_ml + one.fnv_ml):
        typer.echo(f"{'*' if choice == chosen else ' '} {choice}")
    write_choice(chosen, [folder.name for folder in studies], weights)


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

    write_cohort(organs, out, count, seed, spacing, tumours, _names(hold_out), sheet, workers)


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


@prepare_app.command("autopet")
def prepare_autopet(
    root: Annotated[
        Path, typer.Argument(metavar="DICOM_ROOT", help="Folder of DICOM, as the TCIA's downloader left it.")
    ],
    out: PreparedArgument,
    time_convention: Annotated[
        TimeConvention,
        typer.Option(help="Moment that the PET is corrected to: as the public autoPET data have it, or QIBA's rule."),
    ] = TimeConvention.challenge,
    mask_optional: MaskOptionalOption = False,
    series: Annotated[
        list[str] | None, typer.Option(help="SeriesInstanceUID to take where a study offers several; may be repeated.")
    ] = None,
    workers: PrepareWorkersOption = 1,
) -> None:
    """DICOM PET, CT and SEG to OUT/PATIENT/STUDY/{SUV,CTres,CT,PET,SEG}.nii.gz."""
    with _needs("reading DICOM", "dicom"):
        from l2snet.prepare.autopet import prepare_autopet
    prepare_autopet(root, out, time_convention, mask_optional, series or (), workers)


@prepare_app.command("nifti")
def prepare_nifti(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that the patterns start from.")],
    out: PreparedArgument,
    pet: Annotated[str, typer.Option(help="Where a case's PET in SUV lies.")] = "{case}/SUV.nii.gz",
    ct: Annotated[str, typer.Option(help="Where its CT in HU lies, on any grid.")] = "{case}/CT.nii.gz",
    mask: Annotated[str, typer.Option(help="Where its lesion mask lies.")] = "{case}/SEG.nii.gz",
    mask_optional: MaskOptionalOption = False,
    resample_mask: Annotated[
        bool, typer.Option("--resample-mask", help="Bring a mask on another grid onto the PET's (nearest neighbour).")
    ] = False,
    workers: PrepareWorkersOption = 1,
) -> None:
    """PET (SUV) and CT in NIfTI, on different grids, to OUT/CASE/{SUV,CTres,CT,SEG}.nii.gz."""
    from l2snet.prepare.nifti import Patterns, prepare_nifti

    prepare_nifti(root, out, Patterns(pet, ct, mask), mask_optional, resample_mask, workers)


@prepare_app.command("mha")
def prepare_mha(
    data: DataArgument,
    out: PreparedArgument,
    truth: Annotated[Path | None, typer.Option(help="Folder for the lesion masks, as STUDY.mha.")] = None,
    workers: PrepareWorkersOption = 1,
) -> None:
    """Study folders to OUT/STUDY/images/{pet,ct}/STUDY.mha, an input folder of the container each."""
    from l2snet.prepare.mha import prepare_mha

    prepare_mha(data, out, truth, workers)


@prepare_app.command("lmdb")
def prepare_lmdb(
    data: TrainingDataArgument,
    store: Annotated[Path, typer.Argument(help="File to write; one that was stopped goes on.")],
    resample_ct: ResampleOption = False,
) -> None:
    """Study folders to one compressed LMDB file, from which l2snet train step-by-step reads crops."""
    _require("the store", "train", *TRAINING)
    from l2snet.prepare.store import prepare_store

    prepare_store(data, store, resample_ct)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Tumour segmentation in whole-body FDG-PET/CT. Not a medical device."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error ends as one sentence on the last line of stderr and a non-zero exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code = app(arguments, prog_name="l2snet", standalone_mode=False)
    except L2SNetError as error:
        _fail(f"error: {error}", 1, debug)
    except typer.TyperException as error:
        if not error.format_message():  # no arguments: the help was printed
            sys.exit(error.exit_code)
        _fail(f"error: {error.format_message()} (see l2snet --help)", error.exit_code, debug)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED, debug)
    except OSError as error:
        _fail(f"error: {error}; choose a file or folder with rights and space", 1, debug)
    except MemoryError:
        _fail("error: out of memory; use a machine with more, or close other programs", 1, debug)
    except Exception as error:  # the platform shows the last line of stderr alone: it must say something
        _fail(f"internal error: {type(error).__name__}: {' '.join(str(error).split())}; --debug shows where", 3, debug)
    if code == INTERRUPTED:  # Typer takes the interrupt for itself
        _fail("interrupted", INTERRUPTED, debug=False)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str, code: int, debug: bool) -> None:
    if debug:
        logger.exception("traceback")
    sys.stderr.write(sentence + "\n")
    sys.exit(code)


class _needs:  # noqa: N801  # reads as a statement
    """Turn an ImportError inside the block into the install command of an extra."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature, self.extra = feature, extra

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise MissingPackageError(self.feature, self.extra) from error


def _require(feature: str, extra: str, *packages: str) -> None:
    """Say at once, not after an hour, that an extra is not installed."""
    if any(find_spec(package) is None for package in packages):
        raise MissingPackageError(feature, extra)


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _voxels(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--crop {text!r} was given; expected three numbers of voxels, such as 32,160,160")
    z, y, x = (int(part) for part in parts)
    return z, y, x


def _shares(text: str, data: list[Path]) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--share {text!r} was given; expected numbers separated by commas, such as 2,1") from error
    if len(shares) != len(data) or not min(shares) > 0:
        raise InputError(f"--share {text!r} was given; expected a positive number for each of the {len(data)} folders")
    return shares


def _named(choices: dict[str, T], name: str, what: str) -> T:
    if name not in choices:
        raise InputError(f"{what} {name!r} is not known; expected one of {', '.join(choices)}")
    return choices[name]


if __name__ == "__main__":
    main()
