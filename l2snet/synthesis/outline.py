"""The body's outline and its layers, from the organs outwards: cavity, muscle, fat and skin; arms, legs and head.

The trunk and neck are star-shaped around a curve in front of the spine: a (z, angle) map of radii for each layer,
whose innermost is the hull of the organs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from l2snet.synthesis.drawing import Spacing, gaussian, resize, smooth_field
from l2snet.synthesis.landmarks import Landmarks, Organ
from l2snet.synthesis.limbs import Build, add_arms, add_head, add_legs
from l2snet.volume import Array

ANGLES = 72
MARGIN = 2
# Only these lie inside the hull of the trunk.
TRUNK_ORGANS = (Organ.SPLEEN, Organ.KIDNEYS, Organ.LIVER, Organ.LUNGS, Organ.HEART, Organ.STOMACH)
# Half the width of lungs in the adult for which the station table below is written, mm.
TYPICAL_LUNG_HALF_WIDTH_MM = 132.0


@dataclass(frozen=True)
class Outline:
    """Depth fields (z, y, x) float32 in mm, positive inside, and the limbs' curves.

    Attributes
    ----------
    body, muscle, cavity : depth below the skin, inside the muscle's surface, inside the cavity's wall.
    centre_y, centre_x : (z,) the curve around which the trunk is star-shaped, mm.
    radii : (z, angle) the cavity's radius, mm; angle 0 is anterior and a quarter turn the patient's left.
    arms : per side (right, left), (4, 3) shoulder, elbow, wrist and finger tips.
    legs : per side, (4, 3) hip, knee, ankle and toes.
    table_y : where the body rests on the table, mm.
    start : the first voxel of the box around the body, in the organ map; all fields are cut to that box, all positions
        are relative to it.
    """

    body: Array
    muscle: Array
    cavity: Array
    centre_y: Array
    centre_x: Array
    radii: Array
    arms: tuple[Array, Array]
    legs: tuple[Array, Array]
    table_y: float
    start: tuple[int, int, int]

    def wall_point(self, z_mm: float, angle: float, step_mm: float, beyond_mm: float = 0.0) -> tuple[float, ...]:
        """The point at an angle on the cavity's wall (or `beyond_mm` outside of it) at a level; slices of `step_mm`."""
        row = int(np.clip(z_mm / step_mm, 0, len(self.centre_y) - 1))
        place = angle / (2 * np.pi) * ANGLES
        low = int(np.floor(place))
        part = place - low
        radius = (1 - part) * self.radii[row, low % ANGLES] + part * self.radii[row, (low + 1) % ANGLES] + beyond_mm
        return (
            z_mm,
            float(self.centre_y[row] - radius * np.cos(angle)),
            float(self.centre_x[row] + radius * np.sin(angle)),
        )


def draw_outline(
    organs: Array, spacing_mm: Spacing, marks: Landmarks, build: Build, rng: np.random.Generator
) -> Outline:
    """Depth fields on the organs' grid; worked out on every second voxel, as they are smooth."""
    coarse = organs[::2, ::2, ::2]
    step: Spacing = (2 * spacing_mm[0], 2 * spacing_mm[1], 2 * spacing_mm[2])
    z = np.arange(len(coarse)) * step[0]
    stations = _stations(marks, build, coarse, step)
    centre_y, centre_x, inner, muscle, fat = _layers(z, stations, marks, build, rng)
    hull = _hull(coarse, step, centre_y, centre_x)
    # Where organs fix the hull it is the wall; elsewhere the table's ellipse is.
    inner = ndimage.gaussian_filter(np.maximum(inner, hull + 4), (1.5, 1.2), mode=("nearest", "wrap"))
    ripple = ndimage.gaussian_filter(rng.standard_normal(inner.shape), (6, 4), mode=("nearest", "wrap"))
    fat = fat * (1 + 2.5 * ripple)
    # The muscles beside the spine fill the dent between the lungs, and round off the body.
    behind = np.abs(np.arange(ANGLES) - ANGLES // 2) < ANGLES // 6
    outer = np.where(behind, ndimage.grey_closing(inner + muscle, (1, 13), mode="wrap"), inner + muscle)
    outer = ndimage.gaussian_filter(outer, (1.0, 1.0), mode=("nearest", "wrap"))
    cavity, wall, body = _evaluate(coarse.shape, step, centre_y, centre_x, (inner, outer, outer + fat))
    trunk = ((z > marks.crotch) & (z < marks.skull_base + 25))[:, None, None]
    for field in (cavity, wall, body):
        np.copyto(field, -30.0, where=~trunk)
    add_head(body, wall, coarse, step, marks, build)
    arms = add_arms(body, wall, step, marks, build, rng)
    legs = add_legs(body, wall, step, marks, build, rng)
    # No limb is a cylinder: its surfaces swell and sink.
    bumps = np.float32(rng.uniform(1.5, 4.0)) * smooth_field(rng, coarse.shape, step, 70.0)
    body = gaussian(body + bumps, (5.0, 4.0, 4.0), step)
    wall = gaussian(wall + bumps, (4.0, 3.0, 3.0), step)
    wall += np.float32(2.0) * smooth_field(rng, coarse.shape, step, 35.0)
    table_y = _flatten_back(body, step, marks, rng)
    box = _body_box(body)
    start = (2 * box[0].start, 2 * box[1].start, 2 * box[2].start)
    full = tuple(min(2 * (s.stop - s.start), n - 2 * s.start) for s, n in zip(box, organs.shape, strict=True))
    shift = np.array(start) * spacing_mm
    levels = (np.arange(full[0]) + start[0]) * spacing_mm[0]
    rows = np.clip(levels / step[0], 0, len(inner) - 1)
    return Outline(
        body=resize(body[box], step, full, spacing_mm),
        muscle=resize(wall[box], step, full, spacing_mm),
        cavity=resize(cavity[box], step, full, spacing_mm),
        centre_y=np.interp(levels, z, centre_y) - shift[1],
        centre_x=np.interp(levels, z, centre_x) - shift[2],
        radii=np.stack([np.interp(rows, np.arange(len(inner)), column) for column in inner.T], axis=1),
        arms=(arms[0] - shift, arms[1] - shift),
        legs=(legs[0] - shift, legs[1] - shift),
        table_y=table_y - float(shift[1]),
        start=start,
    )


def _body_box(depth: Array) -> tuple[slice, ...]:
    """The box of what lies inside the skin, with a margin of a few voxels."""
    seen = depth > 0
    ends = [np.flatnonzero(seen.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(
        slice(max(0, int(e[0]) - MARGIN), min(n, int(e[-1]) + 1 + MARGIN))
        for e, n in zip(ends, depth.shape, strict=True)
    )


def _stations(marks: Landmarks, build: Build, organs: Array, step: Spacing) -> Array:
    """The layers at levels from the crotch to the skull's base: rows of z, then eleven lengths in mm.

    Columns: z, distance of the centre in front of the spine; the cavity's half-axes lateral, front, back; muscle
    front, lateral, back; fat front, lateral, back.
    """
    columns = np.flatnonzero((organs == Organ.LUNGS).any(axis=(0, 1))) * step[2]
    s = float(np.clip((columns.max() - columns.min()) / 2 / TYPICAL_LUNG_HALF_WIDTH_MM, 0.75, 1.25)) * build.size
    f, b = build.fat_mm, build.belly_mm
    # Bones do not shrink with the muscles around them.
    m = 0.45 + 0.55 * build.muscle
    lungs = marks.lung_base + 0.55 * (marks.apex - marks.lung_base)
    middle = 0.5 * (marks.kidney_low + marks.dome)
    # fmt: off
    rows = [
        (marks.crotch - 20,      65,  50 * s, 45 * s,     52 * s, 35 * m, 95 * m, 66 * m, 0.8 * f, 1.0 * f, 1.2 * f),
        (marks.hip[0],           65,  72 * s, 62 * s,     72 * s, 15 * m, 92 * m, 46 * m, 0.9 * f, 1.1 * f, 1.2 * f),
        (marks.bladder[0] + 55,  60, 104 * s, 76 * s + b / 2, 60 * s, 12 * m, 52 * m, 58 * m, f, f, 1.2 * f),
        (marks.iliac,            55, 118 * s + b / 3, 82 * s + b, 44 * s, 11 * m, 24 * m, 70 * m, 1.1 * f, 0.9 * f, f),
        (marks.kidney_low + 8,   55, 122 * s + b / 3, 84 * s + b, 48 * s, 11 * m, 17 * m, 64 * m, f, 0.8 * f, 0.7 * f),
        (middle,                 52, 112 * s, 76 * s + b / 2, 55 * s, 12 * m, 15 * m, 52 * m, 0.8 * f, .7 * f, .6 * f),
        (marks.dome,             48, 106 * s, 74 * s,     66 * s, 13 * m, 19 * m, 36 * m, 0.6 * f, 0.7 * f, 0.6 * f),
        (lungs,                  45, 100 * s, 70 * s,     64 * s, 20 * m, 32 * m, 38 * m, 0.6 * f, 0.7 * f, 0.6 * f),
        (marks.apex - 42,        40,  80 * s, 52 * s,     52 * s, 25 * m, 64 * m, 46 * m, 0.5 * f, 0.5 * f, 0.5 * f),
        (marks.apex + 12,        24,  38 * s, 30 * s,     34 * s, 13 * m, 58 * m, 38 * m, 0.35 * f, 0.4 * f, 0.5 * f),
        (marks.apex + 45,        20,  27 * s, 32 * s,     26 * s,  8 * m, 30 * m, 33 * m, 0.3 * f, 0.3 * f, 0.4 * f),
        (marks.chin,             20,  27 * s, 34 * s,     26 * s,  8 * m, 30 * m, 31 * m, 0.3 * f, 0.3 * f, 0.3 * f),
        (marks.skull_base,       22,  30 * s, 36 * s,     26 * s,  8 * m, 28 * m, 26 * m, 0.2 * f, 0.2 * f, 0.2 * f),
    ]
    # fmt: on
    kept = [rows[0]]
    for row in rows[1:]:
        if row[0] > kept[-1][0] + 6:
            kept.append(row)
    return np.asarray(kept, float)


def _layers(
    z: Array, stations: Array, marks: Landmarks, build: Build, rng: np.random.Generator
) -> tuple[Array, Array, Array, Array, Array]:
    """The centre's y and x (z,), and the cavity's radius, muscle's and fat's thickness (z, angle), in mm."""
    values = PchipInterpolator(stations[:, 0], stations[:, 1:])(np.clip(z, stations[0, 0], stations[-1, 0]))
    spine_y, spine_x = marks.spine(z)
    angle = np.arange(ANGLES) * 2 * np.pi / ANGLES
    cos, sin = np.cos(angle), np.sin(angle)
    front, lateral, back = np.maximum(cos, 0) ** 2, sin**2, np.maximum(-cos, 0) ** 2

    def around(first: int) -> Array:
        mixed: Array = values[:, first : first + 3] @ np.stack([front, lateral, back])
        return mixed

    half_depth = np.where(cos > 0, values[:, 2:3], values[:, 3:4])
    power = rng.uniform(2.1, 2.5)
    inner = ((np.abs(sin) / values[:, 1:2]) ** power + (np.abs(cos) / half_depth) ** power) ** (-1 / power)
    # Fat between 1.5 mm and twice the belly's, sagging to the sides in the obese.
    fat = np.maximum(around(7) * rng.uniform(0.85, 1.15), 1.5) + 2.0 + 0.15 * build.fat_mm * lateral
    return spine_y - values[:, 0], spine_x, inner, around(4), fat


def _hull(organs: Array, step: Spacing, centre_y: Array, centre_x: Array) -> Array:
    """(z, angle) radius of the trunk organs, closed over neighbouring angles and levels; 0 where there are none."""
    chosen = np.zeros(256, bool)
    chosen[list(TRUNK_ORGANS)] = True
    z, y, x = np.nonzero(chosen[organs])
    dy, dx = y * step[1] - centre_y[z], x * step[2] - centre_x[z]
    place = np.rint(np.arctan2(dx, -dy) / (2 * np.pi) * ANGLES).astype(int) % ANGLES
    hull = np.zeros((len(organs), ANGLES))
    np.maximum.at(hull, (z, place), np.hypot(dy, dx))
    closed = ndimage.maximum_filter(hull, (5, 7), mode=("nearest", "wrap"))
    smooth: Array = ndimage.gaussian_filter(closed, (2.0, 1.5), mode=("nearest", "wrap"))
    return smooth


def _evaluate(
    shape: tuple[int, ...], step: Spacing, centre_y: Array, centre_x: Array, maps: tuple[Array, ...]
) -> list[Array]:
    """Depth inside each (z, angle) map of radii, (z, y, x) float32."""
    y = (np.arange(shape[1]) * step[1]).astype(np.float32)[None, :, None] - centre_y.astype(np.float32)[:, None, None]
    x = (np.arange(shape[2]) * step[2]).astype(np.float32)[None, None, :] - centre_x.astype(np.float32)[:, None, None]
    radius = np.sqrt(y * y + x * x)
    place = np.arctan2(x, -y) * np.float32(ANGLES / (2 * np.pi)) % ANGLES
    low = place.astype(np.int32)
    part = place - low
    low %= ANGLES
    rows = (np.arange(shape[0], dtype=np.int32) * (ANGLES + 1))[:, None, None] + low
    fields = []
    for layer in maps:
        wrapped = np.concatenate([layer, layer[:, :1]], axis=1).astype(np.float32).ravel()
        fields.append(wrapped[rows] * (1 - part) + wrapped[rows + 1] * part - radius)
    return fields


def _flatten_back(body: Array, step: Spacing, marks: Landmarks, rng: np.random.Generator) -> float:
    """Press the back flat where it rests on the table, in place; where that is, in mm."""
    low, high = int(max(marks.crotch, 0) / step[0]), int(marks.apex / step[0])
    trunk = body[low:high] > 0
    rows = np.flatnonzero(trunk.any(axis=(0, 2)))
    table_y = float((rows.max() + 1) * step[1] - rng.uniform(10, 28))
    y = (np.arange(body.shape[1]) * step[1]).astype(np.float32)[None, :, None]
    np.minimum(body, table_y - y, out=body)
    return table_y
