"""Many small cases in one process, as a cohort has them; prints what the process holds as they go by.

    python test/soak.py 200

They are done in rounds, and counted between them, when no case is in work. Exits with 1 where memory grows after the
first half, or open files, threads or temporary files are left.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from known_weights import write_known_weights
from typer import echo

from l2snet.cohort.cases import CohortCase
from l2snet.cohort.plan import Plan
from l2snet.cohort.run import in_this_process
from l2snet.methods import load_method
from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.volume import Geometry, Volume, write_volume

# Grids of their own, so that networks are compiled again and again.
SIZES = ((24, 28, 32), (40, 28, 32), (24, 44, 40), (33, 35, 37), (20, 50, 60))
# Allocators give memory back in lumps.
MAY_GROW_MIB = 32.0
# A thread that was joined may take a moment to go; what leaks, leaks with every case or round.
SETTLE_S, MAY_STAY = 0.1, 1
ROWS = 20


@dataclass(frozen=True)
class Held:
    """What the process holds after so many cases."""

    cases: int
    memory_mib: float
    open_files: int
    threads: int
    temporary_files: int


def write_case(folder: Path, size: tuple[int, int, int]) -> None:
    """A warm block with a hot cube, in the container's layout."""
    grid = Geometry(size, WORKING_SPACING_MM)
    suv, hu = np.zeros(size, np.float32), np.full(size, -1000.0, np.float32)
    inside = tuple(slice(n // 8, n - n // 8) for n in size)
    suv[inside], hu[inside] = 1.0, 40.0
    suv[tuple(slice(n // 2, n // 2 + 4) for n in size)] = 8.0
    for what, array in (("pet", suv), ("ct", hu)):
        write_volume(Volume(array, grid), folder / "images" / what / f"{what}.mha", compress=False)


def soak(cases: int, work: Path) -> Iterator[Held]:
    """Do so many cases; what is held after each round of all sizes."""
    temporary = work / "temporary"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    for number, size in enumerate(SIZES):
        write_case(work / "in" / str(number), size)
    method = load_method("l2snet", [write_known_weights(work / "weights")], "cpu", "exact")
    plan = Plan(work / "out", lambda: method, "soak", probability=True)
    listed = [CohortCase(f"{n:04d}", work / "in" / str(n % len(SIZES))) for n in range(cases)]
    for first in range(0, cases, len(SIZES)):
        for outcome in in_this_process(plan, listed[first : first + len(SIZES)]):
            if outcome.error or outcome.row["lesions"] != 1:
                raise SystemExit(f"case {outcome.name}: {outcome.error or outcome.row}")
        time.sleep(SETTLE_S)
        yield held(min(first + len(SIZES), cases), temporary)


def held(cases: int, temporary: Path) -> Held:
    """What this process holds (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    status = Path("/proc/self/status").read_text()
    return Held(
        cases,
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list(Path("/proc/self/fd").iterdir())),
        int(status.partition("Threads:")[2].split()[0]),
        sum(1 for _ in temporary.rglob("*")),
    )


def main(cases: int) -> int:
    """Print a row now and then, and the growth from the second quarter to the second half; at least 20 cases."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as work:
        rows = []
        echo("| cases | memory, MiB | open files | threads | temporary files |\n|---|---|---|---|---|")
        for row in soak(cases, Path(work)):
            rows.append(row)
            if row.cases % max(1, cases // ROWS) == 0:
                echo("| " + " | ".join(f"{value:.0f}" for value in astuple(row)) + " |")
        left = list((Path(work) / "out").rglob(".*"))
    settled = rows[len(rows) // 4 : len(rows) // 2]
    last = rows[len(rows) // 2 :]
    growth = max(row.memory_mib for row in last) - max(row.memory_mib for row in settled)
    more = [
        max(getattr(row, name) for row in last) - max(getattr(row, name) for row in settled)
        for name in ("open_files", "threads")
    ]
    echo(f"\nsecond half against second quarter: {growth:+.1f} MiB, {more[0]:+d} open files, {more[1]:+d} threads")
    echo(f"left: {rows[-1].temporary_files} temporary files, {len(left)} unfinished files beside the results")
    return int(growth > MAY_GROW_MIB or max(more) > MAY_STAY or rows[-1].temporary_files > 0 or bool(left))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
