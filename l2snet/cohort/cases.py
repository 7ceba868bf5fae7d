"""The cases under a folder, and what they are called where their names must not be seen."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from l2snet.errors import InputError, MissingPackageError, OutputError, reason
from l2snet.sources import autopet, challenge
from l2snet.sources.inputs import Kind, has_dicom, kind_of

KEY = ".anonymous_key"
KEY_BYTES, SHOWN = 32, 10
# What a sentence may say of a patient beside the names of folders: UIDs, files, dates, and series as they are listed.
_UID = re.compile(r"\b[0-9]+(?:\.[0-9]+){3,}\b")
_SERIES = re.compile(r"'[^']*' \(\d+ slices, [^)]*\)")
_FILE = re.compile(r"\S*[/\\]\S*|\S+\.(?:dcm|ima|mha|mhd|nii|nii\.gz|nrrd)\b", re.IGNORECASE)
_DATE = re.compile(r"\b(?:19|20)\d{2}-\d{2}-\d{2}(?: [\d:.]+)?|\b(?:19|20)\d{6}(?:\d{6}(?:\.\d+)?)?\b")
_HIDDEN = ((_SERIES, "a series"), (_FILE, "[file]"), (_UID, "[UID]"), (_DATE, "[date]"))


@dataclass(frozen=True)
class CohortCase:
    """One case: its folder, and the name that its results, logs and table have (its folder's, under the root)."""

    name: str
    folder: Path
    anonymous: bool = False

    def told(self, sentence: str) -> str:
        """A sentence as logs and table may have it."""
        if not self.anonymous:
            return sentence
        for pattern, word in _HIDDEN:
            sentence = pattern.sub(word, sentence)
        for part in (self.folder.name, self.folder.parent.name):
            sentence = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "[name]", sentence)
        return sentence


def find_cases(root: Path) -> list[CohortCase]:
    """The cases under a folder, in order of name.

    A case is a folder in the container's layout or with a SUV.nii.gz, at any depth, or a DICOM study. A folder of
    `root` that holds none of these is a case that cannot be read, so that it is not passed over in silence.

    Raises
    ------
    InputError : there is no folder, or it is empty.
    MissingPackageError : there is DICOM, and the extra `dicom` is not installed.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; expected one with a study a folder")
    if kind_of_images(root):
        return [CohortCase(root.resolve().name, root.absolute())]
    children = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    root = root.absolute()  # machines of a cluster may have another working folder
    cases = [case for child in children for case in _under(root / child.name, root)]
    if not cases:
        raise InputError(f"{root} holds no folder; expected a study a folder: DICOM, {autopet.SUV}, or images/pet")
    doubled = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if doubled:
        raise InputError(f"two studies under {root} would both be called {doubled[0]}; give each a folder of its own")
    return cases


def kind_of_images(folder: Path) -> bool:
    """Whether a folder itself is a case in images."""
    return (folder / autopet.SUV).is_file() or (folder / challenge.IMAGES / challenge.PET).is_dir()


def _under(child: Path, root: Path) -> list[CohortCase]:
    folders = [child, *sorted(path for path in child.rglob("*") if path.is_dir())]
    found = [folder for folder in folders if kind_of_images(folder)]
    if found:
        return [CohortCase(folder.relative_to(root).as_posix(), folder) for folder in found]
    if kind_of(child) is not Kind.dicom or not has_dicom(child):
        return [CohortCase(child.name, child)]
    try:
        from l2snet.sources.dicom import find_dicom_studies
    except ImportError as error:
        raise MissingPackageError("reading DICOM", "dicom") from error
    studies = find_dicom_studies(child, patients_once=False)
    if len(studies) == 1:
        return [CohortCase(child.name, child)]
    folders = [_common(study.folders) for study in studies]
    return [CohortCase(folder.relative_to(root).as_posix(), folder) for folder in folders]


def _common(folders: tuple[Path, ...]) -> Path:
    """The folder that holds these."""
    first, *others = folders
    return next(place for place in (first, *first.parents) if all(other.is_relative_to(place) for other in others))


def anonymise(cases: list[CohortCase], out: Path) -> list[CohortCase]:
    """The same cases under pseudonyms: of the name, by a secret key that stays in OUT, so that they last.

    Without the key no name can be tried; remove it before OUT is passed on.

    Raises
    ------
    OutputError : the key cannot be written or read.
    """
    path = out / KEY
    try:
        if not path.exists():
            out.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise OutputError(f"{path} cannot be used ({reason(error)}); choose a folder with rights and space") from error
    if len(key) != KEY_BYTES:
        raise OutputError(f"{path} is cut off; remove it and the results beside it, whose names it made")
    hidden = [replace(case, name=_pseudonym(case.name, key), anonymous=True) for case in cases]
    return sorted(hidden, key=lambda case: case.name)


def _pseudonym(name: str, key: bytes) -> str:
    return f"case-{hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:SHOWN]}"
