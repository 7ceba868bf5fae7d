"""Jobs in this process and in several: results, errors, a killed worker; and text files that are whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from l2snet.errors import InputError, L2SNetError, OutputError
from l2snet.files import write_text
from l2snet.parallel import WorkerKilledError, run_in_processes, run_jobs


class Weight:
    """Is pickled by its own method, which leaves a line in a file each time."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __reduce__(self) -> tuple[type[Weight], tuple[Path]]:
        with self.log.open("a") as file:
            file.write("pickled\n")
        return Weight, (self.log,)


def square(number: int, weight: Weight | None = None) -> int:
    if number == 13:
        raise InputError("13 is unlucky")
    if number == 99:
        os._exit(9)
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_comes_with_its_result(workers: int) -> None:
    assert dict(run_jobs(square, [3, 1, 2], workers)) == {1: 1, 2: 4, 3: 9}
    with pytest.raises(InputError, match="13 is unlucky"):
        list(run_jobs(square, [13], workers))


def test_one_worker_keeps_the_order_and_this_process() -> None:
    assert list(run_jobs(os.getpid().__add__, [3, 1], 1)) == [(3, os.getpid() + 3), (1, os.getpid() + 1)]
    assert list(run_jobs(square, [], 1)) == list(run_jobs(square, [], 2)) == []


def test_what_is_bound_to_the_function_goes_to_a_worker_once(tmp_path: Path) -> None:
    function = partial(square, weight=Weight(tmp_path / "log"))
    assert len(dict(run_in_processes(function, list(range(8)), 1))) == 8
    assert (tmp_path / "log").read_text() == "pickled\n"


def test_a_killed_worker_is_a_sentence_and_what_was_done_is_not_lost() -> None:
    done = []
    with pytest.raises(WorkerKilledError, match=r"killed.*fewer --workers.*more memory") as killed:
        for one in run_in_processes(square, [2, 99], 1):
            done.append(one)
    assert isinstance(killed.value, L2SNetError)
    assert killed.value.lost == [99]
    assert done == [(2, 4)]


PARENT = """
import sys
from test_parallel import report_and_sleep
from l2snet.parallel import run_in_processes
if __name__ == "__main__":
    list(run_in_processes(report_and_sleep, sys.argv[1:], 2))
"""


def report_and_sleep(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "parent.py").write_text(PARENT)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", *files], env={**os.environ, "PYTHONPATH": paths})
    wait_for(lambda: all(file.is_file() and file.read_text() for file in files))
    workers = [int(file.read_text()) for file in files]
    assert all(alive(worker) for worker in workers)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers))


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    status = Path(f"/proc/{process}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def test_a_text_is_whole_or_not_there(tmp_path: Path) -> None:
    write_text("one\n", tmp_path / "new" / "a.txt")
    write_text("two\n", tmp_path / "new" / "a.txt")
    assert (tmp_path / "new" / "a.txt").read_text() == "two\n"
    (tmp_path / "new" / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder cannot be written \(.*\); choose a folder with rights and space"):
        write_text("three\n", tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.txt", "folder"]
