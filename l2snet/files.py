"""Text files that are whole or not there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from l2snet.errors import OutputError, reason


def write_text(text: str, path: Path) -> None:
    """Write a file aside first and then rename it, so that a file of that name is always whole.

    Raises
    ------
    OutputError : it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, "utf-8")
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise OutputError(
            f"{path} cannot be written ({reason(error)}); choose a folder with rights and space"
        ) from error
