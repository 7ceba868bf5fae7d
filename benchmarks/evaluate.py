"""What comparing two masks of a whole body takes, files included, beside reading the files alone; prints a table.

    pip install '.[evaluate]'
    python benchmarks/evaluate.py

The masks are 400 x 400 x 326 voxels with fifty lesions each, ten of them in one mask alone, compressed. Times are of
the processor, on one core, so that other work on the machine counts little. Exits with 1 where the median case takes
1.5 s or more without surface Dice.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

from l2snet.evaluation.metrics import confusion, measure
from l2snet.evaluation.pairs import read_mask
from l2snet.parallel import keep_freed_memory
from l2snet.volume import Array, Geometry, Volume, write_volume

MOST_SECONDS = 1.5
GRID = Geometry((326, 400, 400), (3.0, 2.036, 2.036))
LESIONS, ALONE, SURFACE_MM = 50, 10, 2.0
# Each lesion is a ball in a cube of its own, of 2 * REACH + 1 voxels.
REACH = 12


def main() -> int:
    """Write the masks, read them, compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5, help="how many pairs of masks")
    cases = range(parser.parse_args().cases)
    keep_freed_memory()  # as l2snet evaluate does
    confusion(np.ones((1, 1, 1)), np.ones((1, 1, 1)))  # imports
    with tempfile.TemporaryDirectory() as scratch:
        pairs = []
        for case in cases:
            pairs.append([Path(scratch) / f"{case}_{mask}.nii.gz" for mask in ("truth", "prediction")])
            for array, path in zip(two_masks(case), pairs[-1], strict=True):
                write_volume(Volume(array, GRID), path, compress=True)
        plain, compared, with_surface = (
            [seconds(step, pair) for pair in pairs] for step in (read, compare, compare_surfaces)
        )
    first = plain[0], compared[0], with_surface[0]
    print(f"{GRID}; {LESIONS} lesions a mask; {len(cases)} cases\n")
    print("| | first case, s | median, s | x reading |\n|---|---|---|---|")
    names = "reading the two files alone", "l2snet evaluate", f"with surface Dice at {SURFACE_MM:g} mm"
    for name, begun, times in zip(names, first, (plain, compared, with_surface), strict=True):
        median = statistics.median(times)
        print(f"| {name} | {begun:.2f} | {median:.2f} | {median / statistics.median(plain):.1f} |")
    return 0 if statistics.median(compared) < MOST_SECONDS else 1


def two_masks(seed: int) -> list[Array]:
    """Truth and prediction: balls of random size in cubes of which they share all but `ALONE`."""
    rng = np.random.default_rng(seed)
    side = 2 * REACH + 1
    cubes = rng.permutation(np.argwhere(np.ones([n // side for n in GRID.size])))[: LESIONS + ALONE] * side
    z, y, x = np.ogrid[-REACH : REACH + 1, -REACH : REACH + 1, -REACH : REACH + 1]
    masks = []
    for mine in (cubes[:LESIONS], cubes[ALONE:]):
        array = np.zeros(GRID.size, np.uint8)
        for corner in mine:
            ball = z * z + y * y + x * x < rng.integers(2, REACH + 1) ** 2
            array[tuple(slice(at, at + side) for at in corner)] = ball
        masks.append(array)
    return masks


def read(paths: list[Path]) -> None:
    """The files' voxels, as nibabel gives them."""
    for path in paths:
        np.asarray(nibabel.load(path).dataobj)


def compare(paths: list[Path], surface_mm: float | None = None) -> None:
    """What l2snet evaluate does with a case."""
    (truth, grid), (prediction, _) = (read_mask(path, path.stem) for path in paths)
    scores = measure(truth, prediction, grid.spacing_mm, surface_mm)
    if (scores.lesions, scores.false_positives) != (LESIONS, ALONE):
        raise SystemExit(f"{scores.lesions} lesions were found, and {scores.false_positives} false positives")


def compare_surfaces(paths: list[Path]) -> None:
    """The same with surface Dice."""
    compare(paths, SURFACE_MM)


def seconds(step: Callable[[list[Path]], None], paths: list[Path]) -> float:
    """Processor time of a step."""
    began = time.process_time()
    step(paths)
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
