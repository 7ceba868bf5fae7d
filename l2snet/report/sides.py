"""Parts of a report that set a case beside something else: its truth, or an earlier examination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from l2snet.evaluation.metrics import Components, components, measure
from l2snet.measure.table import patient_row
from l2snet.report.drawn import drawn
from l2snet.report.findings import Findings
from l2snet.report.strings import STRINGS, shown
from l2snet.report.views import CORONAL, LESION, MISSED, RIGHT, SAGITTAL, TRUTH, WRONG, projection, warm_box
from l2snet.volume import Array

# Totals in a unit that goes by what SUV is normalised by.
BY_SUV = ("tlg", "suv_max")


def comparison_part(findings: Findings, max_suv: float, truth: str) -> dict[str, Any]:
    """The mask against the case's truth: what is right, wrong and missed, and the numbers of an evaluation.

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
    text = STRINGS["comparison"]
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
    return {"views": views, "scores": scores, "truth": truth}


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
    """Two examinations of one patient: projections of both, and how the totals changed."""
    text = STRINGS["earlier"]
    views = []
    for axis in (CORONAL, SAGITTAL):
        for findings, when in ((earlier, text["earlier"]), (now, text["now"])):
            view = projection(findings.suv, {LESION: findings.labels}, axis, findings.box)
            name = f"{STRINGS['pictures'][view.name]}, {when}"
            found = drawn(view, f"{name}: {findings.name}", max_suv, str)
            if findings is earlier:  # its numbers are not those of the table
                found["marks"] = [{**mark, "kind": "past"} for mark in found["marks"]]
            views.append({**found, "name": name})
    before, after = patient_row(earlier.measurement), patient_row(now.measurement)
    # What is in another unit has no difference.
    alike = earlier.measurement.suv_type == now.measurement.suv_type
    change = {k: changed(before[k] if alike or k not in BY_SUV else None, after[k], k) for k in keys}
    return {"name": earlier.name, "views": views, "totals": list(keys), "before": before, "change": change}


def changed(before: float | None, after: float | None, key: str) -> str:
    """The difference with its sign, and in percent where there was something before."""
    if before is None or after is None:
        return str(STRINGS["undefined"])
    difference = shown(after - before, key)
    signed = difference if difference.startswith("-") else f"+{difference}"
    return f"{signed} ({100 * (after - before) / before:+.0f} %)" if before else signed
