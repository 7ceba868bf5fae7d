"""Masks of any method against the truth: pairs of files to numbers per case, a summary, a table and a figure."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from l2snet import __version__
from l2snet.errors import InputError, L2SNetError, reason
from l2snet.evaluation.metrics import NEIGHBOURS, Scores, measure
from l2snet.evaluation.pairs import find_mask, find_truths, mask_in, read_mask, row_names, warn_of_strays
from l2snet.evaluation.records import Records, fingerprint, write_json
from l2snet.evaluation.summary import LEVEL, RESAMPLES, SEED, Row, markdown, summaries
from l2snet.files import write_text
from l2snet.machine import cpus
from l2snet.parallel import keep_freed_memory, run_jobs
from l2snet.progress import track
from l2snet.volume import Array, Geometry

logger = logging.getLogger(__name__)

CASES, SUMMARY, TABLE, FIGURE, RECORDS = "cases.csv", "summary.json", "table.md", "cases.png", "cases"
COLUMNS = tuple(Scores.__dataclass_fields__)


@dataclass(frozen=True)
class Settings:
    """How masks are compared.

    Attributes
    ----------
    surface_mm : tolerance of the surface Dice; None leaves it out.
    least_overlap : fraction of a lesion that must be covered for it to count as found in the lesion sensitivity.
    """

    surface_mm: float | None = None
    least_overlap: float = 0.0

    def __post_init__(self) -> None:
        if self.surface_mm is not None and not self.surface_mm >= 0:
            raise InputError(f"a surface tolerance of {self.surface_mm} mm was given; expected 0 or more")
        if not 0 <= self.least_overlap <= 1:
            raise InputError(f"a least overlap of {self.least_overlap} was given; expected a fraction, 0 to 1")


@dataclass(frozen=True)
class Job:
    """One truth and the predictions that are compared with it.

    Attributes
    ----------
    case : its name.
    truth : file, or folder of a case.
    predictions : row name to the folder that holds that method's masks.
    """

    case: str
    truth: Path
    predictions: dict[str, Path]
    settings: Settings
    records: Records


@dataclass(frozen=True)
class Outcome:
    """What came of a case: numbers by row name, and sentences by row name where there are none."""

    case: str
    rows: dict[str, Row]
    failures: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """What came of all cases.

    Attributes
    ----------
    comparisons : how many there are: cases times rows.
    text : the table, in Markdown.
    failures : sentence by "case, row".
    """

    comparisons: int
    text: str
    failures: dict[str, str]

    def check(self) -> None:
        """Say what failed.

        Raises
        ------
        L2SNetError : a case failed.
        """
        if self.failures:
            failed = [f"{where}: {sentence}" for where, sentence in self.failures.items()]
            more = f" (and {len(failed) - 3} more)" if len(failed) > 3 else ""
            raise L2SNetError(
                f"{len(failed)} of {self.comparisons} comparisons failed, the others are done: "
                f"{'; '.join(failed[:3])}{more}"
            )


def evaluate(
    truth: Path, predictions: Sequence[Path], output: Path, settings: Settings | None = None, workers: int | None = None
) -> Evaluation:
    """Compare folders of masks with the truth; results go to `output`, and what it holds already is not done again.

    Writes `cases.csv`, `summary.json`, `table.md`, `cases.png`, and one file per case under `cases/`.

    Parameters
    ----------
    truth, predictions : folders of masks, flat (one file a case) or nested (one folder a case).
    workers : processes; None takes one for each CPU.

    Raises
    ------
    InputError : a folder holds no mask.
    L2SNetError : a worker was killed. A case that fails is in the result instead.
    """
    keep_freed_memory()
    settings = settings or Settings()
    rows = row_names(predictions)
    truths = find_truths(truth)
    for folder in predictions:
        warn_of_strays(folder, truths)
    records = Records(output / RECORDS)
    jobs = [Job(case, path, rows, settings, records) for case, path in truths.items()]
    outcomes: list[Outcome] = []
    try:
        workers = min(workers or cpus(), len(jobs))
        for _, outcome in track(run_jobs(run_job, jobs, workers), "cases", len(jobs)):
            outcomes.append(outcome)
            for row, sentence in outcome.failures.items():
                logger.error("%s, %s: %s", outcome.case, row, sentence)
    finally:
        outcomes.sort(key=lambda outcome: outcome.case)
        write_text(cases_csv(outcomes, list(rows)), output / CASES)
    failures = {f"{o.case}, {row}": sentence for o in outcomes for row, sentence in o.failures.items()}
    return Evaluation(len(jobs) * len(rows), write_results(outcomes, failures, list(rows), settings, output), failures)


def run_job(job: Job) -> Outcome:
    """Compare one case's predictions with its truth; whatever is wrong with the case becomes a failure."""
    paths: dict[str, Path] = {}
    failures: dict[str, str] = {}
    for row, root in job.predictions.items():
        try:
            paths[row] = find_mask(root, job.case)
        except (L2SNetError, OSError) as error:
            failures[row] = reason(error)
    try:
        rows, wrong = _score(job, paths)
    except Exception as error:  # one bad case must not end the others, whatever is wrong with it
        rows, wrong = {}, dict.fromkeys(paths, _sentence(error))
    return Outcome(job.case, rows, {**failures, **wrong})


def _score(job: Job, paths: dict[str, Path]) -> tuple[dict[str, Row], dict[str, str]]:
    """Rows and failures by row name; the truth is read once, and not at all where everything is recorded."""
    truth_path = mask_in(job.truth)
    rows: dict[str, Row] = {}
    failures: dict[str, str] = {}
    truth: tuple[Array, Geometry] | None = None
    for row, path in paths.items():
        name = f"{row}/{job.case}"
        key = [__version__, asdict(job.settings), fingerprint(truth_path), fingerprint(path)]
        recorded = job.records.get(name, key)
        if recorded is None:
            truth = truth or read_mask(truth_path, "truth")
            try:
                recorded = _compare(truth, read_mask(path, "prediction"), job.settings)
            except Exception as error:  # as above
                failures[row] = _sentence(error)
                continue
            job.records.put(name, key, recorded)
        rows[row] = recorded
    return rows, failures


def _compare(truth: tuple[Array, Geometry], prediction: tuple[Array, Geometry], settings: Settings) -> Row:
    (right, grid), (mask, other) = truth, prediction
    if not other.matches(grid):
        raise InputError(
            f"the prediction ({other}) is not on the truth's grid ({grid}); write it there, nothing is resampled"
        )
    return measure(right, mask, grid.spacing_mm, settings.surface_mm, settings.least_overlap).row()


def cases_csv(outcomes: Sequence[Outcome], rows: Sequence[str]) -> str:
    """A line per case and prediction; what is undefined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", *COLUMNS, "prediction"])
    for outcome in outcomes:
        for row in rows:
            if row in outcome.rows:
                numbers = [outcome.rows[row][column] for column in COLUMNS]
                writer.writerow([outcome.case, *("" if np.isnan(n) else f"{n:.6g}" for n in numbers), row])
    return text.getvalue()


def write_results(
    outcomes: Sequence[Outcome], failures: Mapping[str, str], rows: Sequence[str], settings: Settings, output: Path
) -> str:
    """Write summary, table and figure of what was scored; returns the table."""
    from l2snet.report.cases import cases_picture

    table = {row: {o.case: o.rows[row] for o in outcomes if row in o.rows} for row in rows}
    of_rows = summaries(table)
    summary = {
        "l2snet": __version__,
        "settings": {**asdict(settings), "neighbours": NEIGHBOURS},
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL, "unit": "case"},
        "rows": {row: asdict(of_row) for row, of_row in of_rows.items()},
        "failures": failures,
    }
    write_json(summary, output / SUMMARY)
    text = markdown(of_rows)
    write_text(text, output / TABLE)
    if of_rows:
        cases_picture({row: table[row] for row in of_rows}, output / FIGURE)
    return text


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, L2SNetError) else f"{type(error).__name__}: {reason(error)}"
