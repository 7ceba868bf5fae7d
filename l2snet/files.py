"""Files that are whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from l2snet.errors import OutputError, reason

LONGEST_NAME, END_OF_NAME = 240, 40
_ASIDE = re.compile(r"\.\d+\.(.+)")


def aside_of(path: Path) -> Path:
    """Where a file is written before it gets its name: a hidden one beside it, of this process, with its ending."""
    # Of a very long name the end alone: with the rest it might be longer than a file system's 255 bytes.
    name = path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else path.name[-END_OF_NAME:]
    return path.with_name(f".{os.getpid()}.{name}")


def left_aside(folder: Path) -> dict[Path, str]:
    """What a process that was killed left unfinished in a folder: the file, and the name it was to have."""
    found = ((path, _ASIDE.fullmatch(path.name)) for path in folder.glob(".*"))
    return {path: match[1] for path, match in found if match}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` at the end, so that a file of that name is always whole.

    Raises
    ------
    OutputError : it cannot be written.
    """
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{path} cannot be written ({reason(error)}); choose a folder with rights and space"
        ) from error
    finally:  # an interrupt leaves nothing, either
        with suppress(OSError):
            aside.unlink()


def write_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all.

    Raises
    ------
    OutputError : it cannot be written.
    """
    with whole(path) as aside:
        aside.write_text(text, "utf-8", newline="\n")  # the same bytes on every system
