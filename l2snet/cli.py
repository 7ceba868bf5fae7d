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

logger = logging.getLogger(__name__)
T = TypeVar("T")
# What shells give a program that Ctrl-C ended.
INTERRUPTED = 130

app = typer.Typer(
    help="Tumour segmentation in whole-body FDG-PET/CT. Not a medical device.",
    epilog="--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train one of the two networks.", no_args_is_help=True)
app.add_typer(train_app, name="train")


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


WeightsOption = Annotated[
    list[Path] | None, typer.Option(help="Weights folder (holds localizer/ and segmenter/); several are averaged.")
]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where it can be had, else the CPU.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="exact is float32; fast is bfloat16 (CPU) or TensorFloat-32 (GPU).")
]
ResampleOption = Annotated[bool, typer.Option("--resample-ct", help="Bring a CT on another grid onto the PET's.")]
HoldOutOption = Annotated[str, typer.Option(help="Names of cases to leave out, separated by commas.")]
RecipeOption = Annotated[str, typer.Option(help="paper, or small for two CPU cores.")]
CacheOption = Annotated[Path, typer.Option(help="Folder for the cases as the networks see them.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that make samples.")]
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
    fusion: Annotated[Fusion, typer.Option(help="components is the authors' released rule.")] = Fusion.adaptive,
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
    from l2snet.pipeline import L2SNet

    method = L2SNet.from_weights(weights or [], device, precision, fusion, off_cue, mirror, whole_grid)
    run_case(case, method, output, Wanted(probability, cue, picture, manifest), reading_seconds)


@train_app.command("localizer")
def train_localizer(
    data: DataArgument,
    run: Annotated[Path, typer.Argument(help="Run folder; a run that was stopped goes on.")],
    recipe: RecipeOption = "paper",
    encoder_weights: Annotated[
        str | None,
        typer.Option(help="imagenet (timm fetches it), a local file of timm's, or none (default: the recipe's)."),
    ] = None,
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
    chosen = _named(LOCALIZERS, recipe, "recipe")
    if encoder_weights is not None:
        chosen = replace(chosen, encoder_weights=None if encoder_weights == "none" else encoder_weights)
    cases = cached_cases(data, cache, _names(hold_out), resample_ct)
    train_localizer(cases, chosen, run, device, workers)


@train_app.command("segmenter")
def train_segmenter(
    data: DataArgument,
    run: Annotated[Path, typer.Argument(help="Run folder; a run that was stopped goes on.")],
    localizer: Annotated[
        Path | None, typer.Option(help="Localizer weights folder that gives the cue of the loss; none: no cue weight.")
    ] = None,
    recipe: RecipeOption = "paper",
    hold_out: HoldOutOption = "",
    resample_ct: ResampleOption = False,
    cache: CacheOption = Path("cache"),
    device: DeviceOption = Device.auto,
    workers: WorkersOption = 1,
) -> None:
    """Phase 2: the 3D network on windows of PET and CT, its loss weighted by the cue."""
    with _needs("training", "train"):
        from dataclasses import replace

        from l2snet.backend import load
        from l2snet.training.recipes import SEGMENTERS
        from l2snet.training.train import cached_cases, train_segmenter, write_cues
    chosen = _named(SEGMENTERS, recipe, "recipe")
    cases = cached_cases(data, cache, _names(hold_out), resample_ct)
    if localizer is None:
        chosen = replace(chosen, cue_weight=0.0)
    else:
        cases = write_cues(cases, load(localizer, device), run)
    train_segmenter(cases, chosen, run, device, workers)


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
    data: DataArgument,
    weights: WeightsOption = None,
    resample_ct: ResampleOption = False,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
    record: Annotated[
        bool, typer.Option("--record", help="Write metrics.json, the numbers of every case, into the weights folders.")
    ] = False,
) -> None:
    """Score the weights on the cases of DATA that they were not trained on."""
    from rich.console import Console
    from rich.table import Table

    from l2snet.evaluation.validate import COLUMNS, held_out, means, validate, write_metrics
    from l2snet.pipeline import L2SNet

    if record and weights is not None and len(weights) > 1:
        raise InputError("--record needs one weights folder; the mean of several has none of its own")
    method = L2SNet.from_weights(weights or [], device, precision)
    studies = held_out(data, method)
    table = validate(method, studies, resample_ct)
    shown = Table(
        "", *COLUMNS, title=f"mean over {len(studies)} cases not trained on; Dice and FNV: those with lesions"
    )
    for name, row in means(table).items():
        shown.add_row(name, *(f"{row[column]:.3f}" for column in COLUMNS))
    Console().print(shown)
    if record:
        write_metrics(table, method, weights[0] if weights else None)


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
) -> None:
    """Make synthetic whole-body PET/CT with lesion masks, in the layout that l2snet train reads."""
    from l2snet.synthesis.cohort import write_cohort

    write_cohort(organs, out, count, seed, spacing, tumours, _names(hold_out), sheet)


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


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _named(choices: dict[str, T], name: str, what: str) -> T:
    if name not in choices:
        raise InputError(f"{what} {name!r} is not known; expected one of {', '.join(choices)}")
    return choices[name]


if __name__ == "__main__":
    main()
