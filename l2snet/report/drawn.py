"""Views as the page's templates take them: an image as data URI, and outlines as SVG paths in mm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from l2snet.report.pictures import PIXEL_MM, pixels
from l2snet.report.shades import enlarged, stroke, webp_uri
from l2snet.report.strings import STRINGS
from l2snet.report.views import View
from l2snet.volume import Array

# A projection is stored up to so many times the SUV at which it is darkest, so that a reader can set another.
HEADROOM = 3.0
SCALE_FROM_MM = 130.0
# Height of letters, in mm of the patient and as a share of the view, whichever is more.
LETTERS_MM, LETTERS_SHARE = 10.0, 0.016
TABLE_STEPS = 65


def drawn(
    view: View,
    label: str,
    max_suv: float,
    titles: Callable[[int], str],
    kinds: Mapping[str, str] | None = None,
    windowed: bool = True,
) -> dict[str, Any]:
    """A view for the templates.

    Parameters
    ----------
    label : says what it shows, for who does not see it.
    titles : lesion number to what its outline is called.
    kinds : what outlines of other kinds are called.
    windowed : PET alone follows the page's window; else it is drawn as it is, as PET over CT always is.
    """
    height, width = view.size_mm
    windowed = windowed and view.ct is None
    image = companded(view, max_suv) if windowed else pixels(view, max_suv)
    return {
        "name": STRINGS["pictures"][view.name],
        "label": label,
        "windowed": windowed,
        "fused": view.ct is not None,
        "image": webp_uri(image),
        "width": round(width, 1),
        "height": round(height, 1),
        "letters": round(max(LETTERS_MM, LETTERS_SHARE * height), 1),
        "share": round(width / height, 4),
        "ends": view.ends,
        "scale": width > SCALE_FROM_MM,
        "marks": [
            {
                "kind": mark.kind,
                "number": mark.number,
                "colour": stroke(mark)[0],
                "title": titles(mark.number) if kinds is None else kinds[mark.kind],
                "path": path(mark.lines),
                "place": None if mark.place is None else [round(v, 1) for v in mark.place],
            }
            for mark in view.marks
        ],
    }


def path(lines: tuple[Array, ...]) -> str:
    """Closed lines as the path of an SVG, in mm."""
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line[:-1]) + "Z" for line in lines)


def companded(view: View, max_suv: float) -> Array:
    """(rows, columns) uint8: the root of SUV, to `HEADROOM` times `max_suv`; `window_table` undoes it."""
    size = (max(1, round(view.size_mm[0] / PIXEL_MM)), max(1, round(view.size_mm[1] / PIXEL_MM)))
    share = np.clip(enlarged(view.suv, size) / (HEADROOM * max_suv), 0, 1)
    return (255 * np.sqrt(share) + 0.5).astype(np.uint8)


def window_table() -> str:
    """The SVG filter's table from a companded image to inverse grey, darkest where it was drawn to be."""
    share = np.linspace(0, 1, TABLE_STEPS) ** 2 * HEADROOM
    return " ".join(f"{v:.4f}" for v in 1 - np.clip(share, 0, 1))
