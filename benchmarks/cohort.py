"""A cohort stopped and continued, with a corrupted patient, in one process and on two Ray nodes; prints a table.

    pip install '.[cluster,measure]'
    python benchmarks/cohort.py PATIENTS      # folders with SUV.nii.gz and CT.nii.gz, the CT on its own grid

Both runs are killed (SIGKILL) once a third of the patients is done, and started again with the same command. Exits with
1 where their tables, or the masks, differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

COMMAND = [sys.executable, "-m", "l2snet", "cohort"]
OPTIONS = ["--resample-ct", "--device", "cpu"]


@dataclass(frozen=True)
class Run:
    """What a run that was killed and continued came to."""

    name: str
    before: int
    done: int
    failed: int
    seconds: float
    table: str
    masks: dict[str, str]

    def line(self) -> str:
        """A row of the printed table."""
        total = self.done + self.failed
        each = self.seconds / total
        return f"| {self.name} | {self.before} | {self.done} | {self.failed} | {self.seconds:.0f} | {each:.1f} |"


def main() -> int:
    """Make the cohort, run it both ways, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path, help="a folder of folders with SUV.nii.gz and CT.nii.gz")
    patients = parser.parse_args().patients
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        shutil.copytree(patients, root, ignore=shutil.ignore_patterns("SEG*"))
        names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
        spoilt = root / names[len(names) // 2] / "SUV.nii.gz"
        spoilt.write_bytes(spoilt.read_bytes()[: spoilt.stat().st_size // 2])
        print(f"{len(names)} patients, {spoilt.parent.name} cut off in the middle; {os.cpu_count()} CPUs", flush=True)
        alone = run("one process", root, Path(scratch) / "alone", len(names), [])
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.add_node(num_cpus=1)
        try:
            apart = run("two Ray nodes", root, Path(scratch) / "apart", len(names), ["--ray", nodes.address])
        finally:
            nodes.shutdown()
    print("\n| | done when killed | done | failed | seconds, both parts | a case |\n|---|---|---|---|---|---|")
    print(f"{alone.line()}\n{apart.line()}\n")
    same = alone.table == apart.table and alone.masks == apart.masks
    print(f"the tables and the {len(alone.masks)} masks are {'the same' if same else 'NOT the same'}")
    return 0 if same and alone.failed == 1 and alone.done == len(names) - 1 else 1


def run(name: str, root: Path, out: Path, cases: int, more: list[str]) -> Run:
    """Kill the command when a third of the cases is done, give it again, and read what it left."""
    command = [*COMMAND, str(root), str(out), *OPTIONS, *more]
    began = time.perf_counter()
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while len(finished(out)) < cases // 3 and first.poll() is None:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    if more:  # workers outlive the command by a moment
        time.sleep(5)
    before = len(finished(out))
    second = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - began
    if second.returncode != 1:
        raise SystemExit(
            f"{name}: expected the exit code 1 of a cohort with a bad case, not {second.returncode}:\n{second.stderr}"
        )
    table = (out / "cohort.csv").read_text("utf-8")
    statuses = [line.split(",")[1] for line in table.splitlines()[1:]]
    return Run(name, before, statuses.count("done"), statuses.count("failed"), seconds, table, finished(out))


def finished(out: Path) -> dict[str, str]:
    """Digests of the masks of the cases with a whole result, by name."""
    return {
        mask.relative_to(out).parts[0]: hashlib.sha256(mask.read_bytes()).hexdigest()
        for mask in sorted(out.glob("[!.]*/images/*/*.mha"))
    }


if __name__ == "__main__":
    sys.exit(main())
