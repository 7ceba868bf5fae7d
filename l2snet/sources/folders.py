"""Folders within folders, through symbolic links too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, top down, and through links to folders that lie elsewhere.

    A link to a folder that holds the root or the link is passed over, so that there is an end; so is one to a folder
    within the root, which is found in its own place, and to one that was seen.
    """
    top, seen = _real(root), set[Path]()
    for name, folders, files in os.walk(root, followlinks=True):
        place, here = Path(name), _real(Path(name))
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [f for f in folders if not (place / f).is_symlink() or _leads_away(_real(place / f), (top, here))]
        yield place, folders, files


def _leads_away(to: Path, places: tuple[Path, Path]) -> bool:
    """Whether a folder neither holds the root or the link to it, nor lies in the root."""
    return not to.is_relative_to(places[0]) and not any(place.is_relative_to(to) for place in places)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises where links make a circle
