"""Per-case numbers to a table: means under both conventions for an empty truth, intervals, and the split by lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from l2snet.volume import Array

Row = dict[str, float]
# Row name (a method) to case name to numbers.
Table = Mapping[str, Mapping[str, Row]]

# autoPET I and II take what is undefined without a lesion for 0; III and IV leave it out.
ZERO, LEFT_OUT = "challenge2022", "challenge2024"
CONVENTIONS = (ZERO, LEFT_OUT)
BY_CONVENTION = ("dice", "fnv_ml", "surface_dice")
HEADINGS = {
    "dice": "Dice",
    "fpv_ml": "FPV ml",
    "fnv_ml": "FNV ml",
    "sensitivity": "lesion sensitivity",
    "precision": "lesion precision",
    "false_positives": "false positives",
    "tmtv_error_ml": "TMTV error ml",
    "volume_error": "volume error",
    "surface_dice": "surface Dice",
}
COLUMNS = tuple(HEADINGS)
# The bootstrap: cases are drawn again, with replacement; percentiles of the resampled means.
RESAMPLES, SEED, LEVEL = 5000, 0, 0.95


@dataclass(frozen=True)
class Mean:
    """Mean of a number over the cases that have it.

    Attributes
    ----------
    cases : how many have it; with none, the numbers are NaN.
    low, high : 95 % bootstrap interval of the mean.
    """

    mean: float
    low: float
    high: float
    median: float
    cases: int

    def __str__(self) -> str:
        """As a table shows it."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.cases else "-"


@dataclass(frozen=True)
class Summary:
    """One row of a table.

    Attributes
    ----------
    cases, with_lesions : number of cases, and of those with a lesion.
    conventions : convention to column to mean, over all cases.
    lesions, lesion_free : column to mean, over the cases with and without a lesion.
    """

    cases: int
    with_lesions: int
    conventions: dict[str, dict[str, Mean]] = field(default_factory=dict)
    lesions: dict[str, Mean] = field(default_factory=dict)
    lesion_free: dict[str, Mean] = field(default_factory=dict)


def summarise(rows: Sequence[Row]) -> Summary:
    """The numbers of the cases of one method, in any order of cases that is the same for every method."""
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    with_lesions = [row for row in rows if row["lesions"] > 0]
    without = [row for row in rows if not row["lesions"] > 0]
    return Summary(
        cases=len(rows),
        with_lesions=len(with_lesions),
        conventions={name: _means([under(row, name) for row in rows], columns) for name in CONVENTIONS},
        lesions=_means(with_lesions, columns),
        lesion_free=_means(without, columns),
    )


def under(row: Row, convention: str) -> Row:
    """A case's numbers under a convention; it says what Dice, FNV and surface Dice are where there is no lesion.

    Other numbers that are undefined (lesion sensitivity without a lesion, precision without a prediction) stay NaN:
    the challenge has no rule for them.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r} is not known; expected one of {', '.join(CONVENTIONS)}")
    if convention == LEFT_OUT or row["lesions"] > 0:
        return row
    return {**row, **dict.fromkeys(BY_CONVENTION, 0.0)}


def _means(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, Mean]:
    return {column: mean(np.array([row[column] for row in rows])) for column in columns}


def mean(values: Array) -> Mean:
    """Mean, its bootstrap interval, and median of the (n,) values that are not NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Mean(*(float("nan"),) * 4, cases=0)
    draws = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    tails = (1 - LEVEL) / 2
    low, high = np.quantile(values[draws].mean(axis=1), (tails, 1 - tails))
    return Mean(float(values.mean()), float(low), float(high), float(np.median(values)), len(values))


def summaries(table: Table) -> dict[str, Summary]:
    """Row name to its summary."""
    return {name: summarise([cases[case] for case in sorted(cases)]) for name, cases in table.items() if cases}


def markdown(rows: Mapping[str, Summary]) -> str:
    """Three Markdown tables: all cases, those with lesions, those without; and how to read them."""
    if not rows:
        return "No case was scored.\n"
    parts = [_all_cases(rows)]
    if any(row.with_lesions for row in rows.values()):
        parts.append(_with_lesions(rows))
    if any(row.with_lesions < row.cases for row in rows.values()):
        parts.append(_lesion_free(rows))
    parts.append(
        f"Means over cases, and their {LEVEL:.0%} bootstrap intervals ({RESAMPLES} resamples of cases, seed {SEED}). "
        f"Where there is no lesion, {ZERO} takes Dice and FNV for 0 and {LEFT_OUT} leaves them out. Components are "
        "18-connected.\n"
    )
    return "\n".join(parts)


def _all_cases(rows: Mapping[str, Summary]) -> str:
    headings = [f"Dice, {LEFT_OUT}", f"Dice, {ZERO}", "FPV ml", f"FNV ml, {LEFT_OUT}", f"FNV ml, {ZERO}"]
    places = [(LEFT_OUT, "dice"), (ZERO, "dice"), (LEFT_OUT, "fpv_ml"), (LEFT_OUT, "fnv_ml"), (ZERO, "fnv_ml")]
    lines = {
        name: [str(row.cases), *(str(row.conventions[convention][column]) for convention, column in places)]
        for name, row in rows.items()
    }
    return _grid("All cases", ["cases", *headings], lines)


def _with_lesions(rows: Mapping[str, Summary]) -> str:
    columns = [c for c in COLUMNS if any(c in row.lesions and row.lesions[c].cases for row in rows.values())]
    lines = {
        name: [str(row.with_lesions), *(str(row.lesions[column]) for column in columns)] for name, row in rows.items()
    }
    return _grid("Cases with lesions", ["cases", *(HEADINGS[column] for column in columns)], lines)


def _lesion_free(rows: Mapping[str, Summary]) -> str:
    lines = {}
    for name, row in rows.items():
        fpv = row.lesion_free["fpv_ml"]
        median = f"{fpv.median:.3f}" if fpv.cases else "-"
        lines[name] = [str(row.cases - row.with_lesions), str(fpv), median, str(row.lesion_free["false_positives"])]
    return _grid("Lesion-free cases", ["cases", "FPV ml", "FPV ml, median", "false positives"], lines)


def _grid(title: str, headings: Sequence[str], lines: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    texts = [["", *headings], *([name, *line] for name, line in lines.items())]
    widths = [max(3, *(len(text[k]) for text in texts)) for k in range(len(texts[0]))]
    texts.insert(1, ["-" * width for width in widths])
    rows = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(text, widths, strict=True)) + " |" for text in texts
    )
    return f"{title}\n\n" + "\n".join(rows) + "\n"
