"""From an organ label map to a map of all tissues."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2snet.synthesis import organs as inner
from l2snet.synthesis import viscera
from l2snet.synthesis.drawing import Canvas, Spacing, smooth_field
from l2snet.synthesis.landmarks import Landmarks, Organ, complete, find_landmarks
from l2snet.synthesis.limbs import Build, draw_build
from l2snet.synthesis.outline import Outline, draw_outline
from l2snet.synthesis.skeleton import Vertebra, draw_skeleton
from l2snet.synthesis.tissues import (
    M_BACK,
    M_DIAPHRAGM,
    M_FACE,
    M_GLUTEAL,
    M_NECK,
    M_PECTORAL,
    M_PSOAS,
    M_SHOULDER_L,
    M_SHOULDER_R,
    M_THIGH_L,
    M_THIGH_R,
    M_TRUNK,
    MUSCLES,
    Tissue,
    among,
)
from l2snet.volume import Array

SKIN_MM = 2.4
TISSUE_OF_ORGAN = {
    Organ.SPLEEN: Tissue.SPLEEN,
    Organ.KIDNEYS: Tissue.KIDNEY,
    Organ.LIVER: Tissue.LIVER,
    Organ.BLADDER: Tissue.URINE,
    Organ.LUNGS: Tissue.LUNG,
    Organ.BRAIN: Tissue.WHITE,
    Organ.HEART: Tissue.BLOOD,
    Organ.STOMACH: Tissue.STOMACH_WALL,
    Organ.PROSTATE: Tissue.PROSTATE,
    Organ.GLANDS: Tissue.SALIVARY,
}


@dataclass(frozen=True)
class Anatomy:
    """A tissue map cut to the body, and where its parts lie.

    Attributes
    ----------
    tissues : (z, y, x) uint8 `Tissue` labels.
    start : index of this box's first voxel in the canonical organ map.
    depth_mm : (z, y, x) float32 below the skin.
    cavity_mm : (z, y, x) float32 inside the cavity's wall.
    lines : curves, (n, 3) in mm, by name: vessels, airways, bowel.
    spots : points, (n, 3) or (3,) in mm, by name.
    """

    tissues: Array
    spacing_mm: Spacing
    start: tuple[int, int, int]
    depth_mm: Array
    cavity_mm: Array
    marks: Landmarks
    outline: Outline
    build: Build
    vertebrae: list[Vertebra]
    lines: dict[str, Array]
    spots: dict[str, Array]

    @property
    def canvas(self) -> Canvas:
        """The tissue map, to paint on in place."""
        return Canvas(self.tissues, self.spacing_mm)


def draw_anatomy(organ_map: Array, spacing_mm: Spacing, rng: np.random.Generator) -> Anatomy:
    """Draw a body around the organs.

    Parameters
    ----------
    organ_map : (z, y, x) uint8 `Organ` labels in canonical axes (Superior, Posterior, Left).

    Raises
    ------
    InputError : the map has no lungs or no liver.
    """
    build = draw_build(rng)
    organs, start = _cut_to(organ_map, _trunk_box(organ_map, spacing_mm))
    has_glands = bool((organs[::2, ::2, ::2] == Organ.GLANDS).sum() > 20)
    found = complete(organs, spacing_mm, rng)
    marks = find_landmarks(organs, spacing_mm, found, rng)
    outline = draw_outline(organs, spacing_mm, marks, build, rng)
    more = outline.start
    box = tuple(slice(first, first + n) for first, n in zip(more, outline.body.shape, strict=True))
    organs, _ = _cut_to(organs, box)
    marks = _move(marks, more, spacing_mm)
    canvas = Canvas(_layers(outline, marks, spacing_mm, rng), spacing_mm)
    vertebrae = draw_skeleton(canvas, organs, marks, outline, build, rng)
    lines = viscera.draw_vessels(canvas, marks, outline)
    _psoas(canvas, marks, outline)
    inner.draw_face(canvas, marks, has_glands, rng)
    _place_organs(canvas, organs)
    lines |= viscera.draw_airways(canvas, marks, rng)
    spots = {"heart": inner.draw_heart(canvas, organs, marks, rng)}
    viscera.draw_upper_abdomen(canvas, organs, marks, rng)
    spots |= inner.draw_kidneys(canvas, organs, marks, rng)
    lines |= viscera.draw_bowel(canvas, marks, outline, rng)
    spots |= viscera.draw_pelvic_organs(canvas, organs, marks, rng)
    viscera.draw_stomach_and_bladder(canvas, organs, rng)
    inner.draw_brain(canvas, organs, marks, rng)
    if not marks.male:
        spots |= _breasts(canvas, marks, outline, rng)
    first = (start[0] + more[0], start[1] + more[1], start[2] + more[2])
    return Anatomy(
        canvas.labels, spacing_mm, first, outline.body, outline.cavity, marks, outline, build, vertebrae, lines, spots
    )


def _trunk_box(organs: Array, spacing_mm: Spacing) -> tuple[slice, slice, slice]:
    """All levels, and the organs with room for the largest body around them."""
    seen: Array = organs.max(axis=0) > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    room_y, room_x = int(130 / spacing_mm[1]), int(220 / spacing_mm[2])
    if not len(rows):
        return slice(None), slice(None), slice(None)
    return (
        slice(0, organs.shape[0]),
        slice(max(0, int(rows[0]) - room_y), min(organs.shape[1], int(rows[-1]) + room_y)),
        slice(max(0, int(columns[0]) - room_x), min(organs.shape[2], int(columns[-1]) + room_x)),
    )


def _cut_to(array: Array, box: tuple[slice, ...]) -> tuple[Array, tuple[int, int, int]]:
    z, y, x = (s.start or 0 for s in box)
    return array[box].copy(), (z, y, x)


def _move(marks: Landmarks, start: tuple[int, int, int], spacing_mm: Spacing) -> Landmarks:
    """Landmarks in the coordinates of a box of their grid that begins at voxel `start`."""
    z, y, x = (n * step for n, step in zip(start, spacing_mm, strict=True))
    shift = np.array([z, y, x])
    levels = (
        "bladder_low",
        "bladder_top",
        "kidney_low",
        "iliac",
        "lung_base",
        "dome",
        "apex",
        "chin",
        "skull_base",
        "vertex",
    )
    return replace(
        marks,
        mid_x=marks.mid_x - x,
        bladder=tuple(np.subtract(marks.bladder, shift)),
        brain=tuple(np.subtract(marks.brain, shift)),
        spine_z=tuple(v - z for v in marks.spine_z),
        spine_y=tuple(v - y for v in marks.spine_y),
        spine_x=tuple(v - x for v in marks.spine_x),
        **{name: getattr(marks, name) - z for name in levels},
    )


def _layers(outline: Outline, marks: Landmarks, spacing_mm: Spacing, rng: np.random.Generator) -> Array:
    """Skin, fat, muscles by group with fat between them, and the fat of the cavities."""
    shape = outline.body.shape
    labels = np.zeros(shape, np.uint8)
    body = outline.body > 0
    labels[body] = Tissue.FAT
    labels[body & (outline.body < SKIN_MM)] = Tissue.SKIN
    septa = np.abs(smooth_field(rng, shape, spacing_mm, 30.0)) < rng.uniform(0.03, 0.12)
    muscle = (outline.muscle > 0) & (outline.body > SKIN_MM + 1.5) & ~septa
    coarse = np.full(tuple(-(-n // 2) for n in shape), M_TRUNK, np.uint8)
    _assign_groups(coarse, marks, (2 * spacing_mm[0], 2 * spacing_mm[1], 2 * spacing_mm[2]), rng)
    groups = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: shape[0], : shape[1], : shape[2]]
    np.copyto(labels, groups, where=muscle)
    cavity = (outline.cavity > 0) & body
    labels[cavity] = Tissue.VISCERAL_FAT
    thin = cavity & (outline.cavity < 3.0)
    labels[thin] = M_DIAPHRAGM
    return labels


def _assign_groups(groups: Array, marks: Landmarks, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Write the muscle group of every voxel by where it lies relative to the spine, in place.

    Borders are bent at random, so that no group ends in a plane.
    """
    nz, ny, nx = groups.shape
    bend = 20 * smooth_field(rng, groups.shape, spacing_mm, 70.0)
    heights = (np.arange(nz) * spacing_mm[0]).astype(np.float32)
    spine_y, spine_x = (v.astype(np.float32) for v in marks.spine(heights))
    level = heights[:, None, None] + np.float32(1.5) * bend
    y = (np.arange(ny) * spacing_mm[1]).astype(np.float32)[None, :, None] - spine_y[:, None, None] + bend
    x = (np.arange(nx) * spacing_mm[2]).astype(np.float32)[None, None, :] - spine_x[:, None, None] + bend
    wide = np.abs(x)
    groups[(y > 8) & (wide < 62) & (level < marks.apex + 15)] = M_BACK
    groups[(level > marks.dome - 20) & (level < marks.apex - 5) & (y < -58)] = M_PECTORAL
    high = level > marks.apex - 130
    groups[high & (x < -118)] = M_SHOULDER_R
    groups[high & (x > 118)] = M_SHOULDER_L
    groups[(level > marks.apex + 12) & (wide < 90)] = M_NECK
    groups[(level > marks.chin) & (wide < 90) & (y < -15)] = M_FACE
    groups[(level < marks.iliac - 15) & (y > -25) & (wide < 180)] = M_GLUTEAL
    low = level < marks.crotch + 10
    groups[low & (x < 0)] = M_THIGH_R
    groups[low & (x >= 0)] = M_THIGH_L


def _psoas(canvas: Canvas, marks: Landmarks, outline: Outline) -> None:
    """Psoas and iliacus, beside the lumbar spine and over the pelvis to the hip."""
    y, x = (float(v) for v in marks.spine(marks.kidney_low + 30))
    low_y, low_x = (float(v) for v in marks.spine(marks.iliac))
    soft = among(Tissue.VISCERAL_FAT, Tissue.FAT)
    for side, leg in zip((-1, 1), outline.legs, strict=True):
        points = np.array(
            [
                (marks.kidney_low + 50, y + 4, x + side * 27),
                (marks.iliac, low_y - 8, low_x + side * 42),
                (marks.bladder[0] + 45, marks.bladder[1] + 12, low_x + side * 74),
                leg[0] + (-4, -30, side * 2),
            ]
        )
        canvas.tube(points, np.array([9.0, 20.0, 19.0, 16.0]), M_PSOAS, soft)


def _place_organs(canvas: Canvas, organs: Array) -> None:
    """The mapped organs over whatever was drawn, but not outside of the body's skin."""
    lookup = np.zeros(256, np.uint8)
    for organ, tissue in TISSUE_OF_ORGAN.items():
        lookup[organ] = tissue
    tissues = lookup[organs]
    keep = (tissues > 0) & (canvas.labels != Tissue.AIR)
    np.copyto(canvas.labels, tissues, where=keep)
    # Between the lungs and the ribs lies a pleura's width of muscle, drawn with the cavity's wall.


def _breasts(canvas: Canvas, marks: Landmarks, outline: Outline, rng: np.random.Generator) -> dict[str, Array]:
    """Glandular tissue in the fat of the chest, and nipples."""
    spots = {}
    step = canvas.spacing_mm[0]
    level = 0.5 * marks.dome + 0.5 * marks.apex - 20
    removed = rng.random(2) < 0.06
    for side, gone in zip((-1, 1), removed, strict=True):
        if gone:
            continue
        wall = np.array(outline.wall_point(level, side * 0.62, step, 26.0))
        size = rng.uniform(0.5, 1.2)
        canvas.ellipsoid(tuple(wall), (38 * size, 22 * size, 38 * size), Tissue.BREAST, among(Tissue.FAT))
        nipple = np.array(outline.wall_point(level - 5, side * 0.68, step, 26.0 + 22 * size))
        spots[f"breast {side}"] = wall
        canvas.ellipsoid(tuple(nipple), (6, 6, 6), Tissue.NIPPLE, among(Tissue.FAT, Tissue.SKIN, *MUSCLES))
    return spots
