"""Faults from outside, such as a signal at any moment or a full disk: a mask is whole or not there."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_cli import MASK, Ended, files, folder, run, weights  # noqa: F401
from writing import NAME

from l2snet.errors import OutputError
from l2snet.predict import MANIFEST, make_way
from l2snet.sources.challenge import mask_path
from l2snet.volume import WRITABLE_SUFFIXES, Geometry, Volume, write_volume

HERE = Path(__file__).parent
TERMINATED = 143


def contents(result: Path) -> dict[Path, bytes]:
    """Every file but the manifest, which has seconds in it."""
    return {name: (result / name).read_bytes() for name in files(result) if name.name != MANIFEST}


# Signals


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_signal_at_any_step_of_writing_leaves_a_whole_result_or_no_mask(tmp_path: Path, name: str):
    done = subprocess.run(
        [sys.executable, HERE / "writing.py", tmp_path, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *ended, whole = sorted(tmp_path.iterdir())
    assert len(ended) > 20
    expected = contents(whole)
    mask = mask_path(Path(), NAME)
    assert mask in expected
    for result in ended:
        found = contents(result)
        hidden = [path for path in found if path.name.startswith(".")]
        assert len(hidden) <= 1
        if name == "SIGTERM":
            assert hidden == []
        for path in hidden:
            del found[path]
        # Whatever has its name is whole, and the mask is there only when all the rest is.
        assert found == {path: expected[path] for path in found}
        if mask in found:
            assert found == expected
            json.loads((result / MANIFEST).read_text())
        make_way(result, NAME)
        assert mask not in contents(result)
        assert [path for path in contents(result) if path.name.startswith(".")] == []


# What the program says when it is about to load networks, and when it has run them.
@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGTERM, "localizer: "), (signal.SIGTERM, "segment: "), (signal.SIGKILL, "fuse: ")],
    ids=["term-load", "term-run", "kill-write"],
)
def test_a_signal_ends_the_program(folder: Path, weights: Path, tmp_path: Path, number: int, words: str):  # noqa: F811
    out = tmp_path / "out"
    command = [sys.executable, "-m", "l2snet", "predict", folder, out, "--weights", weights, "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith(words):
                process.send_signal(number)
                break
        said += process.stderr.readlines()
    if number == signal.SIGTERM:
        assert process.returncode == TERMINATED, said
        assert said[-1] == "terminated\n"
        assert files(out) == []
    else:  # it may have been done by then
        assert MASK not in files(out) or Path(MANIFEST) in files(out)


# Full disks and folders without rights


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk with so many bytes left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_a_file_that_does_not_fit_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str, compress: bool):
    noise = np.random.default_rng(0).random((40, 40, 40)).astype(np.float32)
    volume, path = Volume(noise, Geometry(noise.shape)), tmp_path / f"image{suffix}"
    with files_of_at_most(100_000), pytest.raises(OutputError, match=r"image.* cannot be written \(.*rights and space"):
        write_volume(volume, path, compress)
    assert list(tmp_path.iterdir()) == []
    write_volume(volume, path, compress)  # and all of it where there is room
    assert path.stat().st_size > 100_000


def test_a_case_on_a_full_disk(run: Callable[..., Ended], folder: Path, weights: Path, tmp_path: Path):  # noqa: F811
    out = tmp_path / "out"
    with files_of_at_most(10_000):
        ended = run("predict", folder, out, "--weights", weights, "--device", "cpu", "--probability")
    assert ended.code == 1
    assert ended.last.startswith("error: ")
    assert "probability.mha cannot be written (" in ended.last
    assert files(out) == []


def isolated(*options: str) -> list[str]:
    """A command that runs another one in namespaces of its own, or the test is skipped."""
    command = [shutil.which("unshare") or "unshare", "--map-root-user", *options]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("namespaces cannot be made here (unshare)")
    return command


def test_a_read_only_output(folder: Path, weights: Path, tmp_path: Path):  # noqa: F811
    out = tmp_path / "out"
    out.mkdir()
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    command = [sys.executable, "-m", "l2snet", "predict", folder, out, "--weights", weights]
    done = subprocess.run(
        [*isolated("--mount"), "sh", "-c", script, out, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == f"error: the output folder {out} is not writable (Read-only file system); choose another one"
    assert files(out) == []


# What the container does without

GUARDED = """
import os, sys
out = sys.argv[2]
REFUSED = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "pickle.",
           "marshal.load", "socket.connect", "socket.bind", "socket.get", "socket.sendto", "tempfile.")
def guard(event, arguments):
    if event.startswith(REFUSED) and event != "marshal.loads":
        os.write(2, f"REFUSED {event} {arguments}\\n".encode())
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        if not os.fsdecode(arguments[0]).startswith(out):
            os.write(2, f"REFUSED writing {arguments[0]}\\n".encode())
from l2snet.cli import main
sys.addaudithook(guard)
try:
    main(["predict", *sys.argv[1:]])
finally:
    if sys.modules.get("openvino_telemetry"):
        os.write(2, b"REFUSED telemetry\\n")
"""


def test_a_case_needs_no_network_shell_or_pickle(folder: Path, weights: Path, tmp_path: Path):  # noqa: F811
    """In a network namespace that has not even a loopback; Python reports what is done (sys.addaudithook)."""
    options = ["--weights", weights, "--device", "cpu", "--probability", "--lesions"]
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [*isolated("--net"), sys.executable, "-B", "-c", GUARDED, folder, tmp_path / "out", *options],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(HERE.parent), "HOME": str(home), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("REFUSED")] == []
    assert MASK in files(tmp_path / "out")
    assert list(home.iterdir()) == []
