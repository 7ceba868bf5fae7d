"""A coverage-guided fuzzer (atheris) on one reader: `python test/fuzz.py READER RUNS FOLDER`.

It begins with good files, changes them by what code they reach, and ends with 0 after RUNS of them; any exception but
an InputError, a crash or a hang ends it with another code and leaves the bytes as FOLDER/crash-*. The seed is fixed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["l2snet"]):
    from l2snet.errors import InputError
    from l2snet.sources import challenge
    from l2snet.volume import Geometry, Volume, read_volume, write_volume

import numpy as np

SUFFIXES = {"mha": ".mha", "nifti": ".nii", "nifti-gz": ".nii.gz", "nrrd": ".nrrd"}
INPUTS = "inputs.json"
READERS = (*SUFFIXES, INPUTS)
# One file takes milliseconds, even on a busy machine far under the limit.
LIMITS = ("-max_len=4096", "-timeout=100", "-rss_limit_mb=0", "-malloc_limit_mb=2048", "-seed=1")


def write_seeds(reader: str, folder: Path) -> None:
    """Good files to begin with."""
    folder.mkdir(parents=True)
    if reader == INPUTS:
        for key in ("socket", "interface"):
            entries = [{key: {"relative_path": f"images/{what}"}, "image": {"name": "a.mha"}} for what in ("pet", "ct")]
            (folder / f"{key}.json").write_text(json.dumps(entries), "utf-8")
        return
    for dtype in (np.float32, np.int16):
        volume = Volume(np.arange(24, dtype=dtype).reshape(2, 3, 4), Geometry((2, 3, 4), (3.0, 2.0, 2.0)))
        for compress in (False, True):
            write_volume(volume, folder / f"{np.dtype(dtype).name}-{compress}{SUFFIXES[reader]}", compress)


def target(reader: str, folder: Path) -> Callable[[bytes], None]:
    """Read bytes as what the reader reads; it may refuse them, and nothing else."""
    source = folder / "input"
    source.mkdir()
    place = source / (INPUTS if reader == INPUTS else f"pet{SUFFIXES[reader]}")

    def once(data: bytes) -> None:
        place.write_bytes(data)
        try:
            if reader == INPUTS:
                challenge.read(source)
            else:
                read_volume(place, "PET")
        except InputError:
            pass

    return once


def main(reader: str, runs: int, folder: Path) -> None:
    """Fuzz one reader; libFuzzer ends the process."""
    write_seeds(reader, folder / "seeds")
    options = [f"-runs={runs}", f"-artifact_prefix={folder}/", *LIMITS, str(folder / "seeds")]
    atheris.Setup([sys.argv[0], *options], target(reader, folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
