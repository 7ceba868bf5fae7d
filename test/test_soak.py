"""A short soak: twenty cases in one process leave nothing behind (`python test/soak.py 200` is the long one)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what a process holds is read from /proc")
def test_twenty_cases_leave_nothing_behind():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("soak.py"), "20"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
