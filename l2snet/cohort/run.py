"""A cohort in this process: while one case is segmented, the next is read and the last is written."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from l2snet.cohort.cases import CohortCase, is_pseudonym, missing_series
from l2snet.cohort.plan import Outcome, Plan, failed
from l2snet.errors import L2SNetError
from l2snet.files import write_text
from l2snet.measure.table import to_csv
from l2snet.pipeline import Method
from l2snet.progress import track
from l2snet.sources.inputs import Source

logger = logging.getLogger(__name__)

TABLE, PAGE = "cohort.csv", "cohort.html"
COLUMNS = ("case", "study_uid", "status", "lesions", "tmtv_ml", "tlg", "suv_max", "dmax_mm", "sdmax_per_m", "suv_type")
DONE, FAILED = "done", "failed"
# How many folders a warning names.
NAMED = 10
# Does cases, and gives their outcomes as they are done.
Runner = Callable[[Plan, Sequence[CohortCase]], Iterator[Outcome]]


def run_cohort(cases: Sequence[CohortCase], plan: Plan, runner: Runner) -> list[Outcome]:
    """Do every case that is not done yet, write OUT/cohort.csv and the page over the reports, then say what failed.

    A --series that no study has and results in OUT that are of no case are warned of.
    The table is written after an interrupt, too, of the cases that are done; the same command goes on from there.

    Raises
    ------
    L2SNetError : a case failed; the others are done.
    OutputError : the table cannot be written.
    """
    outcomes = {case.name: Outcome(case.name, row) for case in cases if (row := plan.finished(case)) is not None}
    kept, left = len(outcomes), [case for case in cases if case.name not in outcomes]
    logger.info("%d cases: %d done before, %d to do", len(cases), kept, len(left))
    began = time.perf_counter()
    if left:
        (plan.out / PAGE).unlink(missing_ok=True)  # some of its links will lead nowhere
    try:
        with quiet():
            for outcome in track(runner(plan, left), "segmenting", total=len(left)):
                outcomes[outcome.name] = outcome
                _tell(outcome, len(outcomes) - kept, len(left), time.perf_counter() - began)
    finally:
        table = [outcomes[case.name] for case in cases if case.name in outcomes]
        write_table(table, plan.out / TABLE)
    done = [plan.out / outcome.name for outcome in table if not outcome.error]
    if plan.report is not None and done:
        from l2snet.report.cohort import write_cohort

        write_cohort(plan.out, done, [outcome.name for outcome in table if outcome.error])
    _warn(cases, plan)
    wrong = sum(bool(outcome.error) for outcome in table)
    if wrong:
        raise L2SNetError(
            f"{wrong} of {len(cases)} cases failed; {plan.out / TABLE} says why, l2snet predict on the folder of "
            "one says more: mend or remove them and give the same command again"
        )
    return table


def in_this_process(plan: Plan, cases: Sequence[CohortCase]) -> Iterator[Outcome]:
    """Outcomes in order; three cases at most are held in memory, one being read, one segmented and one written."""
    if not cases:
        return
    method = plan.load()
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        try:
            ahead = reader.submit(plan.read, cases[0])
            behind: Future[Outcome] | None = None
            for case, following in zip(cases, [*cases[1:], None], strict=True):
                here = ahead
                here.exception()  # wait: one case is read at a time
                if following is not None:
                    ahead = reader.submit(plan.read, following)
                now = _segment(plan, case, here, method, writer, behind)
                if behind is not None:
                    yield behind.result()
                behind = now
            if behind is not None:
                yield behind.result()
        finally:  # after an interrupt nothing further is begun
            reader.shutdown(wait=False, cancel_futures=True)


def _segment(
    plan: Plan,
    case: CohortCase,
    read: Future[tuple[Source, float]],
    method: Method,
    writer: ThreadPoolExecutor,
    behind: Future[Outcome] | None,
) -> Future[Outcome]:
    """Segment a case, and have it written once the case before it is."""
    try:
        plan.make_way(case)  # before the case can fail
        source, seconds = read.result()
        result = method.segment(source.case)
        if behind is not None:
            behind.exception()
        return writer.submit(_write, case, lambda: plan.write(case, source, result, method, seconds))
    except Exception as error:
        outcome: Future[Outcome] = Future()
        outcome.set_result(failed(case, error))
        return outcome


def _write(case: CohortCase, write: Callable[[], dict[str, object]]) -> Outcome:
    try:
        return Outcome(case.name, write())
    except Exception as error:
        return failed(case, error)


def write_table(outcomes: Sequence[Outcome], path: Path) -> None:
    """One row a case.

    Raises
    ------
    OutputError : it cannot be written.
    """
    rows = [
        {"case": outcome.name, "status": FAILED if outcome.error else DONE}
        | {key: value for key, value in outcome.row.items() if key != "case"}
        | ({"error": outcome.error} if outcome.error else {})
        for outcome in outcomes
    ]
    known = any("study_uid" in row for row in rows)
    columns = [column for column in COLUMNS if column != "study_uid" or known]
    write_text(to_csv(rows, [*columns, "error"]), path)


def _tell(outcome: Outcome, done: int, total: int, seconds: float) -> None:
    left_min = seconds / done * (total - done) / 60.0
    if outcome.error:
        logger.warning("%d/%d %s: %s", done, total, outcome.name, outcome.error)
    else:
        found = f"{outcome.row['lesions']} lesions, {outcome.row['tmtv_ml']:.1f} ml"
        logger.info("%d/%d %s: %s; %.0f min left", done, total, outcome.name, found, left_min)


def _warn(cases: Sequence[CohortCase], plan: Plan) -> None:
    """Of what looks right and is not."""
    anonymous = any(case.anonymous for case in cases)
    with quiet():
        missing = missing_series(cases, set(plan.reading.series) - plan.series(cases))
    if missing:
        uids = f"{len(missing)} of the UIDs" if anonymous else ", ".join(sorted(missing))
        logger.warning("--series: no study that can be read has %s; compare with the headers", uids)
    strange = [name if is_pseudonym(name) or not anonymous else "[name]" for name in plan.strange(cases)]
    if strange:
        named = ", ".join(strange[:NAMED]) + (f" and {len(strange) - NAMED} more" if len(strange) > NAMED else "")
        logger.warning("%s holds results of no case of this run: %s; remove what is outdated", plan.out, named)


@contextmanager
def quiet() -> Iterator[None]:
    """Of a case, only what this module says: other messages and warnings may hold what its headers say."""
    root, here = logging.getLogger("l2snet"), logging.getLogger("l2snet.cohort")
    levels = root.level, here.level
    here.setLevel(here.getEffectiveLevel())
    root.setLevel(max(root.getEffectiveLevel(), logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(levels[0])
        here.setLevel(levels[1])
