"""The command line as a user meets it: what goes wrong ends in one sentence, a non-zero exit code and no mask.

The networks here answer with the PET over 10, so that the one run that succeeds has a mask known by hand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from known_weights import write_known_weights

from l2snet import __version__
from l2snet.backend import gpu_problem
from l2snet.case import Case
from l2snet.cli import main
from l2snet.volume import Geometry, Volume, read_volume, write_volume
from l2snet.weights import LOCALIZER, SEGMENTER, write_sums

Phantom = Callable[..., Case]
WriteCase = Callable[[Path, Case], Path]

NAME = "11111111-aaaa-4bbb-8ccc-222222222222"
PET, CT = Path("images/pet/33333333-pet.mha"), Path(f"images/ct/{NAME}.mha")
MASK = Path("images/automated-petct-lesion-segmentation") / f"{NAME}.mha"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """What the platform shows."""
        return self.err.rstrip("\n").rpartition("\n")[2]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command line in this process; stderr is the process's own, with what ITK says."""

    def start(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capfd.readouterr())

    return start


@pytest.fixture
def folder(tmp_path: Path, phantom: Phantom, write_case: WriteCase) -> Path:
    return write_case(tmp_path / "input", phantom())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks whose probability is their first channel, the PET over 10."""
    return write_known_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def own_weights(weights: Path, tmp_path: Path) -> Path:
    """A copy of the weights that a test may damage."""
    return Path(shutil.copytree(weights, tmp_path / "weights"))


def files(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []


def assert_refused(ended: Ended, sentence: str, output: Path, code: int = 1, quotes: bool = False) -> None:
    """`quotes`: the sentence ends with what a library said, which may be several."""
    assert re.search(sentence, ended.last), ended.err
    assert ended.last.startswith("error: ")
    assert quotes or not re.search(r"[.!?] +[A-Z]", ended.last), "more than one sentence"
    assert "Traceback" not in ended.err
    assert ended.code == code
    assert files(output / "images") == []


# --- a run that succeeds ---


def test_predict_writes_the_mask_and_a_manifest(run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path):
    ended = run("predict", folder, tmp_path / "out", "--weights", weights, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert files(tmp_path / "out") == [MASK, Path("manifest.json")]
    # SUV 8 is a probability and a cue of 0.8; SUV 1 is 0.1, off the cue.
    mask, suv = (read_volume(path, "image") for path in (tmp_path / "out" / MASK, folder / PET))
    np.testing.assert_array_equal(mask.array, suv.array == 8)
    assert mask.geometry.matches(suv.geometry)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))
    assert manifest["case"] == NAME
    assert manifest["lesion_ml"] == pytest.approx(64 * 3 * 2.036**2 / 1000, abs=1e-3)


def test_predict_files_pet_only_with_everything(run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path):
    pet, out = folder / PET, tmp_path / "out"
    more = ("--probability", "--cue", "--no-manifest", "--device", "cpu")
    ended = run("predict", "--pet", pet, "--pet-only", out, "--weights", weights, *more)
    assert ended.code == 0, ended.err
    mask = MASK.with_name("33333333-pet.mha")
    assert files(out) == sorted([mask, Path("probability.mha"), Path("cue.mha")])
    np.testing.assert_allclose(read_volume(out / "probability.mha", "p").array.max(), 0.8, rtol=1e-5)


@pytest.mark.parametrize(
    # Seconds since the process began, which is that of all tests before.
    ("limits", "notes"),
    [((100_000,), []), ((100_000, 0), ["the time limit left out 8 of 8 mirrored passes"])],
)
def test_a_time_limit_costs_mirrored_passes_alone(
    run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path, limits: tuple[int, ...], notes: list[str]
):
    options = [text for limit in limits for text in ("--time-limit", limit)]  # the last counts
    more = ("--weights", weights, "--device", "cpu", "--mirror")
    ended = run("predict", folder, tmp_path / "out", *more, *options)
    assert ended.code == 0, ended.err
    assert MASK in files(tmp_path / "out")
    said = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))["notes"]
    assert [note for note in said if "time limit" in note] == notes


# --- images that cannot be segmented ---


def remove(path: Path) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def double(path: Path) -> Callable[[Path], None]:
    return lambda folder: shutil.copy(folder / path, (folder / path).with_name("another.mha"))


def text(path: Path) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text("this is no image")


def cut(path: Path) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        whole = (folder / path).read_bytes()
        (folder / path).write_bytes(whole[: len(whole) // 2])

    return change


def flat(path: Path) -> Callable[[Path], None]:
    return lambda folder: sitk.WriteImage(sitk.Image(8, 8, sitk.sitkFloat32), str(folder / path))


def changed(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        volume = read_volume(folder / path, "image")
        write_volume(volume.with_array(change(volume.array)), folder / path, compress=False)

    return rewrite


def moved(folder: Path) -> None:
    ct = read_volume(folder / CT, "CT")
    left, posterior, superior = ct.geometry.origin_mm
    geometry = Geometry(ct.geometry.size, ct.geometry.spacing_mm, (left, posterior, superior + 3.0))
    write_volume(Volume(ct.array, geometry), folder / CT, compress=False)


def sheared(folder: Path) -> None:
    whole = (folder / PET).read_bytes()
    header, matrix, rest = whole.partition(b"TransformMatrix = 1 0 0")
    assert matrix
    (folder / PET).write_bytes(header + b"TransformMatrix = 1 1 0" + rest)


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[3, 4, 5] = np.nan
    return array


def one_voxel(shape: tuple[int, ...]) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array[12, 14, 16] = 1
    return array


BAD_INPUTS = {
    "no input folder": (shutil.rmtree, "there is no input folder .*input"),
    "empty input folder": (
        lambda folder: shutil.rmtree(folder / "images"),
        "holds no case; expected .mha files in images/pet",
    ),
    "no PET": (remove(PET), r"0 PET images were found in .*images/pet; expected one \.mha"),
    "no CT": (remove(CT), r"0 CT images were found in .*images/ct; expected one \.mha file; use --pet-only"),
    "two PETs": (double(PET), r"2 PET images were found .*another\.mha"),
    "two CTs": (double(CT), r"2 CT images were found .*another\.mha"),
    "PET unreadable": (text(PET), r"PET: 33333333-pet\.mha cannot be read"),
    "CT unreadable": (text(CT), rf"CT: {NAME}\.mha cannot be read"),
    "PET cut off": (cut(PET), r"PET: 33333333-pet\.mha: it holds .*cut off"),
    "CT cut off": (cut(CT), rf"CT: {NAME}\.mha: it holds .*cut off"),
    "PET 2D": (flat(PET), "PET: .* is a 2D image"),
    "CT 2D": (flat(CT), "CT: .* is a 2D image"),
    "PET NaN": (changed(PET, with_nan), "PET: .* holds 1 voxels that are NaN"),
    "CT NaN": (changed(CT, with_nan), "CT: .* holds 1 voxels that are NaN"),
    "PET sheared": (sheared, "PET.* not orthonormal"),
    "PET in Bq/ml": (changed(PET, lambda suv: suv * 5000), "looks like Bq/ml; expected SUV"),
    "PET zero": (changed(PET, np.zeros_like), "no positive voxel"),
    # One voxel of SUV 5 is a SUV, but its block of 64 voxels has a mean of 0.08.
    "PET without body": (changed(PET, lambda suv: 5 * one_voxel(suv.shape)), "no body was found"),
    "CT not HU": (changed(CT, lambda hu: hu + 3000), "lowest value is 2000; in HU"),
    "CT 0..1": (changed(CT, lambda hu: (hu > 0).astype(np.float32)), "span 0 to 1, too little for HU"),
    "grids differ": (moved, r"the CT \(32 x 28 x 24 voxels.*not on the PET's grid \(32 x 28 x 24.*--resample-ct"),
    "inputs.json malformed": (lambda folder: (folder / "inputs.json").write_text("{"), r"inputs\.json cannot be read"),
}


@pytest.mark.parametrize("damage", BAD_INPUTS, ids=str)
def test_bad_input(run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path, damage: str):
    change, sentence = BAD_INPUTS[damage]
    change(folder)
    ended = run("predict", folder, tmp_path / "out", "--weights", weights, "--device", "cpu")
    assert_refused(ended, sentence, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "give INPUT and OUTPUT, or --pet FILE"),
        (("in",), "give INPUT and OUTPUT, or --pet FILE"),
        (("--pet", "pet.mha"), "give INPUT and OUTPUT, or --pet FILE"),
        (("in", "out", "--pet", "pet.mha"), "give INPUT and OUTPUT, or --pet FILE"),
        (("--pet", "pet.mha", "--ct", "ct.mha", "--pet-only", "out"), "--ct and --pet-only exclude each other"),
        (("in", "out", "--ct", "ct.mha"), "--ct was given with INPUT, which has a CT of its own"),
        (("in", "out", "--off-cue", "0.9", "--fusion", "components"), "--off-cue has no part in --fusion components"),
        (
            ("in", "out", "--off-cue", "0.9", "--method", "step-by-step"),
            "--off-cue has no part in --method step-by-step",
        ),
        (
            ("in", "out", "--every-slice", "--method", "step-by-step"),
            "--every-slice has no part in --method step-by-step",
        ),
        (("in", "out", "--method", "nnunet"), "method 'nnunet' is not known; expected one of l2snet, step-by-step"),
        (("--pet", "pet.mha", "out"), "--pet was given without --ct; give the CT too, or --pet-only"),
        (("--pet", "none.mha", "--ct", "ct.mha", "out"), r"PET: there is no file none\.mha"),
    ],
    ids=[
        "nothing",
        "no output",
        "PET without output",
        "both",
        "CT or not",
        "two CTs",
        "idle option",
        "idle option of a method",
        "slices of a method without any",
        "no method",
        "no CT",
        "no PET file",
    ],
)
def test_files_missing_on_the_command_line(
    run: Callable[..., Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    sentence: str,
):
    monkeypatch.chdir(tmp_path)
    assert_refused(run("predict", *options), sentence, tmp_path / "out")


# --- output ---


@pytest.mark.parametrize("below", [".", "deeper", "deeper/still"])
def test_a_file_in_the_outputs_place(
    run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path, below: str
):
    (tmp_path / "out").write_text("in the way")
    output = tmp_path / "out" / below
    ended = run("predict", folder, output, "--weights", weights, "--device", "cpu")
    assert_refused(ended, "output folder .*out.* is not writable", output)
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_file_in_the_place_of_the_images_folder(
    run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images").write_text("in the way")
    ended = run("predict", folder, tmp_path / "out", "--weights", weights, "--device", "cpu")
    assert_refused(ended, "cannot be written", tmp_path / "out")


@pytest.mark.parametrize("option", ["probability", "cue"])
def test_a_folder_in_the_place_of_a_file(
    run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path, option: str
):
    (tmp_path / "out" / f"{option}.mha").mkdir(parents=True)
    ended = run("predict", folder, tmp_path / "out", "--weights", weights, "--device", "cpu", f"--{option}")
    assert_refused(ended, rf"{option}\.mha cannot be written", tmp_path / "out")


# --- weights ---


def test_weights_that_are_missing(run: Callable[..., Ended], folder: Path, tmp_path: Path):
    ended = run("predict", folder, tmp_path / "out", "--weights", tmp_path / "nowhere", "--device", "cpu")
    assert_refused(ended, "no weights of the localizer were found .*nowhere.*--weights", tmp_path / "out")


def test_weights_of_one_network_alone(run: Callable[..., Ended], folder: Path, own_weights: Path, tmp_path: Path):
    shutil.rmtree(own_weights / SEGMENTER)
    ended = run("predict", folder, tmp_path / "out", "--weights", own_weights, "--device", "cpu")
    assert_refused(ended, "no weights of the segmenter were found", tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "network.onnx", "SHA256SUMS"])
def test_weights_that_lack_a_file(
    run: Callable[..., Ended], folder: Path, own_weights: Path, tmp_path: Path, name: str
):
    (own_weights / SEGMENTER / name).unlink()
    ended = run("predict", folder, tmp_path / "out", "--weights", own_weights, "--device", "cpu")
    assert_refused(ended, rf"weights folder .*segmenter has no {re.escape(name)}", tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "network.onnx"])
@pytest.mark.parametrize("network", [LOCALIZER, SEGMENTER])
def test_weights_that_were_altered(
    run: Callable[..., Ended], folder: Path, own_weights: Path, tmp_path: Path, network: str, name: str
):
    with (own_weights / network / name).open("ab") as file:
        file.write(b"\n")
    ended = run("predict", folder, tmp_path / "out", "--weights", own_weights, "--device", "cpu")
    assert_refused(ended, rf"{network}/{re.escape(name)} was altered.*copy the weights again", tmp_path / "out")


def test_weights_that_are_no_network(run: Callable[..., Ended], folder: Path, own_weights: Path, tmp_path: Path):
    (own_weights / LOCALIZER / "network.onnx").write_bytes(b"some bytes")
    write_sums(own_weights / LOCALIZER)
    ended = run("predict", folder, tmp_path / "out", "--weights", own_weights, "--device", "cpu")
    assert_refused(ended, r"network\.onnx cannot be loaded: \w*", tmp_path / "out", quotes=True)


def test_weights_whose_config_is_of_another_format(
    run: Callable[..., Ended], folder: Path, own_weights: Path, tmp_path: Path
):
    config = own_weights / SEGMENTER / "config.json"
    config.write_text(config.read_text("utf-8").replace('"format": 1', '"format": 99'), "utf-8")
    write_sums(own_weights / SEGMENTER)
    ended = run("predict", folder, tmp_path / "out", "--weights", own_weights, "--device", "cpu")
    assert_refused(ended, r"config\.json cannot be used: format 99", tmp_path / "out")


# --- options ---


BAD_OPTIONS = {
    "predict in out --bogus": "No such option.*--bogus",
    "predict in out more": "unexpected extra argument.*more",
    "predict in out --device tpu": "--device.*tpu.*auto.*cpu.*cuda",
    "predict in out --precision half": "--precision.*half.*exact",
    "predict in out --fusion both": "--fusion.*both.*adaptive",
    "predict in out --off-cue 2": "--off-cue.* 1",
    "predict in out --off-cue high": "--off-cue.*number",
    "predict in out --weights": "--weights.*requires an argument",
    "export": "Missing .*run",
    "bogus": "No such command.*bogus",
}


@pytest.mark.parametrize("line", BAD_OPTIONS)
def test_a_bad_option(run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*line.split()), BAD_OPTIONS[line], tmp_path / "out", code=2)
    assert list(tmp_path.iterdir()) == []


BAD_TRAINING_OPTIONS = {
    "train localizer DATA run --pretrained a --encoder-weights none": "--encoder-weights has no part in a run from",
    "train segmenter DATA run --recipe bogus": "recipe 'bogus' is not known; expected one of paper,",
    "train step-by-step DATA run --share 1,2": "expected a positive number for each of the 1 folders",
    "crossval DATA out --also MORE --share 1,x": "--share '1,x' was given; expected numbers",
    "crossval DATA out --method nnunet": "method 'nnunet' is not known; expected one of l2snet, step-by-step",
    "crossval DATA out --method step-by-step --inner-folds 3": "--inner-folds has no part in --method step-by-step",
    "ablation DATA out --hold-out a --seeds b": "--seeds 'b' was given; expected whole numbers",
}


@pytest.mark.parametrize("line", BAD_TRAINING_OPTIONS)
def test_a_bad_option_of_training(
    run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*line.split()), BAD_TRAINING_OPTIONS[line], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_cuda_where_there_is_none(run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path):
    if gpu_problem() is None:
        pytest.skip("this machine has CUDA")
    ended = run("predict", folder, tmp_path / "out", "--weights", weights, "--device", "cuda")
    assert_refused(ended, "CUDA was asked for and cannot be used: .*--device cpu", tmp_path / "out")


def test_version(run: Callable[..., Ended]):
    ended = run("--version")
    assert (ended.code, ended.out.strip(), ended.err) == (0, __version__, "")


HELP = {
    "--help": ("predict", "export", "validate", "train", "--version", "--debug", "Not a medical device"),
    "predict --help": ("--pet-only", "--resample-ct", "--weights", "--device", "--off-cue", "--fusion"),
    "train --help": ("localizer", "segmenter"),
    "train segmenter --help": ("--pretrained", "--set", "--share"),
}


@pytest.mark.parametrize("line", HELP)
def test_help(run: Callable[..., Ended], line: str):
    ended = run(*line.split())
    assert ended.code == 0
    assert [word for word in HELP[line] if word not in ended.out] == []
    assert ended.err == ""


def test_the_program_starts_without_what_is_slow_to_import():
    program = "import sys, l2snet.cli; print({'torch', 'numpy', 'SimpleITK', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("arguments", [(), ("train",)], ids=["l2snet", "l2snet train"])
def test_no_arguments_show_the_help(run: Callable[..., Ended], arguments: tuple[str, ...]):
    ended = run(*arguments)
    assert "Usage" in ended.out + ended.err
    assert ended.code in (0, 2)
    assert "internal error" not in ended.err


def test_an_unforeseen_error_is_one_line_too(
    run: Callable[..., Ended], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise KeyError("first line\nsecond line")

    monkeypatch.setattr("l2snet.sources.challenge.read", broken)
    ended = run("predict", folder, tmp_path / "out")
    assert ended.code == 3
    assert ended.last.startswith("internal error: KeyError: ")
    assert "--debug" in ended.last
    assert "Traceback" not in ended.err
    assert files(tmp_path / "out" / "images") == []


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [(MemoryError(), 1, "error: out of memory"), (KeyboardInterrupt(), 130, "interrupted")],
    ids=["memory", "interrupt"],
)
def test_memory_and_interrupt(
    run: Callable[..., Ended],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    sentence: str,
):
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("l2snet.sources.challenge.read", stop)
    ended = run("predict", folder, tmp_path / "out")
    assert ended.code == code
    assert ended.last.startswith(sentence)
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("debug", [False, True])
def test_debug_shows_the_traceback_before_the_sentence(tmp_path: Path, debug: bool):
    # In a process of its own: pytest has taken over the logging of this one.
    arguments = ["predict", str(tmp_path / "none"), str(tmp_path / "out"), *(["--debug"] if debug else [])]
    done = subprocess.run([sys.executable, "-m", "l2snet", *arguments], capture_output=True, text=True, check=False)
    assert ("Traceback (most recent call last)" in done.stderr) is debug
    assert done.stderr.rstrip("\n").splitlines()[-1].startswith("error: there is no input folder")
    assert done.returncode == 1
    assert done.stdout == ""


@pytest.mark.skipif(sys.platform == "win32", reason="the locale has no say in names there")
def test_names_in_unicode_in_a_locale_without(tmp_path: Path, weights: Path, phantom: Phantom, write_case: WriteCase):
    name = "病人 Ünï"
    folder = write_case(tmp_path / "Žižka", phantom(name=name))
    arguments = ("predict", folder, tmp_path / "out ☢", "--weights", weights, "--device", "cpu")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "l2snet", *arguments]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    mask = f"images/automated-petct-lesion-segmentation/{name}.mha"
    assert [str(path) for path in files(tmp_path / "out ☢")] == [mask, "manifest.json"]
    assert name in done.stderr.decode("utf-8")
