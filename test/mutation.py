"""Mutation testing: what the tests make of small changes in the modules that [tool.mutmut] of pyproject.toml names.

    pip install '.[mutate]' && python test/mutation.py

Runs mutmut, which keeps its work in `mutants/` and goes on where it was stopped, and prints a row of a Markdown table a
module. `mutmut show NAME` prints what was changed. Exits with 1 where mutants survive that docs/testing.md does not
allow for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict

from typer import echo

# What was looked at, and changes no result; docs/testing.md says why.
EQUIVALENT = {
    "l2snet.evaluation.metrics": 5,
    "l2snet.fuse": 2,
    "l2snet.sources.suv": 4,
    "l2snet.volume": 24,
}


def by_module(results: str) -> dict[str, Counter[str]]:
    """How the mutants of each module ended, from lines such as `l2snet.fuse.x_adaptive__mutmut_1: killed`."""
    modules: dict[str, Counter[str]] = defaultdict(Counter)
    for line in results.splitlines():
        name, colon, status = line.strip().partition(": ")
        if colon and "__mutmut_" in name:
            modules[name.partition(".x")[0]][status] += 1
    return modules


def main() -> int:
    """Run, and print the table."""
    subprocess.run(["mutmut", "run", *sys.argv[1:]], check=True, env={**os.environ, "L2SNET_HYPOTHESIS": "mutants"})
    done = subprocess.run(["mutmut", "results", "--all", "true"], check=True, capture_output=True, text=True)
    echo("| module | mutants | killed | timed out | survived |\n|---|---|---|---|---|")
    left = 0
    for module, ended in sorted(by_module(done.stdout).items()):
        # A mutant that ends the process of its tests, as ITK does on a file name that is none, does not go unseen.
        killed, late = ended["killed"] + ended["segfault"], ended["timeout"]
        survived = ended.total() - killed - late
        left += max(0, survived - EQUIVALENT.get(module, 0))
        echo(f"| `{module.removeprefix('l2snet.')}` | {ended.total()} | {killed} | {late} | {survived} |")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
