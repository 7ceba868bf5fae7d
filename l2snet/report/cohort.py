"""A page over the reports of a cohort: a table to sort, how the totals are distributed, a link to each report."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from l2snet.errors import InputError
from l2snet.files import write_text
from l2snet.predict import REPORT
from l2snet.report.page import render
from l2snet.report.strings import STRINGS, shown
from l2snet.subject import SuvType

logger = logging.getLogger(__name__)

COHORT, SUMMARY = "cohort.html", "l2snet-summary"
KEYS = ("tmtv_ml", "tlg", "lesions", "suv_max", "dmax_mm")
PLOTTED = ("tmtv_ml", "tlg", "lesions", "suv_max")
# Totals run from 0 to thousands: the axis is even up to here, and by factors beyond.
LINEAR = 10.0
TICKS = (0, 5, 10, 100, 1000, 10000, 100000)
LEFT, RIGHT, TOP, BOTTOM = 20.0, 300.0, 28.0, 66.0
# Characters of a report that are read at once.
READ = 1 << 18
THUMBNAIL = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Summary:
    """What a report says of itself: the case's name, its totals, what to beware of, and a small picture as data URI.

    `suv_type` is what its SUV are normalised by.
    """

    name: str
    totals: Mapping[str, float | None]
    warnings: Sequence[str]
    thumbnail: str
    link: str
    suv_type: str = SuvType.bw.value


def write_cohort(folder: Path, cases: Sequence[Path] | None = None, failed: Sequence[str] = ()) -> Path:
    """Write `cohort.html` over every `report.html` below a folder; returns its path.

    Parameters
    ----------
    cases : the folders of the cases to list; all by default.
    failed : names of cases that have no result, which the page tells.

    Raises
    ------
    InputError : there is no report.
    OutputError : the page cannot be written.
    """
    reports = folder.rglob(REPORT) if cases is None else (case / REPORT for case in cases)
    paths = sorted(path for path in reports if path.is_file())
    found: list[Summary] = []
    unread = []
    for path in paths:
        try:
            found.append(read_summary(path, folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is left out: %s", path, error)
            unread.append(path.relative_to(folder).as_posix())
    if not found:
        raise InputError(f"no {REPORT} of l2snet was found under {folder}; make them with l2snet report first")
    out = folder / COHORT
    write_text(cohort_page(found, unread, failed), out)
    return out


def read_summary(path: Path, folder: Path) -> Summary:
    """What a report says of itself; nothing of it is trusted to be more than text and numbers.

    Raises
    ------
    ValueError, KeyError, TypeError : the file is no report of l2snet.
    """
    finder = _Finder()
    with path.open(encoding="utf-8") as file:  # the images lie behind the summary
        while not finder.found and (part := file.read(READ)):
            finder.feed(part)
    if not finder.found:
        raise ValueError("it holds no summary")
    told = json.loads(finder.text)
    totals = {key: None if told["totals"][key] is None else float(told["totals"][key]) for key in KEYS}
    thumbnail = str(told["thumbnail"])
    return Summary(
        str(told["name"]),
        totals,
        [str(warning) for warning in told["warnings"]],
        thumbnail if THUMBNAIL.fullmatch(thumbnail) else "",
        quote(os.fsencode(os.path.relpath(path, folder).replace(os.sep, "/"))),
        str(told["totals"].get("suv_type", SuvType.bw)),
    )


def cohort_page(cases: Sequence[Summary], unread: Sequence[str] = (), failed: Sequence[str] = ()) -> str:
    """The HTML of a cohort."""
    text = STRINGS["cohort"]
    totals = {key: STRINGS["totals"][key] for key in KEYS}
    units = {key: unit for key, (_, unit, _) in totals.items()}
    units["tlg"] = "/".join(sorted({STRINGS["tlg_units"].get(case.suv_type, "?") for case in cases}))
    columns = [
        ("case", [text["case"], "", ""]),
        *((key, [label, units[key], meaning]) for key, (label, _, meaning) in totals.items()),
        ("warnings", [text["warnings"], "", ""]),
        ("picture", [text["picture"], "", ""]),
    ]
    return render(
        "cohort.html",
        ["table.js", "cohort.js"],
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cases=cases,
        warnings=[
            text[key].format(names=", ".join(names))
            for key, names in (("failed", failed), ("unreadable", unread))
            if names
        ],
        keys=KEYS,
        columns=columns,
        plots=[plot(cases, key) for key in PLOTTED],
        linear=LINEAR,
        units=units,
        data={
            "cases": [{"case": case.name, **case.totals} for case in cases],
            "keys": KEYS,
            "copied": text["copied"],
            "not_copied": STRINGS["table"]["not_copied"],
            "none": STRINGS["undefined"],
        },
    )


def plot(cases: Sequence[Summary], key: str) -> dict[str, Any]:
    """Where the points, ticks and median of a total lie in its picture."""
    known = [(case.name, value) for case in cases if (value := case.totals[key]) is not None]
    values = np.array([value for _, value in known])
    top = next((tick for tick in TICKS if tick >= values.max(initial=LINEAR)), TICKS[-1])
    # Neighbours are set at different heights, so that they do not hide each other.
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    heights = BOTTOM - (BOTTOM - TOP) * (rank * 5 % 8) / 7
    points = [
        (round(_across(value, top), 1), round(float(y), 1), name, shown(value, key))
        for (name, value), y in zip(known, heights, strict=True)
    ]
    median = float(np.median(values)) if len(values) else None
    name = STRINGS["totals"][key][0]
    label = STRINGS["cohort"]["plot"].format(label=name, count=len(known), median=shown(median, key))
    return {
        "key": key,
        "label": label,
        "points": points,
        "ticks": [(round(_across(tick, top), 1), f"{tick:g}") for tick in TICKS if tick <= top],
        "median": None if median is None else round(_across(median, top), 1),
    }


def _across(value: float, top: float) -> float:
    """Where a value lies on the axis: even up to `LINEAR`, by factors beyond."""

    def stretched(v: float) -> float:
        return v / LINEAR if v <= LINEAR else 1 + float(np.log10(v / LINEAR))

    return LEFT + (RIGHT - LEFT) * min(1.0, stretched(max(0.0, value)) / stretched(top))


class _Finder(HTMLParser):
    """Takes the text of the summary's script element."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.found, self._inside = "", False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = not self.found and tag == "script" and ("id", SUMMARY) in attrs

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - a script holds no other element
        self.found |= self._inside
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data
