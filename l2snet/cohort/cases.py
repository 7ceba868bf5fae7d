"""The cases under a folder, and what they are called where their names must not be seen."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from l2snet.errors import InputError, L2SNetError, MissingPackageError, OutputError, reason
from l2snet.sources import autopet
from l2snet.sources.inputs import Kind, has_dicom, kind_of, kind_of_images

KEY = ".anonymous_key"
KEY_BYTES, SHOWN = 32, 10
# What a sentence may say of a patient beside the names of folders: UIDs, files, dates, and series as they are listed
# (their description as Python writes a text, in either kind of quotes).
_UID = re.compile(r"\b[0-9]+(?:\.[0-9]+){3,}\b")
_SERIES = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*") \(\d+ slices, [^)]*\)""")
_FILE = re.compile(r"\S*[/\\]\S*|\S+\.(?:dcm|ima|mha|mhd|nii|nii\.gz|nrrd)\b", re.IGNORECASE)
_DATE = re.compile(r"\b(?:19|20)\d{2}-\d{2}-\d{2}(?: [\d:.]+)?|\b(?:19|20)\d{6}(?:\d{6}(?:\.\d+)?)?\b")
_HIDDEN = ((_FILE, "[file]"), (_UID, "[UID]"), (_DATE, "[date]"))
# Names of folders and files within a study that say nothing of a patient, and are words of our sentences.
_PLAIN = re.compile(r"pet|pt|ct|seg|images|\d{1,3}", re.IGNORECASE)


@dataclass(frozen=True)
class CohortCase:
    """One case: its folder, and the name that its results, logs and table have (its folder's, under the root).

    Without a root, all that leads to the folder is taken for a name.
    """

    name: str
    folder: Path
    anonymous: bool = False
    root: Path | None = None

    def told(self, sentence: str) -> str:
        """A sentence as logs and table may have it."""
        return _hidden(sentence, self.folder, self.root) if self.anonymous else sentence


def find_cases(root: Path, out: Path | None = None) -> list[CohortCase]:
    """The cases under a folder, in order of name.

    A case is a folder in the container's layout or with a SUV.nii.gz, at any depth, or a DICOM study. A folder of
    `root` that holds none of these is a case that cannot be read, so that it is not passed over in silence.

    Parameters
    ----------
    out : where results go; what is there is no case.

    Raises
    ------
    InputError : there is no folder, or it is empty, or results would go into the folder of a case.
    MissingPackageError : there is DICOM, and the extra `dicom` is not installed.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; expected one with a study a folder")
    root = root.absolute()  # machines of a cluster may have another working folder
    results = None if out is None else out.resolve()
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    children = sorted(path for path in folders if not _of_results(path, results))
    if kind_of_images(root) or _is_one_study(root, children):
        cases = [CohortCase(root.resolve().name, root, root=root)]
    else:
        cases = [case for child in children for case in _under(child, root)]
    if not cases:
        raise InputError(f"{root} holds no folder; expected a study a folder: DICOM, {autopet.SUV}, or images/pet")
    for case in cases:
        if results is not None and (results / case.name).resolve() == case.folder.resolve():
            raise InputError(f"results of {case.folder} would go into that folder; choose another output folder")
    return cases


def find_anonymous(root: Path, out: Path) -> list[CohortCase]:
    """As `find_cases`, under pseudonyms, and with no name in what its errors say.

    Raises
    ------
    InputError, MissingPackageError, OutputError : see `find_cases` and `anonymise`.
    """
    try:
        cases = find_cases(root.absolute(), out)
    except MissingPackageError:
        raise
    except (L2SNetError, OSError) as error:
        raise InputError(_hidden(str(error), root.absolute(), root.absolute())) from None
    return anonymise(cases, out)


def _of_results(child: Path, results: Path | None) -> bool:
    """Whether a folder holds results alone, or leads to them and holds nothing else."""
    if results is None or not results.is_relative_to(child.resolve()):
        return False
    return not any(path.is_file() and not path.resolve().is_relative_to(results) for path in child.rglob("*"))


def _is_one_study(root: Path, children: list[Path]) -> bool:
    """Whether a folder is itself a DICOM study: its series are the folder's own files, or several folders of it."""
    uids: dict[Path, str] = {}
    for place in (root, *children):
        deep = place != root
        if deep and any(map(kind_of_images, _folders(place))):
            return False
        uid = _reader_of_dicom().first_study_uid(place, deep) if has_dicom(place, deep) else None
        if uid is not None:
            uids[place] = uid
        if len(set(uids.values())) > 1:
            return False
    return root in uids or len(uids) > 1


def _under(child: Path, root: Path) -> list[CohortCase]:
    found = [folder for folder in _folders(child) if kind_of_images(folder)]
    if not found and kind_of(child) is Kind.dicom:
        found = _studies(child)
    return [CohortCase(folder.relative_to(root).as_posix(), folder, root=root) for folder in found or [child]]


def _folders(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]


def _studies(child: Path) -> list[Path]:
    """The folders of the DICOM studies under a folder; itself where they cannot be told apart: it will say why."""
    try:
        studies = _reader_of_dicom().find_dicom_studies(child, patients_once=False)
    except InputError:
        return [child]
    folders = [_common(study.folders) for study in studies]
    apart = not any(a.is_relative_to(b) for a in folders for b in folders if a is not b)
    return folders if len(studies) > 1 and apart else [child]


def _reader_of_dicom() -> ModuleType:
    try:
        from l2snet.sources import dicom
    except ImportError as error:
        raise MissingPackageError("reading DICOM", "dicom") from error
    return dicom


def _common(folders: tuple[Path, ...]) -> Path:
    """The folder that holds these."""
    first, *others = folders
    return next(place for place in (first, *first.parents) if all(other.is_relative_to(place) for other in others))


def _hidden(sentence: str, folder: Path, root: Path | None) -> str:
    """A sentence without what could name a patient: first whole paths, series and names, which may have blanks."""
    for place in (folder, root or folder):
        sentence = sentence.replace(str(place), "[folder]")
    sentence = _SERIES.sub("a series", sentence)
    above = folder.parts[1:] if root is None else folder.relative_to(root).parts or (folder.name,)
    within = [(path.name, "[name]" if path.is_dir() else "[file]") for path in folder.rglob("*")]
    names = dict.fromkeys(above, "[name]") | {name: word for name, word in within if not _PLAIN.fullmatch(name)}
    for name in sorted(names, key=len, reverse=True):
        if name in sentence:
            sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], sentence)
    for pattern, word in _HIDDEN:
        sentence = pattern.sub(word, sentence)
    return sentence


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
