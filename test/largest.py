"""Peak memory of one large case on the CPU, with networks that take next to none of it, on the shipped ones' windows.

    python test/largest.py 1260

The number is that of slices of 400 x 400 voxels; 1260 is the largest case. Three quarters of every axis are body. Exits
with 1 above the 8 GiB that the program may take.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from known_weights import write_known_weights
from soak import write_case
from typer import echo

LIMIT_MIB = 8 * 1024


def main(slices: int) -> int:
    """Write a case, run it in a process of its own, and print what its manifest says."""
    with tempfile.TemporaryDirectory() as work:
        case, out, weights = Path(work) / "in", Path(work) / "out", Path(work) / "weights"
        write_case(case, (slices, 400, 400))
        write_known_weights(weights, shipped_size=True)
        options = ["--weights", weights, "--device", "cpu", "--probability"]
        subprocess.run([sys.executable, "-m", "l2snet", "predict", case, out, *options], check=True)
        manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    peak, one = manifest["peak_memory_mib"], slices * 400 * 400 * 4 / 2**20
    echo(f"400 x 400 x {slices}: {peak} MiB at most, {peak / one:.1f} times one float32 volume; {manifest['seconds']}")
    return int(peak > LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
