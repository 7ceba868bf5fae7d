"""What a case's report weighs, and how long its rotating projection takes; prints a table.

    pip install '.[report]'
    python benchmarks/report.py INPUT RESULT      # a whole body, and the folder that l2snet predict wrote for it

With --probability and --cue the result holds all that a page can hold. Exits with 1 where the page is 40 MB or more, or
its angles take 5 s or more (on two cores).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from l2snet.report.casepage import Options, write_report
from l2snet.report.findings import read_findings
from l2snet.report.rotation import turning_frames
from l2snet.sources.inputs import Reading, read_input

MOST_MB, MOST_SECONDS = 40.0, 5.0


def main() -> int:
    """Read the case, turn it, write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="what l2snet predict read")
    parser.add_argument("result", type=Path, help="the folder that it wrote")
    parser.add_argument("--pet-only", action="store_true", help="do without a CT")
    arguments = parser.parse_args()
    source = read_input(arguments.input, Reading(arguments.pet_only))
    findings = read_findings(source.case, arguments.result, source.dicom.subject if source.dicom else None)
    suv, labels, box = findings.suv, findings.labels, findings.box
    options = Options()
    began = time.perf_counter()
    frames = turning_frames(suv, labels, box, options.max_suv)
    turned = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        began = time.perf_counter()
        write_report(findings, page, options)
        written, size = time.perf_counter() - began, page.stat().st_size / 1e6
    print(f"{findings.case.geometry}; {findings.burden.lesions} lesions, the maps are ", end="")
    print(f"{'there' if findings.probability is not None else 'not there'}; {len(os.sched_getaffinity(0))} CPUs\n")
    print("| | |\n|---|---|")
    print(f"| {len(frames)} angles, s | {turned:.1f} |\n| page with viewer, s | {written:.1f} |")
    print(f"| page with viewer, MB | {size:.1f} |")
    return 0 if size < MOST_MB and turned < MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
