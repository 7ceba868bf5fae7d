"""What kind of body it is, and the parts of its outline that no organ fixes: head, arms and legs.

Each part raises the depth fields of the skin (`body`) and of the muscles' surface (`wall`), in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2snet.synthesis.drawing import Spacing, by, raise_ellipsoid, raise_tube
from l2snet.synthesis.landmarks import Landmarks, Organ
from l2snet.volume import Array


@dataclass(frozen=True)
class Build:
    """What kind of body it is; lengths in mm.

    Attributes
    ----------
    fat_mm : thickness of the fat under the skin at the belly.
    belly_mm : how far fat between the organs pushes the belly out.
    muscle : thickness of muscles, over the usual.
    size : lengths that no organ fixes, over the usual.
    arms_up : per side (right, left), whether the arm is above the head.
    """

    fat_mm: float
    belly_mm: float
    muscle: float
    size: float
    arms_up: tuple[bool, bool]


def draw_build(rng: np.random.Generator) -> Build:
    """Thin to obese, arms up or down."""
    fat = float(rng.choice([rng.uniform(4, 12), rng.uniform(10, 28), rng.uniform(22, 50)], p=[0.2, 0.5, 0.3]))
    arms = rng.choice(3, p=[0.55, 0.38, 0.07])
    one = bool(rng.random() < 0.5)
    return Build(
        fat_mm=fat,
        belly_mm=float(np.clip(rng.normal(0.8 * fat - 4, 12), -18, 55)),
        muscle=float(rng.uniform(0.75, 1.2)),
        size=float(rng.uniform(0.92, 1.08)),
        arms_up=((True, True), (False, False), (one, not one))[int(arms)],
    )


def add_head(body: Array, wall: Array, organs: Array, step: Spacing, marks: Landmarks, build: Build) -> None:
    """The scalp around the brain, and a face in front of and below it."""
    brain = organs == Organ.BRAIN
    box = ndimage.find_objects(brain.view(np.uint8))
    if box and box[0] is not None:
        margin = [int(30 / s) + 1 for s in step]
        near = tuple(
            slice(max(0, s.start - k), min(n, s.stop + k)) for s, k, n in zip(box[0], margin, brain.shape, strict=True)
        )
        away = ndimage.distance_transform_edt(~brain[near], sampling=step).astype(np.float32)
        # The lowest part of the brain is its stem, which lies deep inside the head.
        body[near] = np.maximum(body[near], 14 + 0.06 * build.fat_mm - away)
        wall[near] = np.maximum(wall[near], 11 - away)
    _, y, x = marks.brain
    base = marks.skull_base
    front = y - 38
    drop = max(base - marks.chin, 45.0)
    for field, shrink in ((body, 0.0), (wall, 4.0 + 0.15 * build.fat_mm)):
        raise_ellipsoid(field, step, (base + 5, front, x), (48 - shrink, 62 - shrink, 70 - shrink))
        raise_ellipsoid(
            field, step, (base - 0.35 * drop, front - 4, x), (0.6 * drop - shrink, 54 - shrink, 62 - shrink)
        )
        chin = np.array([(marks.chin + 14, front - 34, x), (base - 0.4 * drop, front + 5, x)])
        raise_tube(field, step, chin, np.array([24.0, 52.0]) - shrink)
        raise_tube(field, step, np.array([(base + 8, front - 58, x), (base - 12, front - 72, x)]), 11.0 - shrink / 2)


def add_arms(
    body: Array, wall: Array, step: Spacing, marks: Landmarks, build: Build, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Arms with the shoulders that carry them, above the head or beside the body; their joints, right then left."""
    spine_y, spine_x = (float(v) for v in marks.spine(marks.shoulder))
    s, m, fat = build.size, build.muscle, build.fat_mm
    bend = rng.uniform(0, 1, 6)
    arms = []
    for side, up in zip((-1, 1), build.arms_up, strict=True):
        joint = np.array(
            [marks.shoulder + (25 if up else 0), spine_y - 14 - (8 if up else 0), spine_x + side * 165 * s]
        )
        if up:
            elbow = joint + np.array([170 + 80 * bend[0], -10 - 70 * bend[1], side * (40 + 80 * bend[2])]) * s
            wrist = elbow + np.array([120 + 80 * bend[3], 30 * bend[4] + 10, -side * (60 + 110 * bend[5])]) * s
            tips = wrist + np.array([120, 10, -side * 60]) * s
        else:
            out = (45 + 20 * bend[2] + 0.7 * fat) * s
            elbow = joint + np.array([-290, 5 + 25 * bend[0], side * out]) * s
            wrist = elbow + np.array([-235, -10 - 90 * bend[1], -side * (10 + 85 * bend[3] - 0.5 * fat)]) * s
            tips = wrist + np.array([-150, -10, -side * 30 * bend[4]]) * s
        arm = np.array([joint, elbow, wrist, tips])
        arms.append(arm)
        shape = np.array([44, 36, 25, 16]) * s * (0.5 + 0.5 * m)
        for field, extra in ((wall, 0.0), (body, 4 + 0.3 * fat)):
            raise_tube(field, step, arm, shape + extra * np.array([1, 0.8, 0.5, 0.3]))
            neck = np.array([[marks.apex + 28, spine_y - 4, spine_x + side * 48], joint + by(2, 0, -side * 8)])
            raise_tube(field, step, neck, np.array([34.0, 44.0]) * (0.6 + 0.4 * m) + extra)
            chest = np.array(
                [[marks.apex - 80, spine_y - 62, spine_x + side * 105 * s], joint + by(-8, -6, -side * 12)]
            )
            raise_tube(field, step, chest, np.array([38.0, 40.0]) * (0.6 + 0.4 * m) + extra)
            back = np.array([[marks.apex - 120, spine_y + 6, spine_x + side * 112 * s], joint + by(-8, 6, -side * 12)])
            raise_tube(field, step, back, np.array([36.0, 42.0]) * (0.6 + 0.4 * m) + extra)
    return arms[0], arms[1]


def add_legs(
    body: Array, wall: Array, step: Spacing, marks: Landmarks, build: Build, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Legs and buttocks; their joints, right then left."""
    z, y, x = marks.hip
    s, m, fat = build.size, 0.5 + 0.5 * build.muscle, build.fat_mm
    apart = rng.uniform(-5, 25, 2)
    legs = []
    for side, wide in zip((-1, 1), apart, strict=True):
        hip = np.array([z, y, x + side * 88 * s])
        knee = hip + np.array([-430, 6, side * wide]) * s
        ankle = knee + np.array([-400, 25, side * wide * 0.6]) * s
        toes = ankle + np.array([-45, -150, side * 25]) * s
        legs.append(np.array([hip, knee, ankle, toes]))
        calf = knee + 0.3 * (ankle - knee) + np.array([0, 12, 0])
        thick = hip + 0.3 * (knee - hip)
        line = np.array([hip, thick, knee, calf, ankle, toes])
        shape = np.array([74, 76, 50, 50, 32, 26]) * s * m
        buttock = np.array([[marks.crotch + 18, y + 38, x + side * 62 * s], [z + 40, y + 34, x + side * 78 * s]])
        for field, extra in ((wall, 0.0), (body, 3 + 0.55 * fat)):
            raise_tube(field, step, line, shape + extra * np.array([1, 1, 0.6, 0.5, 0.3, 0.2]))
            raise_tube(field, step, buttock, np.array([52.0, 46.0]) * s * m + 1.6 * extra)
    return legs[0], legs[1]
