"""The bones: spine, ribs, sternum, shoulder girdle, pelvis, limbs and skull."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from l2snet.synthesis.drawing import Canvas, by, curve
from l2snet.synthesis.landmarks import Landmarks, Organ
from l2snet.synthesis.limbs import Build
from l2snet.synthesis.outline import Outline
from l2snet.synthesis.tissues import BONES, FATS, MUSCLES, Tissue, among
from l2snet.volume import Array

SOFT = among(*FATS, *MUSCLES)
SIDES = (-1, 1)
CERVICAL, THORACIC, LUMBAR = 7, 12, 5
# Half-axes of the vertebral bodies (lateral, front to back) in mm, at C3, T1, T12 and L5.
BODY_HALF_AXES_MM = ((0, 6, 18, 23), (9.0, 13.0, 20.0, 25.0), (7.5, 10.0, 15.0, 17.5))


@dataclass(frozen=True)
class Vertebra:
    """A vertebral body: centre (z, y, x), half its height and its half-axes, mm; 0 is C1 and 23 is L5."""

    index: int
    centre: tuple[float, float, float]
    half_height: float
    lateral: float
    depth: float


def draw_skeleton(
    canvas: Canvas, organs: Array, marks: Landmarks, outline: Outline, build: Build, rng: np.random.Generator
) -> list[Vertebra]:
    """Paint all bones as marrow, then their outermost layer as cortex; the vertebrae from the neck down."""
    vertebrae = _vertebrae(marks)
    _spine(canvas, vertebrae, marks)
    _ribs(canvas, vertebrae, outline, marks)
    _shoulders(canvas, outline, build, marks)
    _pelvis(canvas, marks)
    _limbs(canvas, outline)
    _harden(canvas, rng)
    _skull(canvas, organs, marks)
    return vertebrae


def _vertebrae(marks: Landmarks) -> list[Vertebra]:
    top, chest, promontory = marks.skull_base - 2, marks.apex + 6, marks.bladder[0] + 86
    neck = np.full(CERVICAL, (top - chest) / CERVICAL)
    shares = np.concatenate([np.linspace(0.85, 1.15, THORACIC), np.full(LUMBAR, 1.4)])
    heights = np.concatenate([neck, shares * (chest - promontory) / shares.sum()])
    edges = top - np.concatenate([[0.0], np.cumsum(heights)])
    found = []
    for index, (upper, lower) in enumerate(pairwise(edges)):
        z = float((upper + lower) / 2)
        y, x = marks.spine(z)
        lateral = float(np.interp(index, BODY_HALF_AXES_MM[0], BODY_HALF_AXES_MM[1]))
        depth = float(np.interp(index, BODY_HALF_AXES_MM[0], BODY_HALF_AXES_MM[2]))
        found.append(Vertebra(index, (z, float(y), float(x)), float(upper - lower) / 2, lateral, depth))
    return found


def _spine(canvas: Canvas, vertebrae: list[Vertebra], marks: Landmarks) -> None:
    for v in vertebrae:
        z, y, x = v.centre
        low = np.array([z - v.half_height, y - v.depth - 4, x - v.lateral - 8])
        high = np.array([z + v.half_height, y + v.depth + 18, x + v.lateral + 8])
        found = canvas.box(low, high)
        if found is None:
            continue
        box, (zz, yy, xx) = found
        here = canvas.labels[box]
        phase = np.abs(zz - z) / v.half_height
        # A waist at the middle; what lies between two end plates is disc.
        wide = 0.88 + 0.12 * phase**2
        inside = ((xx - x) / (v.lateral * wide)) ** 2 + ((yy - y) / (v.depth * wide)) ** 2 < 1
        free = SOFT[here]
        disc = phase > (0.84 if v.index > 18 else 0.88)
        here[inside & ~disc & free] = Tissue.MARROW
        here[inside & disc & free] = Tissue.DISC
        canal_y = y + v.depth + 7
        radius = np.sqrt((xx - x) ** 2 * 0.75 + (yy - canal_y) ** 2)
        here[(radius < 12) & (radius >= 7.5) & (phase < 0.7) & free] = Tissue.MARROW
        here[(radius < 7.5) & ~inside] = Tissue.CEREBROSPINAL
        if v.index < 20:
            here[(radius < 4.6) & ~inside] = Tissue.CORD
        back = canal_y + 10
        length = float(np.interp(v.index, (0, 5, 7, 18, 23), (12, 24, 30, 30, 26)))
        slope = -14.0 if 7 <= v.index < 18 else -5.0
        canvas.tube(np.array([[z, back, x], [z + slope, back + length, x]]), np.array([4.5, 4.0]), Tissue.MARROW, SOFT)
        for side in SIDES:
            out = float(np.interp(v.index, (0, 6, 7, 18, 23), (16, 22, 32, 26, 40)))
            tip = [z + 3, canal_y + (5 if v.index > 6 else -8), x + side * out]
            canvas.tube(np.array([[z + 3, canal_y, x + side * 10], tip]), 4.0, Tissue.MARROW, SOFT)
            facet = (z + v.half_height, canal_y + 5, x + side * 15)
            canvas.ellipsoid(facet, (7, 6, 5), Tissue.MARROW, SOFT)
    _sacrum(canvas, marks)


def _sacrum(canvas: Canvas, marks: Landmarks) -> None:
    top, bottom = marks.bladder[0] + 86, marks.bladder[0] - 15
    levels = np.linspace(top, bottom, 18)
    y, x = marks.spine(levels)
    half = np.interp(levels, (bottom, bottom + 30, top), (8, 28, 50))
    thick = np.interp(levels, (bottom, bottom + 30, top), (4, 6, 12))
    for z, yy, xx, width, depth in zip(levels, y, x, half, thick, strict=True):
        points = np.array([[z, yy + 6, xx - width + depth], [z, yy, xx], [z, yy + 6, xx + width - depth]])
        canvas.tube(points, depth, Tissue.MARROW, SOFT)


def _ribs(canvas: Canvas, vertebrae: list[Vertebra], outline: Outline, marks: Landmarks) -> None:
    step = canvas.spacing_mm[0]
    sternum_top = marks.apex - 26
    for number in range(1, 13):
        v = vertebrae[CERVICAL + number - 1]
        z, y, x = v.centre
        end = float(np.interp(number, (1, 7, 10, 11, 12), (0.42, 0.42, 0.75, 1.5, 2.0)))
        drop = float(np.interp(number, (1, 3, 7, 10, 12), (34, 62, 92, 88, 45)))
        for side in SIDES:
            angles = np.linspace(2.72, end, 26)
            along = (2.72 - angles) / (2.72 - 0.42)
            levels = z + 4 - drop * along**0.85
            points = [[z + 3, y + v.depth + 9, x + side * 22]]
            points += [
                list(outline.wall_point(float(h), side * float(a), step, 5.0))
                for h, a in zip(levels, angles, strict=True)
            ]
            canvas.tube(np.array(points), np.linspace(4.6, 5.2, len(points)), Tissue.MARROW, SOFT)
            if number <= 10:
                at = max(sternum_top - 14 * (number - 1), sternum_top - 118)
                middle = outline.wall_point(float((levels[-1] + at) / 2), side * (end / 2 + 0.12), step, 4.0)
                target = np.array(outline.wall_point(at, side * 0.13, step, 4.0))
                canvas.tube(np.array([points[-1], middle, target]), 4.8, Tissue.CARTILAGE, SOFT)
    for level in np.arange(sternum_top + 6, sternum_top - 135, -3.0):
        centre = np.array(outline.wall_point(float(level), 0.0, step, 5.0))
        half = 19.0 if level > sternum_top - 28 else 12.0
        ends = np.array([centre - (0, 0, half), centre + by(0, 0, half)])
        canvas.tube(ends, 5.5, Tissue.MARROW, SOFT | among(Tissue.CARTILAGE))


def _shoulders(canvas: Canvas, outline: Outline, build: Build, marks: Landmarks) -> None:
    step = canvas.spacing_mm[0]
    for side, arm, up in zip(SIDES, outline.arms, build.arms_up, strict=True):
        joint = arm[0]
        acromion = joint + by(26, 10, -side * 4)
        notch = np.array(outline.wall_point(marks.apex - 18, side * 0.35, step, 2.0))
        bow = 0.5 * (notch + acromion) + (8, -8, 0)
        canvas.tube(curve([notch, bow, acromion]), 5.5, Tissue.MARROW, SOFT)
        glenoid = joint + by(0, 6, -side * 30)
        turn = 1.25 if up else 0.85
        upper = np.array(outline.wall_point(marks.apex - 30, side * (np.pi - 0.7), step, 13.0))
        lower = np.array(outline.wall_point(marks.apex - 150, side * (np.pi - turn), step, 11.0))
        canvas.plate(np.array([glenoid, upper, lower]), 4.5, Tissue.MARROW, SOFT)
        canvas.tube(np.array([upper, lower, glenoid]), 4.0, Tissue.MARROW, SOFT)
        canvas.tube(np.array([0.6 * upper + 0.4 * lower, acromion]), 4.5, Tissue.MARROW, SOFT)
        canvas.ellipsoid(tuple(glenoid), (17, 10, 9), Tissue.MARROW, SOFT)


def _pelvis(canvas: Canvas, marks: Landmarks) -> None:
    z, y, x = marks.hip
    sacrum_y = float(marks.spine(z + 60)[0])
    for side in SIDES:
        hip = np.array([z, y, x + side * 88])
        # The wing: a fan from the roof of the acetabulum to the crest, curved outwards.
        crest = curve(
            [
                (z + 62, sacrum_y + 6, x + side * 42),
                (marks.iliac - 6, sacrum_y - 18, x + side * 82),
                (marks.iliac - 2, y - 4, x + side * 122),
                (marks.iliac - 45, y - 52, x + side * 124),
            ],
            5.0,
        )
        roof = hip + by(28, 4, -side * 2)
        for point in crest:
            hollow = 0.5 * (roof + point) + (0, 6, -side * 7)
            canvas.tube(np.array([roof, hollow, point]), np.array([6.5, 3.6, 5.5]), Tissue.MARROW, SOFT)
        joint = np.array([[z + 62, sacrum_y + 6, x + side * 42], [z + 28, y + 42, x + side * 60], roof])
        canvas.tube(joint, np.array([12.0, 10.0, 12.0]), Tissue.MARROW, SOFT)
        canvas.ellipsoid(tuple(hip), (35, 34, 34), Tissue.MARROW, SOFT)
        symphysis = np.array([marks.bladder_low + 2, y - 48, x + side * 9])
        tuber = hip + by(-62, 36, -side * 28)
        canvas.tube(np.array([hip + by(8, -24, -side * 18), symphysis]), np.array([11.0, 8.0]), Tissue.MARROW, SOFT)
        canvas.tube(np.array([hip + by(-12, 26, -side * 14), tuber]), np.array([13.0, 12.0]), Tissue.MARROW, SOFT)
        canvas.tube(np.array([tuber, symphysis + by(-18, 2, side * 6), symphysis]), 6.0, Tissue.MARROW, SOFT)
    canvas.tube(np.array([[marks.bladder_low + 2, y - 48, x - 4], [marks.bladder_low + 2, y - 48, x + 4]]), 8.0,
                Tissue.CARTILAGE, SOFT)  # fmt: skip


def _limbs(canvas: Canvas, outline: Outline) -> None:
    bone = among(*BONES)
    for side, leg, arm in zip(SIDES, outline.legs, outline.arms, strict=True):
        hip, knee, ankle, toes = leg
        canvas.ellipsoid(tuple(hip), (27, 27, 27), Tissue.CARTILAGE, SOFT | bone)
        canvas.ellipsoid(tuple(hip), (24, 24, 24), Tissue.MARROW, SOFT | bone | among(Tissue.CARTILAGE))
        trochanter = hip + by(-18, 8, side * 52)
        shaft = hip + by(-70, 6, side * 46)
        joint = SOFT | among(Tissue.CARTILAGE)
        canvas.tube(np.array([hip, trochanter, shaft]), np.array([16.0, 17.0, 15.0]), Tissue.MARROW, joint)
        middle = 0.45 * shaft + 0.55 * knee
        canvas.tube(
            np.array([shaft, middle, knee + by(15, 0, 0)]), np.array([14.5, 13.5, 20.0]), Tissue.FATTY_MARROW, SOFT
        )
        for turn in SIDES:
            canvas.ellipsoid(tuple(knee + by(8, 6, turn * 20)), (20, 26, 19), Tissue.FATTY_MARROW, SOFT)
            canvas.ellipsoid(tuple(knee + by(-24, 4, turn * 16)), (14, 22, 20), Tissue.FATTY_MARROW, SOFT)
        canvas.ellipsoid(tuple(knee + by(12, -40, 0)), (20, 8, 19), Tissue.FATTY_MARROW, SOFT)
        canvas.tube(np.array([knee - (30, 0, 0), ankle]), np.array([18.0, 12.0]), Tissue.FATTY_MARROW, SOFT)
        canvas.tube(
            np.array([knee + by(-45, 14, side * 24), ankle + by(0, 8, side * 18)]), 6.0, Tissue.FATTY_MARROW, SOFT
        )
        canvas.tube(np.array([ankle + by(-40, 25, 0), ankle + by(-20, -20, 0), toes]), np.array([20.0, 18.0, 8.0]),
                    Tissue.FATTY_MARROW, SOFT)  # fmt: skip
        shoulder, elbow, wrist, tips = arm
        head = shoulder - (0, 2, side * 6)
        canvas.ellipsoid(tuple(head), (23, 23, 22), Tissue.MARROW, SOFT)
        canvas.tube(np.array([head, 0.8 * head + 0.2 * elbow]), np.array([19.0, 12.0]), Tissue.MARROW, SOFT)
        canvas.tube(np.array([0.8 * head + 0.2 * elbow, elbow]), np.array([11.5, 12.0]), Tissue.FATTY_MARROW, SOFT)
        canvas.ellipsoid(tuple(elbow), (16, 13, 24), Tissue.FATTY_MARROW, SOFT)
        for turn in SIDES:
            shift = np.array([0, turn * 4, turn * 11])
            canvas.tube(np.array([elbow + shift, wrist + 0.9 * shift]), 7.0, Tissue.FATTY_MARROW, SOFT)
        for finger in (-18, -6, 6, 18):
            canvas.tube(np.array([wrist, tips + by(0, 0, finger)]), 4.5, Tissue.FATTY_MARROW, SOFT)


def _harden(canvas: Canvas, rng: np.random.Generator) -> None:
    """Turn the outermost voxel of every bone into cortex; the shafts of long bones are thicker."""
    labels = canvas.labels
    bone = among(*BONES)[labels]
    boxes = ndimage.find_objects(bone.view(np.uint8))
    if not boxes:
        return
    box = boxes[0]
    here, inside = labels[box], bone[box]
    core = inside.copy()
    for axis in (1, 2):
        core &= _shifted(inside, axis, 1) & _shifted(inside, axis, -1)
    shell = inside & ~core
    shaft = here == Tissue.FATTY_MARROW
    deep = core.copy()
    for axis in (1, 2):
        deep &= _shifted(core, axis, 1) & _shifted(core, axis, -1)
    shell |= shaft & ~deep
    # A thin cortex of vertebral bodies and the pelvis is broken at this resolution.
    thin = (here == Tissue.MARROW) & shell & (rng.random(shell.shape, np.float32) < 0.22)
    here[shell & ~thin] = Tissue.CORTEX


def _shifted(mask: Array, axis: int, by: int) -> Array:
    out = np.zeros_like(mask)
    to: list[slice] = [slice(None)] * 3
    source: list[slice] = [slice(None)] * 3
    to[axis], source[axis] = (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
    out[tuple(to)] = mask[tuple(source)]
    return out


def _skull(canvas: Canvas, organs: Array, marks: Landmarks) -> None:
    found = ndimage.find_objects((organs == Organ.BRAIN).view(np.uint8))
    if found and found[0] is not None:
        margin = [int(16 / s) + 1 for s in canvas.spacing_mm]
        box = tuple(
            slice(max(0, s.start - k), min(n, s.stop + k))
            for s, k, n in zip(found[0], margin, organs.shape, strict=True)
        )
        here = canvas.labels[box]
        away = ndimage.distance_transform_edt(organs[box] != Organ.BRAIN, sampling=canvas.spacing_mm)
        levels = (np.arange(box[0].start, box[0].stop) * canvas.spacing_mm[0])[:, None, None]
        vault = levels > marks.skull_base - 6
        here[(away < 2.0) & (away > 0)] = Tissue.CEREBROSPINAL
        here[(away >= 2.0) & (away < 8.0) & vault & (here != Tissue.AIR)] = Tissue.CORTEX
        here[(away >= 4.2) & (away < 6.0) & vault & (here == Tissue.CORTEX)] = Tissue.FATTY_MARROW
    y, x = marks.brain[1], marks.brain[2]
    base, chin = marks.skull_base, marks.chin
    for side in SIDES:
        ramus = np.array([(base - 14, y - 18, x + side * 47), (chin + 26, y - 26, x + side * 44)])
        body = curve([ramus[1], (chin + 14, y - 56, x + side * 34), (chin + 11, y - 86, x + side * 4)])
        canvas.tube(ramus, np.array([6.0, 7.0]), Tissue.CORTEX, SOFT)
        canvas.tube(body, 7.0, Tissue.CORTEX, SOFT)
        canvas.tube(body, 3.2, Tissue.FATTY_MARROW, among(Tissue.CORTEX))
        zygoma = curve(
            [(base - 8, y - 22, x + side * 62), (base - 8, y - 60, x + side * 58), (base - 14, y - 82, x + side * 36)]
        )
        canvas.tube(zygoma, 4.0, Tissue.CORTEX, SOFT)
        canvas.ellipsoid((base - 6, y + 6, x + side * 50), (16, 17, 13), Tissue.CORTEX, SOFT)
        canvas.tube(np.array([(chin - 8, y - 48, x + side * 20), (chin - 8, y - 60, x)]), 2.5, Tissue.CORTEX, SOFT)
    canvas.ellipsoid((base - 2, y - 22, x), (5, 26, 34), Tissue.CORTEX, SOFT)
    arch = [(np.sin(a), -np.cos(a)) for a in np.linspace(-1.25, 1.25, 20)]
    rise = max(0.42 * (base - chin), 26.0)
    for level, scale in ((chin + rise, 1.0), (chin + rise - 10, 0.94)):
        teeth = np.array([(level, y - 54 + 33 * scale * v, x + 24 * scale * u) for u, v in arch])
        canvas.tube(teeth, 4.5, Tissue.TOOTH, SOFT)
    palate = curve([(chin + rise + 8, y - 46, x), (chin + rise + 9, y - 80, x)])
    canvas.tube(palate, 3.5, Tissue.CORTEX, SOFT)
