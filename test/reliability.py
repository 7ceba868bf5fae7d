"""Inputs that are damaged, extreme or hostile, each with what `l2snet predict` must make of it.

`python test/reliability.py` runs them all with networks that answer with the PET over 10, and prints the tables of
docs/reliability.md; it exits with 1 where anything came out other than it must. `test_reliability.py` is the same by
pytest. A trial is a name, what writes its input, and the result it must have: a mask known by hand, or a sentence.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import SimpleITK as sitk
from known_weights import write_known_weights
from reliability_inputs import INPUTS, SMALL_PET, Trial

from l2snet.cli import main
from l2snet.sources.challenge import OUTPUT
from l2snet.volume import Volume

# An engine that is loaded for the first time takes about 60 MiB; a claim of 4 or 100 GB that is believed takes more.
MOST_MEMORY_MIB = 256
LOADING_S = 5.0
NOBODY = 65534
TABLES = {"Inputs": INPUTS}


@dataclass(frozen=True)
class Ended:
    """How a run ended; `said` is what it wrote to stderr or warned of, `grew_mib` the most it took while it ran."""

    code: int
    said: tuple[str, ...]
    files: tuple[Path, ...]
    grew_mib: float


def run(trial: Trial, folder: Path, weights: Path) -> tuple[Ended, Volume | None]:
    """Write a trial's input under an empty folder, run the program on it, and say how it ended; and the mask due."""
    source, output = folder / trial.folder, folder / "output"
    source.mkdir(parents=True)
    output.mkdir()
    due = trial.make(source)
    places = {"INPUT": str(source), "OUTPUT": str(output)}
    arguments = [places.get(word, word.replace("INPUT/", f"{source}/")) for word in trial.arguments]
    output.chmod(0o777)
    before = _peak_mib(reset=True)
    with _heard() as said, _as_nobody(trial.without_rights):
        code = _exit_code([*arguments, "--weights", str(weights), "--device", "cpu"])
    grew = _peak_mib() - before
    for place in source.rglob("*"):
        if place.is_dir():
            place.chmod(0o755)
    found = tuple(sorted(p.relative_to(output) for p in output.rglob("*") if not p.is_dir()))
    return Ended(code, tuple(said), found, grew), due


def problem(trial: Trial, ended: Ended, due: Volume | None, folder: Path) -> str:
    """What is wrong with a result; empty where it is as it must be."""
    if ended.grew_mib > MOST_MEMORY_MIB:
        return f"it took {ended.grew_mib:.0f} MiB"
    if trial.sentence:
        return _refusal_problem(trial.sentence, ended)
    if ended.code != 0:
        return f"it ended with {ended.code}: {ended.said[-1:]}"
    masks = [path for path in ended.files if path.is_relative_to(OUTPUT)]
    manifest = Path("manifest.json")
    if len(masks) != 1 or set(ended.files) != {*masks, manifest, *map(Path, trial.beside)}:
        return f"it wrote {', '.join(map(str, ended.files))}"
    notes = json.loads((folder / "output" / manifest).read_text("utf-8"))["notes"]
    for where, texts in (("stderr", ended.said), ("the manifest", notes)):
        if trial.warning and not any(re.search(trial.warning, text) for text in texts):
            return f"no warning of {trial.warning!r} in {where}: {texts}"
    return _mask_problem(trial, folder / "output" / masks[0], due)


def _refusal_problem(sentence: str, ended: Ended) -> str:
    if ended.code not in (1, 2):
        return f"it ended with {ended.code}: {ended.said[-1:]}"
    if ended.files:
        return f"it left {', '.join(map(str, ended.files))}"
    errors = [line for line in ended.said if not line.startswith("warning: ")]
    if len(errors) != 1 or not re.match(f"error: .*(?:{sentence})", errors[0]):
        return f"expected one sentence with {sentence!r}, not {errors}"
    return ""


def _mask_problem(trial: Trial, path: Path, due: Volume | None) -> str:
    if trial.mask_name and path.name != trial.mask_name:
        return f"the mask is called {path.name}"
    plain = shutil.copy(path, path.with_name("mask.mha"))  # SimpleITK takes no name that is not UTF-8
    image = sitk.ReadImage(str(plain))
    mask = Volume.from_sitk(image)
    if due is None or image.GetPixelID() != sitk.sitkUInt8 or not mask.geometry.matches(due.geometry):
        return f"the mask is {image.GetPixelIDTypeAsString()}, {mask.geometry}"
    wrong = int((mask.array != due.array).sum())
    if trial.exact or not wrong:
        return f"{wrong} voxels of the mask are wrong" if wrong else ""
    inside, marked, lesion = (int(a.sum()) for a in (mask.array & due.array, mask.array, due.array))
    return "" if 2 * inside >= max(marked, lesion) else f"{inside} of {marked} marked voxels are of the {lesion} due"


def _exit_code(arguments: list[str]) -> int:
    try:
        main(["predict", *arguments])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else -1
    return -1


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Lines of stderr, and warnings of the library; progress and what is said of progress is left out."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear, text = Ear(logging.WARNING), io.StringIO()
    root = logging.getLogger()
    others, root.handlers = root.handlers, [ear]
    try:
        with contextlib.redirect_stderr(text):
            yield said
    finally:
        root.handlers = others
        said += text.getvalue().splitlines()


@contextlib.contextmanager
def _as_nobody(wanted: bool) -> Iterator[None]:
    """Root may read everything; another user may not."""
    if not wanted or not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    _wait_for_loading()
    os.seteuid(NOBODY)
    try:
        # The engine lies where root alone may read, and ends the process when it cannot; a refusal needs none.
        with patch("l2snet.methods.load_method"):
            yield
    finally:
        os.seteuid(0)


def _wait_for_loading() -> None:
    """Until the networks of inputs that were refused are loaded, and gone; those that others hold stay."""
    for name in ("load", "openvino"):
        gc.collect()  # their threads end with them
        end = time.monotonic() + LOADING_S
        for thread in threading.enumerate():
            if thread.name.startswith(name):
                thread.join(max(0.0, end - time.monotonic()))


def _peak_mib(reset: bool = False) -> float:
    """The most memory this process ever took, or since it was last reset; 0 where Linux does not tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def folder_for_all() -> Path:
    """A new temporary folder that another user can look into."""
    folder = Path(tempfile.mkdtemp(prefix="l2snet-reliability-"))
    folder.chmod(0o755)
    return folder


def rows(trials: tuple[Trial, ...], root: Path, weights: Path) -> Iterator[tuple[str, bool, float]]:
    """For every trial a row of a Markdown table, whether it came out wrong, and the memory it took."""
    folder = root / "trial"
    for trial in trials:
        if trial.missing:
            yield f"| {trial.name} | not tried | {trial.missing} |", False, 0.0
            continue
        ended, due = run(trial, folder, weights)
        bad = problem(trial, ended, due, folder)
        shutil.rmtree(folder)
        came = f"**wrong**: {bad}" if bad else "refused" if trial.sentence else "right mask"
        said = (
            " ".join(line for line in ended.said if SMALL_PET not in line)
            .replace(str(folder / trial.folder), "INPUT")
            .replace("|", "\\|")
        )
        yield f"| {trial.name} | {came} | {textwrap.shorten(said, 260)} |", bool(bad), ended.grew_mib


def print_tables() -> int:
    """Run every trial; 1 where one came out wrong."""
    root = folder_for_all()
    wrong = 0
    try:
        weights = write_known_weights(root / "weights")
        for name, trials in TABLES.items():
            sys.stdout.write(f"## {name}\n\n| input | came out as | said |\n|---|---|---|\n")
            most, bad = 0.0, 0
            for row, is_wrong, grew_mib in rows(trials, root, weights):
                sys.stdout.write(row + "\n")
                sys.stdout.flush()
                most, bad = max(most, grew_mib), bad + is_wrong
            tried = sum(not trial.missing for trial in trials)
            sys.stdout.write(f"\n{tried} tried, {bad} wrong; the most that one took is {most:.0f} MiB of memory.\n\n")
            wrong += bad
    finally:
        shutil.rmtree(root)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(print_tables())
