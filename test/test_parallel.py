"""Jobs in this process and in several: results, errors, a killed worker; and text files that are whole."""

from __future__ import annotations

import os
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


def test_a_text_is_whole_or_not_there(tmp_path: Path) -> None:
    write_text("one\n", tmp_path / "new" / "a.txt")
    write_text("two\n", tmp_path / "new" / "a.txt")
    assert (tmp_path / "new" / "a.txt").read_text() == "two\n"
    (tmp_path / "new" / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder cannot be written \(.*\); choose a folder with rights and space"):
        write_text("three\n", tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.txt", "folder"]
