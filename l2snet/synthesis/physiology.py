"""What every tissue takes up, and how dense it is: draws per body, and the fields that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2snet.synthesis.anatomy import Anatomy
from l2snet.synthesis.drawing import Spacing, resize, smooth_field
from l2snet.synthesis.tissues import (
    COLON,
    MUSCLES,
    SMALL_BOWEL,
    Tissue,
    all_labels,
    look_of,
)
from l2snet.volume import Array

# After exercise or insulin muscles reach about this mean.
MAX_MUSCLE_SUV = 7.0
# Shares of bodies in which a state is found; each well above its share in the clinic.
METFORMIN, REACTIVE_MARROW, HOT_MUSCLES, SOME_HOT_MUSCLES, THYROIDITIS, COLD_HEART = 0.07, 0.12, 0.05, 0.2, 0.07, 0.35
FATTY_LIVER, INTRAVENOUS, ORAL = 0.15, 0.55, 0.3


@dataclass(frozen=True)
class Appearance:
    """One body's mean values by tissue label.

    Attributes
    ----------
    suv, hu : (256,) float32 mean of every label.
    contrast : 0 without intravenous contrast medium, to 1.
    """

    suv: Array
    hu: Array
    contrast: float


def draw_appearance(rng: np.random.Generator) -> Appearance:
    """Draw the mean SUV and HU of every tissue from `LOOKS`, with the states that change many at once."""
    suv, hu = np.zeros(256, np.float32), np.full(256, -1000.0, np.float32)
    contrast = float(rng.uniform(0.25, 1.0)) if rng.random() < INTRAVENOUS else 0.0
    for label in all_labels():
        look = look_of(label)
        suv[label] = log_uniform(rng, *look.suv)
        hu[label] = rng.uniform(*look.hu) + contrast * look.contrast_hu * rng.uniform(0.7, 1.3)
    _relate(suv, rng)
    _change_states(suv, rng)
    # SUV by body weight runs high in the obese, and with the time after injection.
    suv *= np.float32(rng.uniform(0.8, 1.35))
    suv[Tissue.AIR] = 0.0
    if rng.random() < FATTY_LIVER:
        hu[Tissue.LIVER] = rng.uniform(-5, 35) + 40 * contrast
    if rng.random() < ORAL:
        for label in (Tissue.BOWEL_FLUID, Tissue.STOMACH_CONTENT):
            hu[label] += rng.uniform(80, 380)
    hu[list(MUSCLES)] = hu[MUSCLES[0]] + rng.normal(0, 3, len(MUSCLES))
    return Appearance(suv, hu, contrast)


def _relate(suv: Array, rng: np.random.Generator) -> None:
    """Tie tissues to each other that are not independent, in place."""
    suv[Tissue.GREY] = max(suv[Tissue.GREY], 1.7 * suv[Tissue.WHITE])
    suv[Tissue.DEEP_GREY] = suv[Tissue.GREY] * rng.uniform(0.85, 1.2)
    suv[Tissue.CEREBELLUM] = suv[Tissue.GREY] * rng.uniform(0.55, 0.95)
    suv[Tissue.LUNG_VESSEL] = suv[Tissue.BLOOD] * rng.uniform(0.6, 0.9)
    suv[Tissue.VISCERAL_FAT] = max(suv[Tissue.VISCERAL_FAT], suv[Tissue.FAT])
    suv[list(MUSCLES)] = suv[MUSCLES[0]] * rng.uniform(0.8, 1.25, len(MUSCLES))
    suv[list(COLON)] = suv[COLON[0]] * rng.uniform(0.6, 1.6, len(COLON))
    suv[list(SMALL_BOWEL)] = suv[SMALL_BOWEL[0]] * rng.uniform(0.6, 1.6, len(SMALL_BOWEL))
    suv[Tissue.STOOL] = suv[COLON[0]] * rng.uniform(0.4, 1.0)
    suv[Tissue.BOWEL_FLUID] = suv[SMALL_BOWEL[0]] * rng.uniform(0.4, 1.0)
    if rng.random() < COLD_HEART:
        suv[Tissue.HEART_WALL] = suv[Tissue.BLOOD] * rng.uniform(0.9, 1.5)
    else:
        suv[Tissue.HEART_WALL] = log_uniform(rng, 2.0, 20.0)


def _change_states(suv: Array, rng: np.random.Generator) -> None:
    """Drugs, exercise and inflammation, in place."""
    if rng.random() < METFORMIN:
        suv[list(COLON)] = log_uniform(rng, 4.0, 16.0) * rng.uniform(0.6, 1.3, len(COLON))
        suv[Tissue.STOOL] = suv[COLON[0]] * rng.uniform(0.6, 1.1)
        if rng.random() < 0.5:
            suv[list(SMALL_BOWEL)] = log_uniform(rng, 3.0, 9.0) * rng.uniform(0.6, 1.3, len(SMALL_BOWEL))
    for group in (COLON, SMALL_BOWEL):
        if rng.random() < 0.3:
            suv[rng.choice(group, int(rng.integers(1, 4)))] = log_uniform(rng, 2.5, 12.0)
    if rng.random() < REACTIVE_MARROW:
        suv[Tissue.MARROW] = log_uniform(rng, 2.0, 6.0)
        suv[Tissue.SPLEEN] *= rng.uniform(1.0, 2.0)
    if rng.random() < HOT_MUSCLES:
        suv[list(MUSCLES)] *= rng.uniform(2.0, 4.5)
    if rng.random() < SOME_HOT_MUSCLES:
        suv[rng.choice(MUSCLES, int(rng.integers(1, 4)))] *= rng.uniform(1.6, 5.0)
    suv[list(MUSCLES)] = np.minimum(suv[list(MUSCLES)], MAX_MUSCLE_SUV)
    if rng.random() < THYROIDITIS:
        suv[Tissue.THYROID] = log_uniform(rng, 2.5, 10.0)


def uptake(anatomy: Anatomy, looks: Appearance, rng: np.random.Generator) -> Array:
    """(z, y, x) float32 SUV of the normal body before any imaging."""
    tissues = anatomy.tissues
    relative = np.zeros(256, np.float32)
    for label in all_labels():
        relative[label] = look_of(label).suv_texture
    field = texture(tissues.shape, anatomy.spacing_mm, rng, (55.0, 12.0))
    suv = looks.suv[tissues]
    field *= relative[tissues]
    # The normal body varies by no more than 85% below and 200% above a tissue's mean.
    np.clip(field, -0.85, 2.0, out=field)
    suv += suv * field
    _tilt_lungs(suv, anatomy, rng)
    _vary_heart(suv, anatomy, rng)
    _layer_bladder(suv, anatomy, rng)
    return suv


def density(anatomy: Anatomy, looks: Appearance, rng: np.random.Generator) -> Array:
    """(z, y, x) float32 HU of the body before any imaging; -1000 outside of it."""
    tissues = anatomy.tissues
    spread = np.zeros(256, np.float32)
    for label in all_labels():
        spread[label] = look_of(label).hu_texture
    field = texture(tissues.shape, anatomy.spacing_mm, rng, (30.0, 7.0))
    hu = looks.hu[tissues]
    field *= spread[tissues]
    hu += field
    return hu


def texture(
    shape: tuple[int, ...], spacing_mm: Spacing, rng: np.random.Generator, lengths_mm: tuple[float, float]
) -> Array:
    """(z, y, x) float32 random field of variance near 1: a slow and a fast part."""
    step = max(lengths_mm[1] / 2, min(spacing_mm))
    coarse_mm: Spacing = (step, step, step)
    size = tuple(int(np.ceil((n - 1) * s / step)) + 2 for n, s in zip(shape, spacing_mm, strict=True))
    coarse = 0.6 * smooth_field(rng, size, coarse_mm, lengths_mm[0])
    coarse += 0.8 * smooth_field(rng, size, coarse_mm, lengths_mm[1])
    return resize(coarse, coarse_mm, shape, spacing_mm)


def _tilt_lungs(suv: Array, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """More in the lower and posterior lung, where blood and weight are."""
    marks, steps = anatomy.marks, anatomy.spacing_mm
    z = np.arange(suv.shape[0], dtype=np.float32) * steps[0]
    y = np.arange(suv.shape[1], dtype=np.float32) * steps[1]
    down = np.clip((marks.apex - z) / max(marks.apex - marks.lung_base, 1.0), 0, 1) - 0.5
    back = np.clip((y - float(marks.spine(marks.dome)[0]) + 90) / 150, 0, 1) - 0.5
    gain = (
        1
        + np.float32(rng.uniform(0, 0.7)) * down[:, None, None]
        + np.float32(rng.uniform(0, 0.8)) * back[None, :, None]
    )
    np.multiply(suv, gain, out=suv, where=anatomy.tissues == Tissue.LUNG)


def _vary_heart(suv: Array, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """The ventricle's wall is patchy, and often hottest at the side."""
    mask = anatomy.tissues == Tissue.HEART_WALL
    where = np.argwhere(mask[::2, ::2, ::2])
    if not len(where):
        return
    low, high = 2 * where.min(axis=0), 2 * where.max(axis=0) + 2
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    patches = smooth_field(rng, suv[box].shape, anatomy.spacing_mm, rng.uniform(20, 60))
    gain = np.exp(rng.uniform(0.0, 0.7) * patches)
    across = np.arange(box[2].stop - box[2].start) * anatomy.spacing_mm[2]
    gain *= 1 + rng.uniform(-0.2, 0.8) * (across / max(across[-1], 1) - 0.5)
    np.multiply(suv[box], gain.astype(np.float32), out=suv[box], where=mask[box])


def _layer_bladder(suv: Array, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Heavier, hotter urine sinks to the back; fresh urine enters as a jet."""
    y = np.arange(suv.shape[1], dtype=np.float32) * anatomy.spacing_mm[1]
    depth = np.clip((y - anatomy.marks.bladder[1]) / 35, -1, 1)
    gain = (1 + np.float32(rng.uniform(-0.1, 0.7)) * depth)[None, :, None]
    np.multiply(suv, gain, out=suv, where=anatomy.tissues == Tissue.URINE)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A positive number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
