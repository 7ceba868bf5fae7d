"""Every word that a report shows, from one file (`page/strings.json`), and how its numbers are written."""

from __future__ import annotations

import json
import math
import re
from decimal import ROUND_HALF_UP, Decimal
from importlib.resources import files
from typing import Any

PAGE = files("l2snet.report") / "page"
STRINGS: dict[str, Any] = json.loads((PAGE / "strings.json").read_text("utf-8"))
# Digits after the point; a count has none.
DIGITS = {
    "volume_ml": 2,
    "suv_max": 2,
    "suv_mean": 2,
    "suv_peak": 2,
    "tlg": 1,
    "longest_diameter_mm": 1,
    "probability": 2,
    "tmtv_ml": 1,
    "dmax_mm": 0,
    "sdmax_per_m": 3,
    "dice": 3,
    "sensitivity": 2,
    "precision": 2,
    "fpv_ml": 2,
    "fnv_ml": 2,
    "truth_ml": 2,
    "prediction_ml": 2,
}


# From here on a float64 has no fraction of a half, and a decimal of it may have too many digits.
NO_HALVES = 1e16


def shown(value: float | None, key: str) -> str:
    """A number as the reader sees it; a dash where there is none.

    Half way between two numbers it is the one further from 0, as the page's own script (`toFixed`) has it.
    """
    if value is None or math.isnan(value):
        return str(STRINGS["undefined"])
    digits = DIGITS.get(key, 0)
    if abs(value) >= NO_HALVES:
        return f"{value:.{digits}f}"
    return str(Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def printable(text: str) -> str:
    """Text without halves of characters, from a file name that is not UTF-8: they can be neither written nor drawn."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
