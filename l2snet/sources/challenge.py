"""The autoPET-II container interface; the only place that knows its paths.

In: `/input/images/pet/<uuid>.mha` (SUV), `/input/images/ct/<uuid>.mha` (HU, on the PET's grid), and in newer jobs
`/input/inputs.json`, the list of sockets. Out: one image,
`/output/images/automated-petct-lesion-segmentation/<ct uuid>.mha`, uint8 0 or 1, compressed, on the PET's grid.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.sources.files import read_case
from l2snet.volume import Volume, write_volume

PET, CT = "pet", "ct"
IMAGES = "images"
INPUTS = "inputs.json"
OUTPUT = Path(IMAGES) / "automated-petct-lesion-segmentation"
SUFFIX = ".mha"


def read(folder: Path, pet_only: bool = False, resample_ct: bool = False) -> Case:
    """The one case of an input folder; named by the CT's uuid, or the PET's when only a PET is used.

    Parameters
    ----------
    resample_ct : bring a CT on another grid onto the PET's.

    Raises
    ------
    InputError : an image is missing, doubled or cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"there is no input folder {folder}; expected {IMAGES}/{PET} and {IMAGES}/{CT} in it")
    sockets = _sockets(folder)
    pet = _one_image(folder, PET, sockets)
    return read_case(pet, None if pet_only else _one_image(folder, CT, sockets), resample_ct)


def mask_path(folder: Path, name: str) -> Path:
    """Where the mask of a case goes."""
    return folder / OUTPUT / f"{name}{SUFFIX}"


def write(mask: Volume, name: str, folder: Path) -> Path:
    """Write a mask as the platform expects it, and return its path.

    Raises
    ------
    OutputError : it cannot be written.
    """
    path = mask_path(folder, name)
    write_volume(mask, path, compress=True)
    return path


def _one_image(folder: Path, what: str, sockets: dict[str, Path]) -> Path:
    """The only image of a socket: the file that inputs.json names, or the only one in the socket's folder."""
    place = sockets.get(what, folder / IMAGES / what)
    try:
        if place.is_file():
            return place
        found = sorted(p for p in place.iterdir() if _is_image(p)) if place.is_dir() else []
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error.strerror}); expected one {SUFFIX} file in it") from error
    if len(found) != 1:
        names = f" ({', '.join(p.name for p in found[:3])})" if found else ""
        hint = "; use --pet-only to do without" if what == CT and not found else ""
        raise InputError(
            f"{len(found)} {what.upper()} images were found in {place}{names}; expected one {SUFFIX} file{hint}"
        )
    return found[0]


def _is_image(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and not path.name.startswith(".")


def _sockets(folder: Path) -> dict[str, Path]:
    """Where inputs.json says that PET and CT lie; empty where there is no such file.

    An entry's `socket` (or, on older platforms, `interface`) has a `relative_path` such as "images/pet"; its `image`
    may have the file's `name`.
    """
    path = folder / INPUTS
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text("utf-8"))
        places = [place for entry in entries if (place := _place(folder, entry)) is not None]
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, OSError) as error:
        # RuntimeError: brackets nested too deep, or a circle of symbolic links.
        raise InputError(f"{path} cannot be read ({error}); expected a JSON list of sockets") from error
    for what in (PET, CT):
        if sum(name == what for name, _ in places) > 1:
            raise InputError(f"{path} lists more than one {what.upper()} image; expected one")
    return dict(places)


def _place(folder: Path, entry: dict[str, Any]) -> tuple[str, Path] | None:
    socket = entry.get("socket") or entry.get("interface") or {}
    relative = Path(os.path.normpath(str(socket.get("relative_path", ""))))
    what = relative.name.lower()
    if what not in (PET, CT):
        return None
    place = folder / relative
    if relative.anchor or ".." in relative.parts:  # a link in the folder is the user's own, and is followed
        raise InputError(f"{INPUTS} points to {relative}, outside the input folder; expected a path inside it")
    name = Path(str((entry.get("image") or {}).get("name", ""))).name
    return what, place / name if name and (place / name).is_file() else place
