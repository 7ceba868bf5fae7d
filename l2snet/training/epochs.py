"""What a training's epochs come to and take: the log of a run, and the share of its time that the device works."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

LOG = "log.csv"
# Of the log, after the epoch's number.
COLUMNS = ("loss", "learning_rate", "seconds", "busy")


class Stopwatch:
    """How long the device had work, begun in its `with` blocks; on a GPU by its own clock, without a wait."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: list[Any] = []
        self.began = time.perf_counter()

    def __enter__(self) -> None:
        self._mark()

    def __exit__(self, *_: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self.on_gpu:
            mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            mark.record()
            self.marks.append(mark)
        else:
            self.marks.append(time.perf_counter())

    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self.began

    def share(self) -> float:
        """Of the time since it was made, that the device had work."""
        return self._seconds() / self.elapsed()

    def _seconds(self) -> float:
        pairs = zip(self.marks[::2], self.marks[1::2], strict=True)
        if self.on_gpu:
            torch.cuda.synchronize()
            return float(sum(began.elapsed_time(ended) for began, ended in pairs) / 1000)
        return float(sum(ended - began for began, ended in pairs))


def write_epoch(path: Path, epoch: int, epochs: int, numbers: Sequence[str], watched: Mapping[str, float]) -> None:
    """Append one epoch and tell it, dropping lines of epochs that a stopped run had logged but not kept.

    Parameters
    ----------
    numbers : of `COLUMNS`.
    watched : column to its loss, beside them.
    """
    rows: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
    more = {name: f"{loss:.6f}" for name, loss in watched.items()}
    rows.append({"epoch": str(epoch), **dict(zip(COLUMNS, numbers, strict=True)), **more})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    said = "".join(f", {name.replace('_', ' ')} {loss:.4f}" for name, loss in watched.items())
    logger.info("epoch %d of %d: loss %.4f%s", epoch, epochs, float(numbers[0]), said)
