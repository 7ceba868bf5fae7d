"""The lesion table as files: lesions.csv (a row a lesion), patient.csv (one row) and measurements.json (both)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from l2snet.files import write_text
from l2snet.measure.lesions import Lesion
from l2snet.measure.patient import Measurement

LESIONS, PATIENT, MEASUREMENTS = "lesions.csv", "patient.csv", "measurements.json"
# Six digits are more than any scanner has.
DIGITS = 6
AXES = ("left", "posterior", "superior")
LESION_COLUMNS = (
    "number",
    "volume_ml",
    "suv_max",
    "suv_mean",
    "suv_peak",
    "tlg",
    *(f"centroid_{axis}_mm" for axis in AXES),
    "longest_diameter_mm",
    "probability",
)

Row = dict[str, Any]


def lesion_row(lesion: Lesion) -> Row:
    """A lesion's row, the centroid an axis a column."""
    row = asdict(lesion)
    centroid = row.pop("centroid_mm")
    row |= {f"centroid_{axis}_mm": value for axis, value in zip(AXES, centroid, strict=True)}
    return {column: _rounded(row[column]) for column in LESION_COLUMNS}


def patient_row(measurement: Measurement) -> Row:
    """A patient's row; what does not exist is None."""
    row = asdict(measurement.burden) | {"suv_type": measurement.suv_type}
    return {column: _rounded(value) for column, value in row.items()}


def write_tables(measurement: Measurement, identity: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Write all three files; the paths by name of file.

    Parameters
    ----------
    identity : first columns of every row, such as the case's name.

    Raises
    ------
    OutputError : a file cannot be written.
    """
    lesions = [{**identity, **lesion_row(lesion)} for lesion in measurement.lesions]
    patient = {**identity, **patient_row(measurement)}
    texts = {
        LESIONS: to_csv(lesions, [*identity, *LESION_COLUMNS]),
        PATIENT: to_csv([patient], list(patient)),
        MEASUREMENTS: json.dumps({"patient": patient, "lesions": lesions}, indent=1) + "\n",
    }
    for name, text in texts.items():
        write_text(text, folder / name)
    return {name: folder / name for name in texts}


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV; what is None or missing stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
