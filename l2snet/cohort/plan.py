"""How one case of a cohort is done: read, segmented, measured, written; and how it is told that it is done already."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2snet.cohort.cases import CohortCase
from l2snet.errors import L2SNetError, reason
from l2snet.measure.table import LESIONS, MEASUREMENTS, PATIENT
from l2snet.pipeline import Method, Segmentation
from l2snet.predict import MANIFEST, PROBABILITY, REPORT, Wanted, make_way, write_result
from l2snet.results import Measuring, check_measuring
from l2snet.sources import challenge
from l2snet.sources.inputs import Reading, Source, read_input
from l2snet.sources.result_writer import FILES, IMAGE_NAMES, IMAGES, Format

if TYPE_CHECKING:
    from l2snet.report.casepage import Options

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a case: the patient's row of its table, or the sentence that says why there is none."""

    name: str
    row: Row = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Plan:
    """What is done with every case; picklable.

    Attributes
    ----------
    out : gets a folder a case.
    load : makes the method, once a process.
    made_by : hash of what makes a result what it is, from `made_by`.
    report : what each case's report holds; None: no report.
    """

    out: Path
    load: Callable[[], Method]
    made_by: str
    reading: Reading = field(default_factory=Reading)
    measuring: Measuring = field(default_factory=Measuring)
    probability: bool = False
    report: Options | None = None

    def folder(self, case: CohortCase) -> Path:
        """Where a case's results go."""
        return self.out / case.name

    def finished(self, case: CohortCase) -> Row | None:
        """The row of a case whose result is complete and made by the same weights and options; None of any other."""
        folder = self.folder(case)
        with suppress(OSError, ValueError, KeyError, TypeError):
            if _manifest(folder).get("made_by") == self.made_by:
                row: Row = json.loads((folder / MEASUREMENTS).read_text("utf-8"))["patient"]
                return row if all(path.is_file() for path in self._files(case)) else None
        return None

    def _files(self, case: CohortCase) -> list[Path]:
        """What a complete result holds beside its manifest and measurements."""
        formats = self.measuring.formats | ({Format.seg} if Format.sr in self.measuring.formats else set())
        names = [LESIONS, PATIENT, *(FILES[form] for form in formats if form in FILES)]
        names += [name + IMAGES[form] for form in formats if form in IMAGES for name in IMAGE_NAMES]
        names += [PROBABILITY] if self.probability else []
        names += [REPORT] if self.report else []
        folder = self.folder(case)
        return [challenge.mask_path(folder, _file_name(case)), *(folder / name for name in names)]

    def strange(self, cases: Sequence[CohortCase]) -> list[str]:
        """The folders in OUT that hold results, and of none of these cases, by name."""
        ours = {self.folder(case) for case in cases}
        found = sorted(path.parent for path in self.out.rglob(MANIFEST) if path.parent not in ours)
        return [folder.relative_to(self.out).as_posix() for folder in found if "made_by" in _manifest(folder)]

    def series(self, cases: Sequence[CohortCase]) -> set[str]:
        """UIDs of the series that results were made of; those under pseudonyms do not say."""
        records = [_manifest(self.folder(case)).get("dicom") or {} for case in cases]
        return {str(record.get(key)) for record in records for key in ("pet_series", "ct_series")}

    def read(self, case: CohortCase) -> tuple[Source, float]:
        """A case under its name in the cohort, and the seconds it took.

        Raises
        ------
        L2SNetError : it cannot be used, or not for the formats that are asked for.
        """
        began = time.perf_counter()
        source = read_input(case.folder, self.reading, strict=False)  # series may be of other cases
        renamed = replace(source.case, name=_file_name(case))
        dicom = source.dicom
        check_measuring(replace(self.measuring, source=dicom))
        if dicom is not None:
            kept = {k: v for k, v in dicom.record.items() if not (case.anonymous and k.endswith(("_uid", "_series")))}
            dicom = replace(dicom, case=renamed, record=kept)
        return Source(renamed, dicom), time.perf_counter() - began

    def make_way(self, case: CohortCase) -> None:
        """Remove what an earlier run left of a case, so that a failure leaves nothing that looks like a result.

        Raises
        ------
        OutputError : another case's result is there, or it cannot be removed.
        """
        make_way(self.folder(case), _file_name(case))

    def write(self, case: CohortCase, source: Source, result: Segmentation, method: Method, read_seconds: float) -> Row:
        """Write a result; its row.

        Raises
        ------
        L2SNetError : it cannot be measured or written.
        """
        folder = self.folder(case)
        measuring = replace(self.measuring, source=source.dicom)
        wanted = Wanted(probability=self.probability, measuring=measuring, report=self.report)
        more = {"made_by": self.made_by, "seconds": {"read": round(read_seconds, 3), **result.seconds}}
        write_result(source.case, result, method, folder, wanted, read_seconds, time.perf_counter(), more)
        row: Row = json.loads((folder / MEASUREMENTS).read_text("utf-8"))["patient"]
        return row

    def do(self, case: CohortCase, method: Method) -> Outcome:
        """One case from folder to folder; whatever goes wrong in it is its outcome, for the others must be done."""
        try:
            self.make_way(case)
            source, seconds = self.read(case)
            result = method.segment(source.case)
            return Outcome(case.name, self.write(case, source, result, method, seconds))
        except Exception as error:
            return failed(case, error)


def made_by(method: Method, precision: str, plan: Plan) -> str:
    """Hash of weights, thresholds and options: another one is another result. The engine and device play no part."""
    settings = {key: value for key, value in method.settings.items() if key != "engine"}
    options = [precision, asdict(plan.reading), asdict(replace(plan.measuring, source=None)), plan.probability]
    if plan.report is not None:
        options.append(asdict(plan.report))
    text = json.dumps([settings, options], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def failed(case: CohortCase, error: BaseException) -> Outcome:
    """The outcome of a case in which something went wrong."""
    sentence = str(error) if isinstance(error, L2SNetError) else f"{type(error).__name__}: {reason(error)}"
    return Outcome(case.name, error=case.told(sentence))


def _manifest(folder: Path) -> dict[str, Any]:
    """What a result says of itself; nothing where there is none."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _plain(value: object) -> object:
    """Sets in order; anything else as text."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _file_name(case: CohortCase) -> str:
    return case.name.replace("/", "_")
