"""A result is written again and again, by processes that a signal ends one step later each time (test_faults.py).

python test/writing.py FOLDER SIGKILL
"""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from l2snet import cli
from l2snet.case import Case
from l2snet.pipeline import Segmentation
from l2snet.predict import Wanted, write_result
from l2snet.results import Measuring
from l2snet.sources.result_writer import Format
from l2snet.volume import Geometry, Volume

# Steps of writing that Python reports before it takes them (sys.addaudithook).
STEPS = ("open", "os.rename", "os.remove", "os.mkdir")
NAME = "case"
MOST_STEPS = 100


def write(folder: Path) -> None:
    """Everything that a result may hold, but for what is drawn."""
    suv = np.ones((8, 9, 10), np.float32)
    suv[2:5, 2:5, 2:5] = 8.0
    volume = Volume(suv, Geometry(suv.shape))
    case = Case(NAME, volume)
    result = Segmentation(NAME, volume.with_array((suv > 5).astype(np.uint8)), volume, volume)
    method = SimpleNamespace(settings={"method": "none", "engine": "none"}, segment=None)
    wanted = Wanted(probability=True, cue=True, measuring=Measuring(frozenset({Format.nifti, Format.nrrd})))
    write_result(case, result, method, folder, wanted, 0.0, time.perf_counter())


def ended_at(step: int, number: int, folder: Path) -> int:
    """Write in a process of its own that gets the signal before this step; its exit status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    steps = count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS and str(folder) in str(arguments) and next(steps) == step:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    signal.signal(signal.SIGTERM, cli._terminate)
    try:
        write(folder)
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    os._exit(0)


def main(folder: Path, number: int) -> None:
    """One folder a step, until the last step is past."""
    for step in range(1, MOST_STEPS):
        place = folder / f"{step:02d}"
        place.mkdir()
        if ended_at(step, number, place) == 0:
            return
    raise SystemExit(f"a result takes over {MOST_STEPS} steps")


if __name__ == "__main__":
    main(Path(sys.argv[1]), signal.Signals[sys.argv[2]])
