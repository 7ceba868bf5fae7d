"""How large the same cases are, and how fast crops are read from them: NIfTI, plain arrays, LMDB store."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from l2snet.sources.autopet import CT, CT_RESAMPLED, LESIONS, SUV, find_studies
from l2snet.training.cache import CachedCase
from l2snet.training.datasets import Readable, random_start, read_crop
from l2snet.training.store import StoredCase
from l2snet.training.surroundings import surroundings

# Read a crop's PET, CT and lesions at (z, y, x).
Read = Callable[[int, Sequence[int]], None]


@dataclass(frozen=True)
class Format:
    """A way to keep the same cases.

    Attributes
    ----------
    files : that hold them; also what the kernel is asked to forget.
    read : reads a crop of case number k.
    """

    name: str
    files: Sequence[Path]
    read: Read


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes
    ----------
    size : bytes on disk.
    cold, warm : crops per second, from disk and from memory; they suffer from whatever else the machine does.
    cpu_ms : processor time of a crop from memory, which does so less.
    """

    size: int
    cold: float
    warm: float
    cpu_ms: float


def formats(
    studies: Sequence[Path], cached: Sequence[CachedCase], stored: Sequence[StoredCase], crop: Sequence[int]
) -> list[Format]:
    """NIfTI, plain memory-mapped arrays and store of the same cases in the same order.

    NIfTI is read whole and cut, without resampling or checks, and its crop's surroundings are computed; it so does less
    than training from it would have to.
    """
    nifti = [_files(study) for study in studies]

    def from_nifti(number: int, start: Sequence[int]) -> None:
        *images, lesions = (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in nifti[number])
        for image in images:
            read_crop(image, start, crop)
        surroundings(read_crop(lesions, start, crop))

    def cut(arrays: Sequence[Readable | None], start: Sequence[int]) -> None:
        for array in arrays:
            if array is not None:
                read_crop(array, start, crop)

    def from_arrays(number: int, start: Sequence[int]) -> None:
        case = CachedCase(cached[number].folder)
        cut([case.suv, case.ct, case.lesions], start)

    def from_store(number: int, start: Sequence[int]) -> None:
        case = stored[number]
        cut([case.suv, case.ct, case.levels], start)

    plain = [one.folder / f"{name}.npy" for one in cached for name in ("suv", "ct", "lesions")]
    plain = [file for file in plain if file.is_file()]
    return [
        Format("NIfTI (gzip), whole volumes", [file for files in nifti for file in files], from_nifti),
        Format("plain arrays (cache)", plain, from_arrays),
        Format("LMDB store", sorted({one.suv.path for one in stored}), from_store),
    ]


def _files(study: Path) -> list[Path]:
    """A study's PET, the CT that training would take, and lesions."""
    ct = next((study / name for name in (CT_RESAMPLED, CT) if (study / name).is_file()), None)
    return [study / SUV, *([] if ct is None else [ct]), study / LESIONS]


def measure(one: Format, sizes: Sequence[Sequence[int]], crop: Sequence[int], reads: int, seed: int = 0) -> Measured:
    """Time `reads` random crops, each of another case as far as there are, twice: forgotten by the kernel, and at once.

    Parameters
    ----------
    sizes : (z, y, x) of each case on the working grid.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(reads) % len(sizes))
    places = [(int(number), random_start(sizes[number], crop, rng)) for number in numbers]
    _forget(one.files)
    rates = []
    for _ in range(2):
        began, processor = time.perf_counter(), time.process_time()
        for number, start in places:
            one.read(number, start)
        rates.append(reads / (time.perf_counter() - began))
    cpu_ms = 1000 * (time.process_time() - processor) / reads
    return Measured(sum(file.stat().st_size for file in one.files), rates[0], rates[1], cpu_ms)


def _forget(files: Sequence[Path]) -> None:
    """Ask the kernel to drop what it keeps of these files in memory (Linux)."""
    if sys.platform.startswith("linux"):
        for file in files:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def table(measured: Mapping[str, Measured], cases: int) -> str:
    """Markdown: size, crops a second by one process, and what a crop costs it."""
    lines = [
        "| | MB | MB a case | crops/s, from disk | crops/s, in memory | CPU ms a crop |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in measured.items():
        megabytes = one.size / 1e6
        numbers = [f"{megabytes:.0f}", *(f"{x:.1f}" for x in (megabytes / cases, one.cold, one.warm, one.cpu_ms))]
        lines.append("| " + " | ".join([name, *numbers]) + " |")
    return "\n".join(lines) + "\n"


def compare(
    data: Sequence[Path], cached: Sequence[CachedCase], stored: Sequence[StoredCase], crop: Sequence[int], reads: int
) -> str:
    """The table of the three formats of the studies under the `data` folders.

    Parameters
    ----------
    cached, stored : the same studies in the cache and in a store.
    reads : crops to read from each format, twice.
    """
    folders = {folder.name: folder for root in data for folder in find_studies(root)}
    plain, packed = {case.name: case for case in cached}, {case.name: case for case in stored}
    names = sorted(folders)
    ways = formats([folders[n] for n in names], [plain[n] for n in names], [packed[n] for n in names], crop)
    sizes = [packed[name].suv.shape for name in names]
    return table({way.name: measure(way, sizes, crop, reads) for way in ways}, len(names))
