"""Which file is compared with which: flat folders by file stem, nested ones by folder name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from l2snet.errors import InputError
from l2snet.sources.autopet import LESIONS
from l2snet.sources.challenge import OUTPUT
from l2snet.sources.files import stem
from l2snet.volume import READABLE_SUFFIXES, Array, Geometry, read_volume

logger = logging.getLogger(__name__)


def row_names(predictions: Sequence[Path]) -> dict[str, Path]:
    """Row name to folder: the folder's name, or its path where two have one name.

    Raises
    ------
    InputError : a folder is missing or was given twice.
    """
    for folder in predictions:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; expected one with the predicted masks")
    names = [folder.resolve().name for folder in predictions]
    rows = {n if names.count(n) == 1 else str(f): f for n, f in zip(names, predictions, strict=True)}
    if len(rows) < len(predictions):
        raise InputError("a folder of predictions was given twice; give each once")
    return rows


def find_truths(root: Path) -> dict[str, Path]:
    """Case name to the mask's file, or to the folder that holds it.

    Files that lie in `root` itself are the cases, by stem. Where there is none, each folder in `root` is one, by its
    name; a folder that holds several SEG.nii.gz (studies of a patient) is one case for each, named folder/study.

    Raises
    ------
    InputError : there is none.
    """
    files = _images(root)
    if files:
        truths = {stem(path): path for path in files}
        if len(truths) < len(files):
            raise InputError(f"two images in {root} have one name with different endings; remove one")
        return truths
    truths = {}
    for folder in _folders(root):
        studies = [path.parent for path in sorted(folder.rglob(LESIONS))]
        several = studies if len(studies) > 1 else [folder]
        truths |= {study.relative_to(root).as_posix(): study for study in several}
    if not truths:
        raise InputError(
            f"no mask was found in {root}: expected image files ({', '.join(READABLE_SUFFIXES)}), or a folder per case"
        )
    return truths


def find_mask(root: Path, case: str) -> Path:
    """The mask of a case among the predictions: a file of that stem, or in a folder of that name.

    Raises
    ------
    InputError : there is none, or more than one.
    """
    files = [path for path in _images((root / case).parent) if stem(path) == Path(case).name]
    found = [*files, *([root / case] if (root / case).is_dir() else [])]
    if len(found) != 1:
        what = ", ".join(path.name for path in found) or "nothing"
        raise InputError(f"{what} was found in {root}; expected one mask, {case}{LESIONS[3:]} say, or a folder {case}")
    return mask_in(found[0])


def mask_in(place: Path) -> Path:
    """A file as it is; in a folder its SEG.nii.gz, the container's output, its only image, or the one SEG.nii.gz below.

    Raises
    ------
    InputError : there is none, or more than one.
    """
    if place.is_file():
        return place
    for found in ([place / LESIONS], _images(place / OUTPUT), _images(place), sorted(place.rglob(LESIONS))):
        files = [path for path in found if path.is_file()]
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(path.relative_to(place).as_posix() for path in files[:3])
            raise InputError(f"{place} holds {len(files)} images ({names}); expected one mask, or one named {LESIONS}")
    raise InputError(f"{place} holds no mask; expected {LESIONS}, or a single image")


def read_named_masks(texts: Sequence[str], grid: Geometry) -> dict[str, Array]:
    """Name to (z, y, x) bool mask, of texts NAME=FILE; every file on one grid.

    Raises
    ------
    InputError : a text is not NAME=FILE, a name comes twice, a file cannot be used, or its grid is another.
    """
    masks: dict[str, Array] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in masks:
            raise InputError(f"--mask {text} was given; expected NAME=FILE, each name once")
        masks[name], other = read_mask(Path(file), name)
        if not other.matches(grid):
            raise InputError(f"the mask {file} ({other}) is not on the PET's grid ({grid}); write it there")
    return masks


def warn_of_strays(folder: Path, cases: Iterable[str]) -> None:
    """Say which predictions have no truth, since they take no part."""
    names = {stem(path) for path in _images(folder)} | {path.name for path in _folders(folder)}
    strays = sorted(names - {case.partition("/")[0] for case in cases})
    if strays:
        logger.warning("%d in %s have no truth and are left out: %s", len(strays), folder, ", ".join(strays[:5]))


def read_mask(path: Path, what: str) -> tuple[Array, Geometry]:
    """(z, y, x) bool and its grid.

    Raises
    ------
    InputError : the file cannot be read, or holds anything but 0 and 1.
    """
    volume = read_volume(path, what, keep_integers=True)
    mask = volume.array == 1
    if np.count_nonzero(volume.array) != np.count_nonzero(mask):
        other = volume.array[(volume.array != 0) & ~mask].flat[0]
        raise InputError(f"{what}: {path.name} holds the value {other:g}; expected a mask of 0 and 1")
    return mask, volume.geometry


def _images(folder: Path) -> list[Path]:
    """Image files in a folder, in order of name, without hidden ones."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in found if p.name.lower().endswith(READABLE_SUFFIXES) and p.name[0] != "." and p.is_file())


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".") if folder.is_dir() else []
