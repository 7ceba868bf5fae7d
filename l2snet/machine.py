"""What is asked of the operating system, and what serves where it does not say: Linux says all of it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

_STARTED = time.perf_counter()
PROC = Path("/proc")


def cpus() -> int:
    """CPUs that this process may use, or, where the system does not say, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mib() -> int | None:
    """Largest resident memory of this process so far; None on Windows."""
    try:  # Linux; getrusage would begin with the peak of the process that started this one
        status = (PROC / "self" / "status").read_text("utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024
    except (OSError, ValueError, IndexError):
        pass
    peak_mib = None
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_mib = int(peak / (1024 * 1024 if sys.platform == "darwin" else 1024))
    return peak_mib


def process_age_seconds() -> float:
    """Seconds since the process began (Linux), or since this module was imported."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, ValueError, IndexError):
            ticks = float((PROC / "self" / "stat").read_text("utf-8").rpartition(")")[2].split()[19])
            uptime = float((PROC / "uptime").read_text("utf-8").split()[0])
            return uptime - ticks / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _STARTED
