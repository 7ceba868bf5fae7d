"""Progress bars on stderr; none where it is not a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this is the first of the processes that a launcher (torchrun) started; True without one."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The items, with a bar that counts them."""
    # A program without a console, or whose stderr was closed, has none.
    if sys.stderr is None or not sys.stderr.isatty() or not is_first_process():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, label, total, console=Console(stderr=True), transient=True)
