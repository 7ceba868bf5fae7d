"""Colours of pictures: grey and hot scales, the CT window, and lesion colours that colour-blind readers tell apart."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from l2snet.errors import MissingPackageError
from l2snet.report.views import LESION, MISSED, RIGHT, TRUTH, WRONG, Mark
from l2snet.volume import Array

# Okabe and Ito's colours, without black and with a darker yellow, which is seen on white; the numbers say it in print.
LESION_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a000")
# Of a comparison: the mask, its components that touch no lesion, the truth, and its lesions that were not found.
KINDS = {RIGHT: ("#009e73", "-"), WRONG: ("#d55e00", "-"), TRUTH: ("#000000", "-"), MISSED: ("#0072b2", "--")}
# HU of the soft-tissue window, level 40 and width 400.
CT_WINDOW_HU = (-160.0, 240.0)
# Of the PET over the CT: nothing below the first share of the scale, this much from the second on.
FUSION_FROM, FUSION_FULL, FUSION_OPACITY = 0.1, 0.45, 0.8
WEBP_QUALITY = 88


def stroke(mark: Mark) -> tuple[str, str]:
    """Colour and line style of a mark: a lesion's own, or those of what was right, wrong and missed."""
    if mark.kind == LESION:
        return LESION_COLOURS[(mark.number - 1) % len(LESION_COLOURS)], "-"
    return KINDS[mark.kind]


def rgb(colour: str) -> tuple[int, int, int]:
    """#rrggbb to 0..255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def inverse_grey(suv: Array, max_suv: float) -> Array:
    """SUV to uint8, 0 white and `max_suv` black."""
    grey: Array = (255.5 - 255 * np.clip(suv / max_suv, 0, 1)).astype(np.uint8)
    return grey


def hot(share: Array) -> Array:
    """0..1 to (..., 3) float32 0..1: black, red, yellow, white, as PET is shown over CT."""
    colours: Array = np.clip(3 * share[..., None] - np.array([0, 1, 2]), 0, 1).astype(np.float32)
    return colours


def fused(suv: Array, ct: Array | None, max_suv: float) -> Array:
    """(rows, columns, 3) uint8: hot PET over CT in its window; PET in inverse grey where there is no CT."""
    if ct is None:
        return np.repeat(inverse_grey(suv, max_suv)[..., None], 3, axis=-1)
    low, high = CT_WINDOW_HU
    grey: Array = np.clip((ct - low) / (high - low), 0, 1)[..., None]
    share = np.clip(suv / max_suv, 0, 1)
    opacity = FUSION_OPACITY * np.clip((share - FUSION_FROM) / (FUSION_FULL - FUSION_FROM), 0, 1)[..., None]
    picture = (1 - opacity) * grey + opacity * hot(share)
    levels: Array = (255 * picture + 0.5).astype(np.uint8)
    return levels


def image_library() -> Any:
    """Pillow's Image module.

    Raises
    ------
    MissingPackageError : Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError("a picture", "report") from error
    return Image


def enlarged(values: Array, size: tuple[int, int]) -> Array:
    """A (rows, columns) float32 image at another size, cubic; nothing beyond its own range appears."""
    pillow = image_library()
    image = pillow.fromarray(np.ascontiguousarray(values, np.float32))
    out: Array = np.asarray(image.resize(size[::-1], pillow.Resampling.BICUBIC))
    return out.clip(values.min(), values.max())


def webp_uri(picture: Array) -> str:
    """A uint8 picture, grey or RGB, as a data URI."""
    file = io.BytesIO()
    image_library().fromarray(picture).save(file, "WEBP", quality=WEBP_QUALITY, method=3)
    return data_uri(file.getvalue(), "image/webp")


def data_uri(content: bytes, mime: str) -> str:
    """Bytes as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
