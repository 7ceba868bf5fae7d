"""One function for many jobs, in this process or in several; results come as they are done."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

import SimpleITK as sitk

from l2snet.errors import L2SNetError

Job = TypeVar("Job")
Result = TypeVar("Result")
# Python's pool refuses more there, as Windows waits for 63 things at most.
MOST_ON_WINDOWS = 61
# What this process, where it is a worker, does with its jobs.
_worker: dict[str, Callable[[Any], Any]] = {}


class WorkerKilledError(L2SNetError):
    """A worker process was killed from outside; `lost` are the jobs that were not done."""

    def __init__(self, lost: Sequence[Any]) -> None:
        super().__init__(
            "a worker process was killed, out of memory perhaps; give the same command with fewer --workers, or on a "
            "machine with more memory, and it goes on"
        )
        self.lost = lost


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 1) -> Iterator[tuple[Job, Result]]:
    """Every job with its result: in order from this process where there is one worker, else as they are done.

    Parameters
    ----------
    function : goes to each worker once, with all that is bound to it (`functools.partial`); must be picklable.

    Raises
    ------
    WorkerKilledError : a worker was killed; all other results came before. What `function` raises is raised as it is.
    """
    if workers < 2:
        return ((job, function(job)) for job in jobs)
    return run_in_processes(function, jobs, workers)


def run_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """As `run_jobs`, and in a process of its own even where there is one worker."""
    lost: list[Job] = []
    if sys.platform == "win32":
        workers = min(workers, MOST_ON_WINDOWS)
    # Spawned, not forked: the threads of the progress bar and of SimpleITK do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (function,)) as pool:
        futures = {pool.submit(_run, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                try:
                    result = future.result()
                except BrokenProcessPool:
                    lost.append(futures[future])
                else:
                    yield futures[future], result
        finally:  # after an error or an interrupt no further job is begun
            pool.shutdown(wait=False, cancel_futures=True)
    if lost:
        raise WorkerKilledError(lost)


def _start_worker(function: Callable[[Any], Any]) -> None:
    """One thread a process: they share the cores."""
    Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    _worker["function"] = function


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers; without it they would work on, or wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory of this process, for work on many large arrays: to map each anew is slow."""
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-4, 0)  # M_MMAP_MAX: never map a single allocation
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give memory back


def _run(job: Any) -> Any:
    return _worker["function"](job)
