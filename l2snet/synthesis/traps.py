"""Foci that are hot and not tumour: brown fat, joints, inflammation, excretion, the injection site.

Each is painted onto the SUV (and where it has one, the density) of the normal body, in place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from l2snet.synthesis.anatomy import Anatomy
from l2snet.synthesis.drawing import Point, box_of, by, curve, ellipsoid_level, raise_tube, smooth_field
from l2snet.synthesis.physiology import log_uniform
from l2snet.synthesis.tissues import FATS, GASES, Tissue, among
from l2snet.volume import Array

SIDES = (-1, 1)
SOLID = ~among(*GASES)
NO_LUNG = ~among(*GASES, Tissue.LUNG)
Trap = Callable[[Anatomy, Array, Array, np.random.Generator], None]


def paint_traps(anatomy: Anatomy, suv: Array, hu: Array, rng: np.random.Generator) -> list[str]:
    """Paint each kind of trap with its own chance; the names of those that were painted."""
    painted = []
    for name, (chance, trap) in TRAPS.items():
        if rng.random() < chance:
            trap(anatomy, suv, hu, rng)
            painted.append(name)
    return painted


def glow(anatomy: Anatomy, suv: Array, centre_mm: Point, semi_mm: Point, value: float, over: Array = NO_LUNG) -> None:
    """Raise an ellipsoid with soft edges to at most `value`, on the tissues in `over`."""
    reach = 1.6 * np.asarray(semi_mm)
    found = box_of(suv.shape, anatomy.spacing_mm, np.subtract(centre_mm, reach), np.add(centre_mm, reach))
    if found is None:
        return
    level = ellipsoid_level(found[1], centre_mm, semi_mm)
    here = suv[found[0]]
    np.maximum(here, value * np.exp(-0.9 * level**2), out=here, where=over[anatomy.tissues[found[0]]])


def streak(
    anatomy: Anatomy, suv: Array, points_mm: Array, radius_mm: float, value: float, over: Array = NO_LUNG
) -> None:
    """Raise a tube to `value`, on the tissues in `over`."""
    low, high = points_mm.min(axis=0) - 2 * radius_mm - 8, points_mm.max(axis=0) + 2 * radius_mm + 8
    found = box_of(suv.shape, anatomy.spacing_mm, low, high)
    if found is None:
        return
    box = found[0]
    depth = np.full(suv[box].shape, -99.0, np.float32)
    origin = np.array([s.start * step for s, step in zip(box, anatomy.spacing_mm, strict=True)])
    raise_tube(depth, anatomy.spacing_mm, points_mm - origin, radius_mm)
    here = suv[box]
    np.maximum(here, value, out=here, where=(depth > 0) & over[anatomy.tissues[box]])


def _brown_fat(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """Neck, above the clavicles, armpits, beside the spine: in fat, on both sides, patchy."""
    value = log_uniform(rng, 2.0, 18.0)
    fat, marks = among(*FATS), anatomy.marks
    patches = rng.uniform(0.5, 1.0)
    for side in SIDES:
        for line in (f"axilla {side}", f"carotid {side}"):
            points = anatomy.lines[line][::2]
            for point in points[rng.random(len(points)) < patches]:
                spot = point + rng.normal(0, 8, 3) + (6, 8, side * 6)
                glow(anatomy, suv, spot, rng.uniform(7, 22, 3), value * rng.uniform(0.4, 1.0), fat)
        if rng.random() < 0.6:
            for vertebra in anatomy.vertebrae[8:20]:
                z, y, x = vertebra.centre
                spot = (z + 6, y + 8, x + side * (vertebra.lateral + 7))
                glow(anatomy, suv, spot, (6, 6, 6), value * rng.uniform(0.2, 0.8), NO_LUNG)
    if rng.random() < 0.3:
        y, x = (float(v) for v in marks.spine(marks.kidney_low + 80))
        for side in SIDES:
            glow(anatomy, suv, (marks.kidney_low + 85, y, x + side * 45), (25, 16, 16), 0.6 * value, fat)


def _joints(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """Rings and patches around shoulders, hips, sternoclavicular joints and knees."""
    for arm, leg, side in zip(anatomy.outline.arms, anatomy.outline.legs, SIDES, strict=True):
        for joint, radius in ((arm[0] - (0, 2, side * 6), 26), (leg[0], 29), (leg[1], 34)):
            if rng.random() < 0.45:
                value = log_uniform(rng, 1.2, 5.0)
                for _ in range(int(rng.integers(3, 14))):
                    away = rng.normal(0, 1, 3)
                    spot = joint + radius * away / np.linalg.norm(away)
                    glow(anatomy, suv, spot, rng.uniform(4, 11, 3), value * rng.uniform(0.5, 1.0))
    marks = anatomy.marks
    if rng.random() < 0.3:
        for side in SIDES:
            spot = anatomy.outline.wall_point(marks.apex - 22, side * 0.3, anatomy.spacing_mm[0], 3.0)
            glow(anatomy, suv, spot, (8, 7, 7), rng.uniform(1.5, 5))


def _facets(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """Degenerate facet joints and end plates."""
    for index in rng.choice(len(anatomy.vertebrae), int(rng.integers(1, 6)), replace=False):
        vertebra = anatomy.vertebrae[index]
        z, y, x = vertebra.centre
        if rng.random() < 0.6:
            spot = (z + vertebra.half_height, y + vertebra.depth + 12, x + float(rng.choice(SIDES)) * 15)
            glow(anatomy, suv, spot, (7, 6, 6), log_uniform(rng, 2.0, 8.0))
        else:
            flat = (4, vertebra.depth, vertebra.lateral)
            glow(anatomy, suv, (z + vertebra.half_height, y, x), flat, log_uniform(rng, 1.5, 5.0))


def _fractures(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """A row of rib fractures on one side, or a broken vertebra."""
    marks, step = anatomy.marks, anatomy.spacing_mm[0]
    side, angle = float(rng.choice(SIDES)), rng.uniform(0.7, 2.4)
    low, high = sorted((marks.dome - 40, marks.apex - 70))
    top = rng.uniform(low, high)
    for k in range(int(rng.integers(1, 6))):
        spot = anatomy.outline.wall_point(top - 24 * k, side * (angle + rng.normal(0, 0.08)), step, 5.0)
        glow(anatomy, suv, spot, rng.uniform(5, 10, 3), log_uniform(rng, 1.5, 6.0))


def _scar(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """A line under the skin of the belly, chest or back."""
    marks, step = anatomy.marks, anatomy.spacing_mm[0]
    angle = float(rng.choice([0.0, rng.uniform(-1.5, 1.5), rng.uniform(2.6, 3.6)]))
    low, high = sorted((marks.bladder_top, marks.apex - 60))
    start = rng.uniform(low, high)
    levels = np.linspace(start, start + rng.uniform(30, 160), 12)
    beyond = rng.uniform(6, 16 + 0.7 * anatomy.build.fat_mm)
    line = [anatomy.outline.wall_point(float(z), angle + 0.02 * rng.normal(), step, beyond) for z in levels]
    streak(anatomy, suv, np.array(line), rng.uniform(2.5, 6), log_uniform(rng, 1.2, 5.0), SOLID)


def _port(anatomy: Anatomy, suv: Array, hu: Array, rng: np.random.Generator) -> None:
    """A port or pacemaker under the clavicle, metal with inflamed edges."""
    marks, step = anatomy.marks, anatomy.spacing_mm[0]
    side = float(rng.choice(SIDES))
    spot = anatomy.outline.wall_point(marks.apex - 50, side * 0.6, step, 30.0)
    size = (16, 6, 15)
    found = box_of(suv.shape, anatomy.spacing_mm, np.subtract(spot, 22), np.add(spot, 22))
    if found is not None:
        inside = ellipsoid_level(found[1], spot, size) < 1
        solid = SOLID[anatomy.tissues[found[0]]]
        hu[found[0]][inside & solid] = 2800
        suv[found[0]][inside & solid] = 0.3
    if rng.random() < 0.5:
        glow(anatomy, suv, np.add(spot, (0, 10, 0)), (14, 6, 14), log_uniform(rng, 1.2, 4.5))


def _sarcoid(anatomy: Anatomy, suv: Array, hu: Array, rng: np.random.Generator) -> None:
    """Both hila and the mediastinum alike: small nodes of the same uptake."""
    value = log_uniform(rng, 2.0, 7.0)
    for side in SIDES:
        for _ in range(int(rng.integers(1, 5))):
            spot = anatomy.lines[f"hilum {side}"][1] + rng.normal(0, 9, 3)
            _node(anatomy, suv, hu, spot, rng.uniform(3, 8), value * rng.uniform(0.7, 1.1), SOLID)
    trachea = anatomy.lines["trachea"]
    for _ in range(int(rng.integers(0, 4))):
        spot = trachea[rng.integers(len(trachea) // 2, len(trachea))] + (0, -4, rng.choice(SIDES) * 15)
        _node(anatomy, suv, hu, spot, rng.uniform(3, 7), value * rng.uniform(0.5, 1.0), NO_LUNG)


def _reactive_nodes(anatomy: Anatomy, suv: Array, hu: Array, rng: np.random.Generator) -> None:
    """Small and faint nodes in both groins, armpits or the neck."""
    places = {
        "groin": [leg[0] + (-22, -48, -side * 16) for leg, side in zip(anatomy.outline.legs, SIDES, strict=True)],
        "armpit": [anatomy.lines[f"axilla {side}"][-1] + (-22, 6, 0) for side in SIDES],
        "neck": [anatomy.lines[f"carotid {side}"][-1] + (0, 6, side * 8) for side in SIDES],
    }
    for spots in places.values():
        if rng.random() < 0.45:
            value = log_uniform(rng, 0.9, 3.5)
            for spot in spots:
                for _ in range(int(rng.integers(0, 4))):
                    _node(anatomy, suv, hu, spot + rng.normal(0, 11, 3), rng.uniform(2.5, 6), value, NO_LUNG)


def _pneumonia(anatomy: Anatomy, suv: Array, hu: Array, rng: np.random.Generator) -> None:
    """Patches of dense, warm lung without a sharp border, low and at the back; or at its base only (atelectasis)."""
    lung = np.argwhere(anatomy.tissues[::4, ::4, ::4] == Tissue.LUNG) * 4
    if not len(lung):
        return
    inside = among(Tissue.LUNG)
    value, dense = log_uniform(rng, 0.8, 5.0), rng.uniform(-550, 20)
    for _ in range(int(rng.integers(1, 5))):
        low = lung[lung[:, 0] <= np.percentile(lung[:, 0], rng.uniform(10, 90))]
        centre = low[rng.integers(len(low))] * np.asarray(anatomy.spacing_mm)
        semi = rng.uniform(8, 38, 3)
        found = box_of(suv.shape, anatomy.spacing_mm, centre - 1.5 * semi, centre + 1.5 * semi)
        if found is None:
            continue
        box = found[0]
        noise = smooth_field(rng, suv[box].shape, anatomy.spacing_mm, 12.0)
        share = np.exp(-(ellipsoid_level(found[1], centre, semi) ** 2)) * np.clip(0.6 + 0.5 * noise, 0, 1)
        share = np.where(inside[anatomy.tissues[box]], share, 0)
        suv[box] += share * np.maximum(value - suv[box], 0)
        hu[box] += share * np.maximum(dense - hu[box], 0)


def _oesophagitis(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    line = anatomy.lines["oesophagus"]
    start = int(rng.integers(0, len(line) - 3))
    value = log_uniform(rng, 1.8, 5.5)
    streak(anatomy, suv, curve(line[start : start + int(rng.integers(3, 9))]), rng.uniform(3, 6), value)


def _atheroma(anatomy: Anatomy, suv: Array, hu: Array, rng: np.random.Generator) -> None:
    """Plaques in the wall of large vessels, some calcified."""
    for _ in range(int(rng.integers(2, 12))):
        line = anatomy.lines[str(rng.choice(["aorta", "iliac -1", "iliac 1", "carotid -1", "carotid 1"]))]
        away = rng.normal(0, 1, 3) * (0.2, 1, 1)
        spot = line[rng.integers(len(line))] + 10 * away / np.linalg.norm(away)
        glow(anatomy, suv, spot, (9, 4, 4), rng.uniform(1.5, 3.5))
        if rng.random() < 0.6:
            found = box_of(suv.shape, anatomy.spacing_mm, spot - 4, spot + 4)
            if found is not None:
                np.maximum(hu[found[0]], rng.uniform(150, 700), out=hu[found[0]],
                           where=ellipsoid_level(found[1], spot, (4, 2.5, 2.5)) < 1)  # fmt: skip


def _anal_canal(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    y, x = (float(v) for v in anatomy.marks.spine(anatomy.marks.bladder[0]))
    glow(anatomy, suv, (anatomy.marks.bladder_low - 48, y - 26, x), (14, 9, 9), log_uniform(rng, 2.0, 9.0))


def _injection(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """Activity left in the crook of an arm or a hand, up the vein, and sometimes in a node of that armpit."""
    pick = int(rng.integers(2))
    side, arm = SIDES[pick], anatomy.outline.arms[pick]
    spot = arm[1] + (0, -24, 0) if rng.random() < 0.6 else arm[2] + rng.normal(0, 6, 3)
    value = log_uniform(rng, 4.0, 200.0)
    glow(anatomy, suv, spot, rng.uniform(3, 14, 3), value, SOLID)
    if rng.random() < 0.5:
        vein = anatomy.lines[f"arm vein {side}"]
        line = (
            np.concatenate([vein[: int(rng.integers(1, 4))], [spot]])
            if rng.random() < 0.4
            else np.array([vein[-1], spot])
        )
        streak(anatomy, suv, line, rng.uniform(1.8, 3.5), value * rng.uniform(0.05, 0.5))
    if rng.random() < 0.3:
        node = anatomy.lines[f"axilla {side}"][-1] + (-18, 4, 0) + rng.normal(0, 6, 3)
        glow(anatomy, suv, node, (5, 5, 5), log_uniform(rng, 2.0, 12.0))


def _contamination(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """Urine on the skin near the crotch, or in the urethra."""
    _, y, x = anatomy.marks.bladder
    value = log_uniform(rng, 2.0, 40.0)
    low = anatomy.marks.bladder_low
    if rng.random() < 0.6:
        streak(anatomy, suv, np.array([(low, y, x), (low - 30, y - 10, x), (low - 42, y - 45, x)]), 2.5, value)
    else:
        spot = (anatomy.marks.crotch + rng.uniform(-30, 15), y + rng.uniform(-60, 40), x + rng.uniform(-30, 30))
        glow(anatomy, suv, spot, rng.uniform(3, 9, 3), value, SOLID)


def _thymus(anatomy: Anatomy, suv: Array, hu: Array, rng: np.random.Generator) -> None:
    y = anatomy.outline.wall_point(anatomy.marks.apex - 75, 0.0, anatomy.spacing_mm[0], -14.0)
    fat = among(*FATS)
    value = log_uniform(rng, 1.2, 5.0)
    for side in SIDES:
        spot = np.array(y) + by(0, 2, side * 11)
        glow(anatomy, suv, spot, (28, 8, 11), value, fat)
        found = box_of(suv.shape, anatomy.spacing_mm, spot - 28, spot + 28)
        if found is not None:
            inside = (ellipsoid_level(found[1], spot, (28, 8, 11)) < 1) & fat[anatomy.tissues[found[0]]]
            hu[found[0]][inside] = rng.uniform(-40, 50)


def _cyst_or_stoma(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """A cold cyst in a kidney or the liver with nothing in it, or a warm stoma in the belly's wall."""
    if rng.random() < 0.5:
        step = anatomy.spacing_mm[0]
        spot = anatomy.outline.wall_point(anatomy.marks.iliac, rng.uniform(-0.9, 0.9), step, 8.0)
        glow(anatomy, suv, spot, (12, 14, 12), log_uniform(rng, 1.5, 12.0))
        return
    for name in ("kidney -1", "kidney 1"):
        if name in anatomy.spots:
            spot = anatomy.spots[name][0] + rng.normal(0, 22, 3)
            found = box_of(suv.shape, anatomy.spacing_mm, spot - 20, spot + 20)
            if found is not None:
                suv[found[0]][ellipsoid_level(found[1], spot, rng.uniform(6, 20, 3)) < 1] *= 0.3


def _dental(anatomy: Anatomy, suv: Array, _hu: Array, rng: np.random.Generator) -> None:
    """Inflamed gums or a sinus."""
    y, x = anatomy.marks.brain[1], anatomy.marks.brain[2]
    level = anatomy.marks.chin + 28
    for _ in range(int(rng.integers(1, 4))):
        a = rng.uniform(-1.2, 1.2)
        spot = (level, y - 54 - 33 * np.cos(a), x + 24 * np.sin(a))
        glow(anatomy, suv, spot, rng.uniform(3, 6, 3), log_uniform(rng, 1.5, 7.0))


def _node(anatomy: Anatomy, suv: Array, hu: Array, spot: Array, radius_mm: float, value: float, over: Array) -> None:
    glow(anatomy, suv, spot, (1.3 * radius_mm, radius_mm, radius_mm), value, over)
    found = box_of(suv.shape, anatomy.spacing_mm, spot - 2 * radius_mm, spot + 2 * radius_mm)
    if found is not None:
        level = ellipsoid_level(found[1], spot, (1.3 * radius_mm, radius_mm, radius_mm))
        np.maximum(hu[found[0]], 35, out=hu[found[0]], where=(level < 1) & over[anatomy.tissues[found[0]]])


TRAPS: dict[str, tuple[float, Trap]] = {
    "brown fat": (0.14, _brown_fat),
    "joints": (0.5, _joints),
    "facets": (0.4, _facets),
    "fractures": (0.12, _fractures),
    "scar": (0.2, _scar),
    "port": (0.15, _port),
    "sarcoid": (0.07, _sarcoid),
    "reactive nodes": (0.3, _reactive_nodes),
    "pneumonia": (0.18, _pneumonia),
    "oesophagitis": (0.2, _oesophagitis),
    "atheroma": (0.3, _atheroma),
    "anal canal": (0.25, _anal_canal),
    "injection": (0.35, _injection),
    "contamination": (0.2, _contamination),
    "thymus": (0.1, _thymus),
    "cyst or stoma": (0.1, _cyst_or_stoma),
    "dental": (0.2, _dental),
}
