"""What the operating system does not say, on systems other than Linux: simulated, as none of them was at hand."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from l2snet import machine, parallel
from l2snet.files import write_text

ON_LINUX = Path("/proc/self/status").is_file()


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)


def test_cpus_are_those_of_this_process_or_of_the_machine(monkeypatch: pytest.MonkeyPatch):
    assert 1 <= machine.cpus() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for said, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda said=said: said)
        assert machine.cpus() == expected


@pytest.mark.usefixtures("no_proc")
@pytest.mark.parametrize(("platform", "unit"), [("darwin", 2**20), ("freebsd", 2**10)])
def test_without_proc_the_peak_is_that_of_getrusage(monkeypatch: pytest.MonkeyPatch, platform: str, unit: int):
    class Resource:
        RUSAGE_SELF = 0
        ru_maxrss = 300 * unit + unit // 2  # bytes on macOS, KiB elsewhere

        @classmethod
        def getrusage(cls, _who: int) -> type:
            return cls

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "resource", Resource)
    assert machine.peak_memory_mib() == 300


@pytest.mark.usefixtures("no_proc")
def test_where_nothing_says_it_there_is_no_peak(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)  # an ImportError, as there
    assert machine.peak_memory_mib() is None


@pytest.mark.usefixtures("no_proc")
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_without_proc_the_age_counts_from_the_import(monkeypatch: pytest.MonkeyPatch, platform: str):
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "win32":
        monkeypatch.delattr(os, "sysconf", raising=False)
    before = time.perf_counter() - machine._STARTED
    assert before <= machine.process_age_seconds() <= time.perf_counter() - machine._STARTED


@pytest.mark.skipif(not ON_LINUX, reason="there is no /proc")
def test_linux_says_peak_and_age_of_this_process():
    assert 10 < (machine.peak_memory_mib() or 0) < 1 << 20
    assert machine.process_age_seconds() >= time.perf_counter() - machine._STARTED - 0.02  # of a tick of 0.01 s


def test_texts_have_the_same_bytes_on_every_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def as_on_windows(path: Path, text: str, encoding: str, newline: str = "\r\n") -> None:
        path.write_bytes(text.replace("\n", newline).encode(encoding))

    monkeypatch.setattr(Path, "write_text", as_on_windows)
    write_text("a\nb\n", tmp_path / "text")
    assert (tmp_path / "text").read_bytes() == b"a\nb\n"


def test_windows_gets_no_more_processes_than_it_can_wait_for(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    class RefusedError(Exception):
        pass

    def pool(workers: int, *_rest: object) -> None:
        asked.append(workers)
        raise RefusedError

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", pool)
    for platform in ("linux", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(RefusedError):
            list(parallel.run_jobs(abs, range(100), 96))
    assert asked == [96, 61]
