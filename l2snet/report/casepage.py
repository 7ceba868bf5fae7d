"""One case as one HTML file: pictures, table, viewer, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from l2snet.files import write_text
from l2snet.measure.table import LESION_COLUMNS, lesion_row, patient_row
from l2snet.report.drawn import HEADROOM, drawn, window_table
from l2snet.report.findings import Findings
from l2snet.report.page import niivue, render
from l2snet.report.payload import payload
from l2snet.report.pictures import MAX_SUV
from l2snet.report.rotation import animated, turning_frames
from l2snet.report.shades import KINDS, LESION_COLOURS, data_uri, webp_uri
from l2snet.report.sides import comparison_part, earlier_part
from l2snet.report.strings import DIGITS, STRINGS, shown
from l2snet.report.views import CORONAL, LESION, SAGITTAL, View, axial, projection
from l2snet.volume import Array

TOTALS = ("tmtv_ml", "tlg", "lesions", "suv_max", "dmax_mm")
# Which total stands under which column.
SUMS = {"volume_ml": "tmtv_ml", "tlg": "tlg", "suv_max": "suv_max"}
# Totals without such a column, which the CSV has columns of their own for.
OTHER_TOTALS = ("lesions", "dmax_mm", "sdmax_per_m")
# Slices of more lesions than these would make a page that nobody reads.
MOST_SLICES = 60
THUMBNAIL_PIXELS = 200


@dataclass(frozen=True)
class Options:
    """What a report holds.

    Attributes
    ----------
    max_suv : at which projections are darkest, and where the hot scale ends.
    viewer : the images themselves, to leaf through.
    truth : what the truth, or the other mask, is called, where the case has one (`Case.lesions`).
    is_truth : it is not another mask.
    earlier : an earlier examination of the patient.
    """

    max_suv: float = MAX_SUV
    viewer: bool = True
    truth: str = "the truth"
    is_truth: bool = True
    earlier: Findings | None = None


def write_report(findings: Findings, path: Path, options: Options | None = None) -> None:
    """Write the report of a case.

    Raises
    ------
    MissingPackageError : the extra `report` is not installed.
    OutputError : the file cannot be written.
    """
    write_text(report(findings, options or Options()), path)


def report(findings: Findings, options: Options) -> str:
    """The HTML of a case's report."""
    max_suv = options.max_suv
    rows = [lesion_row(lesion) for lesion in findings.measurement.lesions]
    totals = patient_row(findings.measurement)
    frames = turning_frames(findings.suv, findings.labels, findings.box, max_suv)
    earlier = None if options.earlier is None else earlier_part(options.earlier, findings, max_suv, TOTALS[:4])
    comparison = None
    if findings.case.lesions is not None:
        comparison = comparison_part(findings, max_suv, options.truth, options.is_truth)
    warnings = [*findings.warnings, *([] if earlier is None else earlier["warnings"])]
    told: dict[str, Any] = {}
    packed: dict[str, str] = {}
    scripts, later = ["table.js", "report.js"], []
    if options.viewer:
        told, packed = payload(findings)
        text, packed["niivue"] = niivue()
        scripts, later = [*scripts, "measure.js", "viewer.js"], [text]
    return render(
        "report.html",
        scripts,
        later,
        name=findings.name,
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        max_suv=max_suv,
        suv_limit=HEADROOM * max_suv,
        window_table=window_table(),
        totals=totals,
        totals_shown=[*TOTALS, *(["sdmax_per_m"] if findings.surface_m2 is not None else [])],
        units=units_of(findings),
        warnings=warnings,
        projections=_projections(findings, max_suv),
        still=webp_uri(frames[0]),
        rotating=data_uri(animated(frames), "image/webp"),
        turning_size=frames[0].shape[1::-1],
        columns=columns_of(findings),
        rows=rows,
        sums=SUMS,
        slices=_slices(findings, max_suv),
        slices_caption=_slices_caption(findings, max_suv),
        viewer=told,
        packed=packed,
        comparison=comparison,
        kinds=KINDS,
        earlier=earlier,
        method=method_of(findings),
        summary={
            "name": findings.name,
            "totals": totals,
            "warnings": warnings,
            "thumbnail": webp_uri(_smaller(frames[0])),
        },
        data={
            "name": findings.name,
            "rows": [{**row, "at": at} for row, at in zip(rows, hottest_ras_mm(findings), strict=True)],
            "totals": totals,
            "colours": LESION_COLOURS,
            "digits": DIGITS,
            "csv": {"columns": ["case", *LESION_COLUMNS], "sums": SUMS, "totals": OTHER_TOTALS},
            "viewer": told,
            "text": STRINGS,
        },
    )


def units_of(findings: Findings) -> dict[str, str]:
    """The unit of each total: of TLG it goes by what SUV is normalised by."""
    tlg = STRINGS["tlg_units"][findings.measurement.suv_type]
    return {key: tlg if key == "tlg" else STRINGS["totals"][key][1] for key in STRINGS["totals"] if key != "heading"}


def columns_of(findings: Findings) -> list[tuple[str, list[str]]]:
    """The table's columns: key, and label, unit and meaning; without the probability where it was not kept."""
    unit = STRINGS["tlg_units"][findings.measurement.suv_type]
    columns = {key: list(column) for key, column in STRINGS["columns"].items()}
    columns["tlg"][1] = unit
    if findings.probability is None:
        del columns["probability"]
    return list(columns.items())


def title_of(findings: Findings) -> Callable[[int], str]:
    """What the outline of a lesion is called, by its number."""
    lesions = {lesion.number: lesion for lesion in findings.measurement.lesions}

    def title(number: int) -> str:
        lesion = lesions[number]
        volume, suv_max = shown(lesion.volume_ml, "volume_ml"), shown(lesion.suv_max, "suv_max")
        return str(STRINGS["pictures"]["lesion"].format(number=number, volume=volume, suv_max=suv_max))

    return title


def hottest_ras_mm(findings: Findings) -> list[tuple[float, float, float]]:
    """Where the viewer goes for each lesion, in mm to the right, anterior, superior: its hottest voxel."""
    labels, suv = findings.labels, findings.suv
    inside = np.flatnonzero(labels)
    # The last of each number, in order of SUV, is its hottest.
    order = inside[np.argsort(suv.array.ravel()[inside], kind="stable")]
    hottest = np.zeros(len(findings.measurement.lesions) + 1, np.int64)
    hottest[labels.ravel()[order]] = order
    places = suv.geometry.world(np.stack(np.unravel_index(hottest[1:], labels.shape), axis=-1))
    return [(-left, -posterior, superior) for left, posterior, superior in places.tolist()]


def method_of(findings: Findings) -> list[tuple[str, str]]:
    """How the mask was made, a name and a value a line."""
    text, manifest = STRINGS["method"], findings.manifest
    ct = text["yes"] if findings.case.ct is not None else text["no"]
    lines = [(text["case"], findings.name), (text["grid"], str(findings.case.geometry)), (text["ct"], ct)]
    if not manifest:
        return [*lines, (text["method"], text["unknown"])]
    packages = manifest.get("packages", {})
    values = {
        "method": manifest.get("method"),
        "fusion": manifest.get("fusion"),
        "thresholds": _pairs(manifest.get("thresholds")),
        "weights": _pairs(manifest.get("weights_sha256")),
        "engine": manifest.get("engine"),
        "mirror": text["yes"] if manifest.get("mirror") else text["no"],
        "software": ", ".join(f"{k} {v}" for k, v in {"l2snet": manifest.get("l2snet"), **packages}.items() if v),
        "python": manifest.get("python"),
        "seconds": _pairs(manifest.get("seconds")),
    }
    return [*lines, *((text[key], str(value)) for key, value in values.items() if value)]


def _pairs(values: Any) -> str:
    """A mapping as text: name and value, lists joined."""
    if not isinstance(values, dict):
        return ""
    listed = {k: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in values.items()}
    return "; ".join(f"{key} {value}" for key, value in listed.items())


def _projections(findings: Findings, max_suv: float) -> list[dict[str, Any]]:
    text, title = STRINGS["pictures"], title_of(findings)
    found = []
    for axis in (CORONAL, SAGITTAL):
        view = projection(findings.suv, {LESION: findings.labels}, axis, findings.box)
        count = len(findings.measurement.lesions)
        label = text["alt"].format(view=text[view.name], name=findings.name, count=count)
        found.append(drawn(view, label, max_suv, title))
    return found


def lesion_slices(findings: Findings) -> Iterator[tuple[int, View]]:
    """Number and axial view of the largest lesions."""
    for number, place in enumerate(findings.places[:MOST_SLICES], start=1):
        yield number, axial(findings.suv, findings.ct, findings.labels, number, place, findings.box)


def _slices(findings: Findings, max_suv: float) -> list[tuple[int, dict[str, Any]]]:
    text, title = STRINGS["pictures"], title_of(findings)
    found = []
    for number, view in lesion_slices(findings):
        picture = drawn(view, text["slice_alt"].format(number=number), max_suv, title, windowed=False)
        found.append((number, {**picture, "caption": title(number)}))
    return found


def _slices_caption(findings: Findings, max_suv: float) -> str:
    text, count = STRINGS["pictures"], len(findings.measurement.lesions)
    what = text["without_ct" if findings.ct is None else "with_ct"]
    caption = text["slices_caption"].format(what=what, suv=max_suv)
    left_out = text["slices_left_out"].format(shown=MOST_SLICES, count=count) if count > MOST_SLICES else ""
    return f"{caption} {left_out}".strip()


def _smaller(frame: Array) -> Array:
    step = max(1, round(frame.shape[0] / THUMBNAIL_PIXELS))
    return np.ascontiguousarray(frame[::step, ::step])
