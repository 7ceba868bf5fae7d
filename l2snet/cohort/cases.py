"""The cases under a folder, and what they are called where their names must not be seen."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from l2snet.errors import InputError, L2SNetError, MissingPackageError, OutputError, reason
from l2snet.sources import autopet, challenge
from l2snet.sources.folders import walk
from l2snet.sources.inputs import Kind, has_dicom, kind_of, kind_of_images

KEY = ".anonymous_key"
KEY_BYTES, SHOWN = 32, 10
# What a sentence may say of a patient beside the names of folders: UIDs, files, dates, and series as they are listed
# (their description as Python writes a text, in either kind of quotes).
_UID = re.compile(r"\b[0-9]+(?:\.[0-9]+){3,}\b")
_SERIES = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*") \(\d+ slices?, [^)]*\)""")
_FILE = re.compile(r"\S*[/\\]\S*|\S+\.(?:dcm|ima|mha|mhd|nii(?:\.gz)?|nrrd)\b", re.IGNORECASE)
_DATE = re.compile(r"\b(?:19|20)\d{2}-\d{2}-\d{2}(?: [\d:.]+)?|\b(?:19|20)\d{6}(?:\d{6}(?:\.\d+)?)?\b")
_HIDDEN = ((_UID, "[UID]"), (_DATE, "[date]"))
# Names of folders and files within a study that say nothing of a patient, and are words of our sentences.
_OURS = "|".join(map(re.escape, (autopet.SUV, autopet.CT_RESAMPLED, autopet.CT, challenge.INPUTS)))
_PLAIN = re.compile(rf"pet|pt|ct|seg|images|\d{{1,3}}|{_OURS}", re.IGNORECASE)
_OUR_FILE = re.compile(rf"(?:^|[/\\])({_OURS})(?![\w.])")
# Stands in a sentence for the case's folder while names are taken out.
_CASE = "\0"
# Endings of what lies beside studies, on a CD with its viewer for instance, and is no image of any kind.
_NO_IMAGE = re.compile(
    r"bat|bmp|cab|chm|class|cmd|css|csv|db|dll|docx?|exe|gif|html?|ico|inf|ini|jar|jpe?g|js|json|lnk|log|md|msi|pdf|png|"
    r"pptx?|properties|rtf|so|svg|txt|xlsx?|xml|ya?ml",
    re.IGNORECASE,
)


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
        """A sentence as logs and table may have it: nothing of the headers, and of names the case's own at most."""
        hidden = _hidden(sentence, self.folder, self.root, names=self.anonymous)
        return hidden.replace(_CASE, "[folder]" if self.anonymous else self.name)


def find_cases(root: Path, out: Path | None = None) -> list[CohortCase]:
    """The cases under a folder, in order of name.

    A case is a folder in the container's layout or with a SUV.nii.gz, at any depth, or a DICOM study outside these. A
    folder of `root` that holds none is a case that cannot be read, and so is one beside cases further down that holds
    files which may be images, so that nothing is passed over in silence.

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
        cases = [case for child in children for case in _under(child, root, results)]
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
        sentence = _hidden(str(error), root.absolute(), root.absolute()).replace(_CASE, "[folder]")
        raise InputError(sentence) from None
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


def _under(child: Path, root: Path, results: Path | None) -> list[CohortCase]:
    images = [folder for folder in _folders(child) if kind_of_images(folder)]
    container = not images and (child / challenge.INPUTS).is_file()
    studies = [] if container else _studies(child, images, results)
    found = {*images, *studies}
    unread = _unread(child, found, results) if found else []
    if found and not images and len(studies) == 1 and not unread:  # a patient with one study has its name
        found = {child}
    folders = sorted([*found, *unread]) or [child]
    return [CohortCase(folder.relative_to(root).as_posix(), folder, root=root) for folder in folders]


def _folders(folder: Path) -> list[Path]:
    return sorted(place for place, *_ in walk(folder))


def _studies(child: Path, images: Collection[Path], results: Path | None) -> list[Path]:
    """The folders of the DICOM studies under a folder, outside those of images and results.

    Itself alone where studies cannot be told apart: it will say why.
    """
    known = set(images)

    def outside(folder: Path) -> bool:
        of_results = results is not None and folder.resolve().is_relative_to(results)
        return not of_results and known.isdisjoint((folder, *folder.parents))

    if not any(has_dicom(folder, deep=False) for folder in _folders(child) if outside(folder)):
        return []
    try:
        studies = _reader_of_dicom().find_dicom_studies(child, patients_once=False)
    except InputError:
        return []
    places = [[folder for folder in study.folders if outside(folder)] for study in studies]
    folders = [_common(place) for place in places if place]
    apart = not any(a.is_relative_to(b) for n, a in enumerate(folders) for m, b in enumerate(folders) if n != m)
    return folders if apart else [child]


def _unread(place: Path, found: Collection[Path], results: Path | None) -> list[Path]:
    """The folders beside cases, at any depth, that hold no case and a file which may be an image."""
    above = {folder for case in found for folder in case.parents}

    def beside(folder: Path) -> list[Path]:
        if folder in found or folder.name.startswith("."):
            return []
        if folder in above:
            return [path for below in sorted(folder.iterdir()) if below.is_dir() for path in beside(below)]
        return [folder] if any(_may_be_image(path, results) for path in folder.rglob("*")) else []

    return beside(place)


def _may_be_image(path: Path, results: Path | None) -> bool:
    if path.name.startswith(".") or _NO_IMAGE.fullmatch(path.suffix[1:]) or not path.is_file():
        return False
    return results is None or not path.resolve().is_relative_to(results)


def _reader_of_dicom() -> ModuleType:
    try:
        from l2snet.sources import dicom
    except ImportError as error:
        raise MissingPackageError("reading DICOM", "dicom") from error
    return dicom


def missing_series(cases: Sequence[CohortCase], wanted: Collection[str]) -> set[str]:
    """Which of the UIDs no DICOM study has, as far as studies can be read; every file's header may be read for it."""
    missing = set(wanted)
    for case in cases:
        if not missing:
            break
        if kind_of(case.folder) is Kind.dicom:
            with suppress(Exception):  # it has its own sentence by now
                reader = _reader_of_dicom()
                for study in reader.find_dicom_studies(case.folder, patients_once=False):
                    missing -= {series.uid for series in reader.read_series(study)}
    return missing


def _common(folders: Sequence[Path]) -> Path:
    """The folder that holds these."""
    first, *others = folders
    return next(place for place in (first, *first.parents) if all(other.is_relative_to(place) for other in others))


def _hidden(sentence: str, folder: Path, root: Path | None, names: bool = True) -> str:
    """A sentence without what could name a patient: first whole paths, series and names, which may have blanks.

    The case's folder is `_CASE` in it. Without `names`, the names of the folder and of those above may stay.
    """
    sentence = sentence.replace(str(folder), _CASE).replace(str(root or folder), "[folder]")
    sentence = _SERIES.sub("a series", sentence)
    above: tuple[str, ...] = ()
    if names:
        above = folder.parts[1:] if root is None else folder.relative_to(root).parts or (folder.name,)
    within = [(path.name, "[name]" if path.is_dir() else "[file]") for path in folder.rglob("*")]
    known = dict.fromkeys(above, "[name]") | {name: word for name, word in within if not _PLAIN.fullmatch(name)}
    for name in sorted(known, key=len, reverse=True):
        if name in sentence:
            sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", known[name], sentence)
    sentence = _FILE.sub(_file, sentence)
    for pattern, word in _HIDDEN:
        sentence = pattern.sub(word, sentence)
    return sentence


def _file(path: re.Match[str]) -> str:
    """A file by its name where that is one of ours."""
    found = _OUR_FILE.search(path[0])
    return found[1] if found else "[file]"


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


def is_pseudonym(name: str) -> bool:
    """Whether `anonymise` may have made a name."""
    return re.fullmatch(rf"case-[0-9a-f]{{{SHOWN}}}", name) is not None


def _pseudonym(name: str, key: bytes) -> str:
    return f"case-{hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:SHOWN]}"
