"""A cohort on several machines by Ray: a task a case; weights are loaded once a worker process, which does many cases.

A worker or machine that dies in mid-case costs that case one retry, for results are renamed into place.
Machines must see ROOT and OUT under the same paths, and have this program installed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from l2snet.cohort.cases import CohortCase
from l2snet.cohort.plan import Outcome, Plan
from l2snet.cohort.run import quiet
from l2snet.errors import InputError, MissingPackageError, reason
from l2snet.pipeline import Method

# How often a case whose worker died is tried again.
RETRIES = 1
# A cluster's head answers sooner.
KNOCK_S = 15.0
# What this process, where it is a worker, segments with, by `Plan.made_by`.
_loaded: dict[str, Method] = {}


@dataclass(frozen=True)
class Cluster:
    """Where tasks run and what each takes.

    Attributes
    ----------
    address : of a running Ray cluster, HOST:PORT, or "auto" for that of this machine.
    cpus, gpus : of a case; a share of a GPU, such as 0.5, puts several cases on it.
    """

    address: str
    cpus: float = 1.0
    gpus: float = 0.0

    def __call__(self, plan: Plan, cases: Sequence[CohortCase]) -> Iterator[Outcome]:
        """Outcomes as they are done.

        Raises
        ------
        InputError : there is no cluster at the address, or a case needs more than any machine of it has.
        MissingPackageError : Ray is not installed.
        """
        if not cases:
            return
        ray = _connect(self.address)
        try:
            self._check(ray.nodes())
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(_do)
            shared = ray.put(plan)
            waiting = {task.remote(shared, case): case for case in cases}
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                yield _outcome(ray, ready, waiting.pop(ready))
        finally:
            ray.shutdown()

    def _check(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Refuse what no machine has, for Ray would wait for one that has it."""
        owned = [node.get("Resources", {}) for node in nodes if node.get("Alive")]
        machines = [(float(has.get("CPU", 0)), float(has.get("GPU", 0))) for has in owned]
        if not any(cpus >= self.cpus and gpus >= self.gpus for cpus, gpus in machines):
            listed = ", ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in sorted(set(machines), reverse=True)[:3])
            raise InputError(
                f"a case takes {self.cpus:g} CPUs and {self.gpus:g} GPUs, and no machine of the cluster has both (they "
                f"have {listed or 'none'}); give smaller --cpus-per-case or --gpus-per-case"
            )


def _connect(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    # What is killed for memory has a counter of its own, without an end; read when Ray is imported.
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError("--ray", "cluster") from error
    try:
        _knock(address)  # Ray itself would knock for many minutes
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({reason(error)}); start one: ray start --head"
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT, ValueError where that is no port."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        with socket.create_connection((host, int(port)), timeout=KNOCK_S):
            pass


def _outcome(ray: Any, ready: Any, case: CohortCase) -> Outcome:
    try:
        outcome: Outcome = ray.get(ready)
    except ray.exceptions.RayTaskError as error:  # before or after the case itself: weights, or the task's own code
        return Outcome(case.name, error=case.told(f"its worker could not begin: {reason(error)}"))
    except ray.exceptions.RayError:
        sentence = f"its worker died {RETRIES + 1} times, out of memory perhaps; give each case more --cpus-per-case"
        return Outcome(case.name, error=sentence)
    return outcome


def _do(plan: Plan, case: CohortCase) -> Outcome:
    """In a worker."""
    with quiet():
        if plan.made_by not in _loaded:
            _loaded.clear()
            _loaded[plan.made_by] = plan.load()
        return plan.do(case, _loaded[plan.made_by])
