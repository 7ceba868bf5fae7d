"""Parts of a report that set a case beside something else: its truth, another mask, or an earlier examination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from l2snet.evaluation.metrics import Components, components, measure
from l2snet.measure.table import patient_row
from l2snet.report.drawn import drawn
from l2snet.report.findings import Findings
from l2snet.report.strings import STRINGS, shown
from l2snet.report.views import CORONAL, LESION, MISSED, RIGHT, SAGITTAL, TRUTH, WRONG, View, projection, warm_box
from l2snet.volume import Array

# Totals in a unit that goes by what SUV is normalised by.
BY_SUV = ("tlg", "suv_max")
# What of two manifests must be alike for their masks to be comparable.
MAKING = {
    "method": "method",
    "fusion": "fusion",
    "thresholds": "thresholds",
    "weights": "weights_sha256",
    "mirror": "mirror",
}


def comparison_part(findings: Findings, max_suv: float, truth: str, is_truth: bool = True) -> dict[str, Any]:
    """The mask against the case's truth: what is right, wrong and missed, and the numbers of an evaluation.

    Parameters
    ----------
    truth : what it is called.
    is_truth : else it is another mask, and the words say no more than that.

    Raises
    ------
    MissingPackageError : the extra `evaluate` is not installed.
    """
    if findings.case.lesions is None:
        raise ValueError("the case has no truth to compare with")
    right = findings.case.lesions.canonical().array > 0.5
    mask = findings.labels > 0
    layers = comparison_layers(right, mask)
    box = warm_box(findings.suv.array, mask | right)
    text = STRINGS["comparison" if is_truth else "against"]
    views = [
        drawn(
            projection(findings.suv, layers, axis, box),
            f"{findings.name}, {text['kinds'][WRONG]}, {text['kinds'][MISSED]}",
            max_suv,
            str,
            text["kinds"],
        )
        for axis in (CORONAL, SAGITTAL)
    ]
    scores = measure(right, mask, findings.suv.geometry.spacing_mm).row()
    return {"views": views, "scores": scores, "truth": truth, "text": text}


def comparison_layers(truth: Array, mask: Array) -> dict[str, Array]:
    """Kind of mark to (z, y, x) uint8: components of both masks by whether they touch the other."""
    marks, lesions = components(mask, truth), components(truth, mask)
    wrong, missed = (untouched(parts) for parts in (marks, lesions))
    return {
        RIGHT: (mask & ~wrong).astype(np.uint8),
        TRUTH: (truth & ~missed).astype(np.uint8),
        WRONG: wrong.astype(np.uint8),
        MISSED: missed.astype(np.uint8),
    }


def untouched(parts: Components) -> Array:
    """(z, y, x) bool: the components that the other mask does not touch."""
    found: Array = np.concatenate([[False], parts.untouched])[parts.labels]
    return found


def earlier_part(earlier: Findings, now: Findings, max_suv: float, keys: Sequence[str]) -> dict[str, Any]:
    """Two examinations of one patient: projections of both on one scale, and how the totals changed."""
    text = STRINGS["earlier"]
    views = []
    for axis in (CORONAL, SAGITTAL):
        pair = [projection(each.suv, {LESION: each.labels}, axis, each.box) for each in (earlier, now)]
        size_mm = (max(view.size_mm[0] for view in pair), max(view.size_mm[1] for view in pair))
        for view, findings, when in zip(pair, (earlier, now), (text["earlier"], text["now"]), strict=True):
            name = f"{STRINGS['pictures'][view.name]}, {when}"
            found = drawn(padded(view, size_mm), f"{name}: {findings.name}", max_suv, str)
            if findings is earlier:  # its numbers are not those of the table
                found["marks"] = [{**mark, "kind": "past"} for mark in found["marks"]]
            views.append({**found, "name": name})
    before, after = patient_row(earlier.measurement), patient_row(now.measurement)
    if earlier.measurement.suv_type != now.measurement.suv_type:  # what is in another unit is not shown
        before |= dict.fromkeys(BY_SUV)
    days = (_day(each) for each in (earlier, now))
    return {
        "name": earlier.name,
        "dates": text["dates"].format(**dict(zip(("earlier", "now"), days, strict=True))),
        "warnings": earlier_warnings(earlier, now),
        "views": views,
        "totals": list(keys),
        "before": before,
        "change": {key: changed(before[key], after[key], key) for key in keys},
    }


def padded(view: View, size_mm: tuple[float, float]) -> View:
    """A view with air at both sides and below, to a height and width in mm (to the pixel)."""
    pixel_mm = [mm / pixels for mm, pixels in zip(view.size_mm, view.suv.shape, strict=True)]
    more = [max(0, round((to - mm) / by)) for to, mm, by in zip(size_mm, view.size_mm, pixel_mm, strict=True)]
    left = more[1] // 2
    suv = np.pad(view.suv, ((0, more[0]), (left, more[1] - left)))
    shift = np.array([left * pixel_mm[1], 0.0])
    marks = [
        replace(
            mark,
            lines=tuple(line + shift for line in mark.lines),
            place=None if mark.place is None else (mark.place[0] + float(shift[0]), mark.place[1]),
        )
        for mark in view.marks
    ]
    height, width = (mm + n * by for mm, n, by in zip(view.size_mm, more, pixel_mm, strict=True))
    return replace(view, suv=suv, size_mm=(height, width), marks=tuple(marks))


def earlier_warnings(earlier: Findings, now: Findings) -> list[str]:
    """What to beware of when an examination is set beside an earlier one, a sentence each."""
    text, found = STRINGS["earlier"], []
    same = now.origin.is_of(earlier.origin)
    if not same:
        found.append(text["patient_unknown" if same is None else "other_patient"])
    if earlier.origin.taken is None or now.origin.taken is None:
        found.append(text["order_unknown"])
    elif earlier.origin.taken >= now.origin.taken:
        found.append(text["order"].format(earlier=_day(earlier), now=_day(now)))
    if not (earlier.manifest and now.manifest):
        found.append(text["made_unknown"])
    if names := differing(earlier, now):
        found.append(text["made_otherwise"].format(names=", ".join(names)))
    return [*found, *(text["warning"].format(warning=warning) for warning in earlier.warnings)]


def differing(one: Findings, other: Findings) -> list[str]:
    """What was not the same when two cases were segmented and measured, as far as both tell."""
    made, measured = STRINGS["method"], STRINGS["earlier"]["measured"]
    names = []
    if one.manifest and other.manifest:
        names = [made[name] for name, key in MAKING.items() if one.manifest.get(key) != other.manifest.get(key)]
    if one.rules != other.rules:
        names.append(measured["rules"])
    if one.measurement.suv_type != other.measurement.suv_type:
        names.append(measured["suv_type"])
    return names


def _day(findings: Findings) -> str:
    taken = findings.origin.taken
    return str(STRINGS["earlier"]["no_date"]) if taken is None else taken.isoformat()


def changed(before: float | None, after: float | None, key: str) -> str:
    """The difference with its sign, and in percent where there was something before."""
    if before is None or after is None:
        return str(STRINGS["undefined"])
    if before == after:
        return str(STRINGS["earlier"]["same"])
    difference = shown(after - before, key)
    signed = difference if difference.startswith("-") else f"+{difference}"
    return f"{signed} ({100 * (after - before) / before:+.0f} %)" if before else signed
