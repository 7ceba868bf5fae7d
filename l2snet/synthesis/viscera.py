"""What lies inside the cavities: vessels, airways, bowel, glands, and the inner structure of the mapped organs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from l2snet.synthesis.drawing import Canvas, Point, by, curve
from l2snet.synthesis.landmarks import Landmarks, Organ
from l2snet.synthesis.outline import Outline
from l2snet.synthesis.tissues import BOWEL_LOOPS, COLON, COLON_SEGMENTS, FATS, MUSCLES, SMALL_BOWEL, Tissue, among
from l2snet.volume import Array

SIDES = (-1, 1)
LOOSE = among(*FATS)
SOFT = among(*FATS, *MUSCLES)
GAS_SHARE_COLON, GAS_SHARE_STOMACH = 0.3, 0.35


def draw_vessels(canvas: Canvas, marks: Landmarks, outline: Outline) -> dict[str, Array]:
    """Great vessels as tubes of blood; the curves of some, (n, 3) in mm, by name."""
    spine = marks.spine
    arch, split = marks.apex - 52, marks.iliac - 8
    y_arch, x_arch = (float(v) for v in spine(arch))
    heart_y = y_arch - 46
    aorta = [
        (arch - 45, heart_y, x_arch - 8),
        (arch - 12, heart_y + 2, x_arch - 10),
        (arch + 8, y_arch - 30, x_arch + 6),
    ]
    aorta += [(arch - 12, y_arch - 8, x_arch + 20)]
    levels = np.linspace(arch - 45, split, 9)
    ys, xs = spine(levels)
    ahead = np.interp(levels, (split, marks.kidney_low, marks.dome, arch), (29, 27, 18, 6))
    aside = np.interp(levels, (split, marks.dome, arch), (6, 12, 20))
    aorta += [(z, y - a, x + s) for z, y, x, a, s in zip(levels, ys, xs, ahead, aside, strict=True)]
    lines: dict[str, Array] = {"aorta": curve(aorta, 8)}
    radii = np.interp(lines["aorta"][:, 0], (split, marks.dome, arch), (8.0, 11.0, 13.0))
    canvas.tube(lines["aorta"], radii, Tissue.BLOOD, SOFT)
    low = np.linspace(split, marks.dome - 8, 8)
    ys, xs = spine(low)
    cava = [(z, y - 27 - 8 * (z > marks.dome - 40), x - 18) for z, y, x in zip(low, ys, xs, strict=True)]
    canvas.tube(curve(cava, 8), 10.0, Tissue.BLOOD, SOFT)
    superior = [(arch - 60, y_arch - 42, x_arch - 26), (arch + 10, y_arch - 40, x_arch - 26)]
    canvas.tube(np.array(superior), 9.0, Tissue.BLOOD, SOFT)
    _draw_branches(canvas, marks, outline, lines, np.asarray(superior[1]), (arch, split))
    return lines


def _draw_branches(
    canvas: Canvas,
    marks: Landmarks,
    outline: Outline,
    lines: dict[str, Array],
    cava: Array,
    levels: tuple[float, float],
) -> None:
    arch, split = levels
    y_arch, x_arch = (float(v) for v in marks.spine(arch))
    y_split, x_split = (float(v) for v in marks.spine(split))
    for side, arm, leg in zip(SIDES, outline.arms, outline.legs, strict=True):
        groin = leg[0] + (-8, -42, -side * 20)
        iliac = curve(
            [
                (split, y_split - 30, x_split + 3 * side),
                (marks.bladder[0] + 62, marks.bladder[1] + 22, x_split + side * 48),
                tuple(groin),
            ]
        )
        lines[f"iliac {side}"] = iliac
        canvas.tube(iliac, 5.5, Tissue.BLOOD, SOFT)
        canvas.tube(iliac + by(0, 9, side * -3), 6.0, Tissue.BLOOD, SOFT)
        canvas.tube(
            np.array([groin, 0.5 * (leg[0] + leg[1]) + (0, -18, -side * 22), leg[1] + (0, 18, 0)]),
            4.0,
            Tissue.BLOOD,
            SOFT,
        )
        neck_y, neck_x = (float(v) for v in marks.spine(marks.chin))
        start = (arch + 14, y_arch - 34, x_arch + side * 8)
        carotid = curve(
            [
                start,
                (marks.apex + 20, y_arch - 28, x_arch + side * 22),
                (marks.chin + 10, neck_y - 22, neck_x + side * 27),
            ]
        )
        lines[f"carotid {side}"] = carotid
        canvas.tube(carotid, 3.8, Tissue.BLOOD, SOFT)
        canvas.tube(carotid + by(0, -1, side * 10), 5.5, Tissue.BLOOD, SOFT)
        axilla = arm[0] + (-22, -10, -side * 28)
        lines[f"axilla {side}"] = curve(
            [
                (arch + 14, cava[1] + 4, x_arch + side * 16),
                (marks.apex - 8, cava[1] + 6, x_arch + side * 62),
                tuple(axilla),
            ]
        )
        canvas.tube(lines[f"axilla {side}"], 5.0, Tissue.BLOOD, SOFT)
        vein = np.array([axilla, 0.5 * (arm[0] + arm[1]) + (0, -4, -side * 22), arm[1] + (0, -12, 0)])
        lines[f"arm vein {side}"] = vein
        canvas.tube(vein, 3.5, Tissue.BLOOD, SOFT)


def draw_airways(canvas: Canvas, marks: Landmarks, rng: np.random.Generator) -> dict[str, Array]:
    """Trachea, main bronchi, oesophagus, larynx, thyroid, and the vessels and bronchi inside the lungs."""
    carina = marks.apex - 78
    levels = np.linspace(marks.chin - 28, carina, 7)
    ys, xs = marks.spine(levels)
    ahead = np.interp(levels, (carina, marks.apex, marks.chin), (26, 27, 33))
    trachea = np.stack([levels, ys - ahead, xs - np.interp(levels, (carina, marks.apex), (4, 0))], axis=1)
    canvas.tube(trachea, 10.5, Tissue.CARTILAGE, SOFT)
    canvas.tube(trachea, 8.3, Tissue.AIRWAY, SOFT | among(Tissue.CARTILAGE))
    end = trachea[-1]
    hila = {}
    for side in SIDES:
        hilum = end + by(-30, 4, side * 44)
        hila[f"hilum {side}"] = np.array([end, hilum])
        canvas.tube(np.array([end, hilum]), 8.0, Tissue.CARTILAGE, SOFT)
        canvas.tube(np.array([end, hilum]), 6.3, Tissue.AIRWAY, SOFT | among(Tissue.CARTILAGE))
        canvas.tube(np.array([end + by(-28, -22, 4 * side), hilum + by(2, -14, 0)]), 10.0, Tissue.BLOOD, SOFT)
        _lung_vessels(canvas, hilum, side, rng)
    low = marks.dome - 22
    gullet_z = np.linspace(marks.chin - 38, low, 9)
    ys, xs = marks.spine(gullet_z)
    back = np.interp(gullet_z, (low, marks.dome + 30, marks.apex), (36, 24, 19))
    gullet = np.stack([gullet_z, ys - back, xs + np.interp(gullet_z, (low, marks.dome + 40), (24, 6))], axis=1)
    canvas.tube(gullet, 6.5, Tissue.OESOPHAGUS, SOFT)
    top = trachea[0] + (6, 0, 0)
    canvas.ellipsoid(tuple(top), (18, 15, 16), Tissue.LARYNX, SOFT)
    canvas.ellipsoid(tuple(top), (20, 6, 4.5), Tissue.AIRWAY, SOFT | among(Tissue.LARYNX))
    gland = float(np.clip(marks.chin - 68, marks.apex + 8, marks.chin - 45))
    y, x = (float(v) for v in marks.spine(gland))
    swollen = rng.uniform(0.8, 1.5)
    for side in SIDES:
        canvas.ellipsoid((gland, y - 28, x + side * 17), (21 * swollen, 9 * swollen, 8 * swollen), Tissue.THYROID, SOFT)
    canvas.tube(np.array([(gland - 8, y - 38, x - 14), (gland - 8, y - 38, x + 14)]), 4.0, Tissue.THYROID, SOFT)
    return {"trachea": trachea, "oesophagus": gullet, "thyroid": np.array([[gland, y - 28, x]]), **hila}


def _lung_vessels(canvas: Canvas, hilum: Array, side: int, rng: np.random.Generator) -> None:
    lung = among(Tissue.LUNG)
    for _ in range(34):
        away = rng.normal(0, 1, 3) * (1.3, 1.0, 0.7) + (0, 0, 0.75 * side)
        away *= rng.uniform(60, 125) / np.linalg.norm(away)
        bend = rng.normal(0, 9, (2, 3))
        line = curve([tuple(hilum), tuple(hilum + 0.4 * away + bend[0]), tuple(hilum + away + bend[1])], 8)
        canvas.tube(line, np.linspace(rng.uniform(2.5, 4.5), 0.9, len(line)), Tissue.LUNG_VESSEL, lung)


def draw_bowel(canvas: Canvas, marks: Landmarks, outline: Outline, rng: np.random.Generator) -> dict[str, Array]:
    """Colon around and small bowel within the abdominal cavity, filled with gas, stool or fluid."""
    step = canvas.spacing_mm[0]

    def at(z: float, side: float, ahead: float) -> Point:
        """A point of the cavity at a share of its half-width (left positive) and half-depth (front positive)."""
        row = int(np.clip(z / step, 0, len(outline.centre_y) - 1))
        radii = outline.radii[row]
        wide, deep = radii[len(radii) // 4], radii[0]
        jitter = rng.normal(0, 5, 3)
        place = (z, outline.centre_y[row] - ahead * deep, outline.centre_x[row] + side * wide)
        return (place[0] + jitter[0], place[1] + jitter[1], place[2] + jitter[2])

    low, top, pelvis = marks.iliac, marks.kidney_low, marks.bladder_top
    sag = rng.uniform(-50, 10)
    path = [at(low - 45, -0.62, 0.35), at(low, -0.8, 0.2), at(top + 5, -0.82, 0.15), at(top + 45, -0.75, 0.3),
            at(top + 15 + sag / 2, -0.35, 0.7), at(top + sag, 0.1, 0.75), at(top + 45, 0.6, 0.5),
            at(top + 85, 0.82, 0.1), at(top, 0.85, 0.0), at(low, 0.8, 0.1), at(low - 45, 0.6, 0.25),
            at(pelvis + 40, 0.15, 0.3), at(pelvis + 35, -0.25, -0.1), at(pelvis + 25, 0.05, -0.45)]  # fmt: skip
    y, x = (float(v) for v in marks.spine(marks.bladder[0]))
    rectum = [
        (marks.bladder[0] + 5, y - 26, x),
        (marks.bladder_low - 12, y - 22, x),
        (marks.bladder_low - 42, y - 24, x),
    ]
    line = curve([*path, *rectum], 9)
    haustra = 1 + 0.16 * np.sin(np.arange(len(line)) * 9 / 7 + rng.uniform(0, 6))
    radii = np.interp(np.arange(len(line)) / len(line), (0, 0.15, 0.5, 0.8, 1), (25, 22, 18, 14, 13)) * haustra
    radii = radii * rng.uniform(0.75, 1.15)
    soft = LOOSE | among(*MUSCLES)
    edges = np.linspace(0, len(line) - 1, COLON_SEGMENTS + 1).astype(int)
    for label, start, end in zip(COLON, edges[:-1], edges[1:], strict=True):
        canvas.tube(line[start : end + 1], radii[start : end + 1], label, LOOSE if label < COLON[-1] else soft)
    contents = rng.choice([Tissue.STOOL, Tissue.GAS, Tissue.BOWEL_FLUID], COLON_SEGMENTS, p=(0.5, GAS_SHARE_COLON, 0.2))
    open_ = rng.uniform(0.0, 1.0, COLON_SEGMENTS) < 0.75
    for index in np.flatnonzero(open_):
        part = slice(edges[index], edges[index + 1])
        thick = rng.uniform(2.2, 4.5)
        canvas.tube(line[part], np.maximum(radii[part] - thick, 1.5), int(contents[index]), among(*COLON))
        if contents[index] != Tissue.GAS and rng.random() < 0.4:
            gas = among(Tissue.STOOL, Tissue.BOWEL_FLUID)
            canvas.tube(line[part] - (0, 6, 0), np.maximum(radii[part] - thick - 4, 1.0), Tissue.GAS, gas)
    canvas.ellipsoid((marks.bladder_low - 50, y - 26, x), (16, 11, 11), Tissue.ANUS, SOFT | among(*COLON))
    return {"colon": line, **_small_bowel(canvas, marks, at, rng)}


def _small_bowel(
    canvas: Canvas, marks: Landmarks, at: Callable[[float, float, float], Point], rng: np.random.Generator
) -> dict[str, Array]:
    low = marks.bladder_top + 12
    high = max(marks.kidney_low + 55, low + 40)
    lines = {}
    for number in range(2 * BOWEL_LOOPS):
        loop = number % BOWEL_LOOPS
        label = SMALL_BOWEL[loop]
        knots = []
        z = rng.uniform(low, high)
        for turn in range(7):
            z = float(np.clip(z + rng.normal(0, 26), low, high))
            knots.append(at(z, rng.uniform(-0.62, 0.62) + 0.1 * (-1) ** turn, rng.uniform(-0.25, 0.8)))
        if number == 0:
            y, x = (float(v) for v in marks.spine(marks.kidney_low + 40))
            knots = [(marks.kidney_low + 75, y - 62, x - 25), (marks.kidney_low + 60, y - 50, x - 48),
                     (marks.kidney_low + 10, y - 42, x - 42), (marks.kidney_low + 5, y - 36, x + 10),
                     (marks.kidney_low + 30, y - 48, x + 32)]  # fmt: skip
        line = curve(knots, 8)
        lines[f"bowel {number}"] = line
        radius = rng.uniform(8, 14)
        canvas.tube(line, radius, label, LOOSE)
        if rng.random() < 0.6:
            content = Tissue.GAS if rng.random() < 0.12 else Tissue.BOWEL_FLUID
            canvas.tube(line, max(radius - rng.uniform(3, 5), 2.0), content, among(label))
    return lines


def draw_upper_abdomen(canvas: Canvas, organs: Array, marks: Landmarks, rng: np.random.Generator) -> None:
    """Pancreas, gallbladder and adrenals, where fat leaves room for them."""
    y, x = (float(v) for v in marks.spine(marks.kidney_low + 60))
    z = marks.kidney_low + 72
    pancreas = curve([(z - 20, y - 48, x - 34), (z, y - 52, x - 10), (z + 8, y - 44, x + 22), (z + 22, y - 14, x + 72)])
    canvas.tube(pancreas, np.linspace(13, 8, len(pancreas)), Tissue.PANCREAS, LOOSE)
    liver = np.argwhere(organs[::4, ::4, ::4] == Organ.LIVER) * 4 * np.asarray(canvas.spacing_mm)
    if len(liver):
        low = liver[liver[:, 0] <= np.percentile(liver[:, 0], 25)]
        front = low[low[:, 1] <= np.percentile(low[:, 1], 40)].mean(axis=0)
        semi = tuple(rng.uniform((16, 10, 10), (30, 17, 17)))
        spot = tuple(front + by(-6, 0, 14))
        canvas.ellipsoid(spot, semi, Tissue.GALLBLADDER, LOOSE | among(Tissue.LIVER))
    kidneys = np.argwhere(organs[::4, ::4, ::4] == Organ.KIDNEYS) * 4 * np.asarray(canvas.spacing_mm)
    for side in SIDES:
        one = kidneys[(kidneys[:, 2] - marks.mid_x) * side > 0] if len(kidneys) else kidneys
        if len(one) < 4:
            continue
        top = one[:, 0].max()
        base = np.array([top + 2, one[:, 1].mean() - 12, marks.mid_x + side * 34])
        for turn in (-6, 8):
            canvas.tube(np.array([base, base + by(14, turn, side * 12)]), 2.8, Tissue.ADRENAL, LOOSE)


def draw_pelvic_organs(canvas: Canvas, organs: Array, marks: Landmarks, rng: np.random.Generator) -> dict[str, Array]:
    """Prostate and testes, or uterus and ovaries; their centres by name."""
    _, y, x = marks.bladder
    centres = {}
    if marks.male:
        if not (organs == Organ.PROSTATE).any():
            size = rng.uniform(14, 26)
            canvas.ellipsoid((marks.bladder_low - 12, y + 12, x), (size * 0.8, size * 0.8, size), Tissue.PROSTATE, SOFT)
        for side in SIDES:
            centres[f"testis {side}"] = np.array([marks.crotch - 30, y - 50, x + side * 16])
            canvas.ellipsoid(tuple(centres[f"testis {side}"]), (18, 13, 12), Tissue.TESTIS, SOFT | among(Tissue.SKIN))
        return centres
    lean = rng.normal(0, 10)
    womb = np.array([marks.bladder_top + 12, y + 26, x + lean])
    if rng.random() < 0.85:
        big = rng.uniform(0.7, 1.4)
        bed = SOFT | among(*COLON, *SMALL_BOWEL, Tissue.STOOL, Tissue.BOWEL_FLUID, Tissue.GAS)
        canvas.ellipsoid(tuple(womb), (22 * big, 26 * big, 26 * big), Tissue.UTERUS, bed)
        canvas.tube(np.array([womb, womb + by(-38, 12, -lean)]), 13.0, Tissue.UTERUS, bed)
        centres["uterus"] = womb
    for side in SIDES:
        centres[f"ovary {side}"] = womb + by(8, 6, side * rng.uniform(38, 52))
        canvas.ellipsoid(tuple(centres[f"ovary {side}"]), (10, 13, 12), Tissue.OVARY, LOOSE | among(*SMALL_BOWEL))
    return centres


def draw_stomach_and_bladder(canvas: Canvas, organs: Array, rng: np.random.Generator) -> None:
    """Walls around their content; the stomach may be contracted or hold fluid and a gas bubble in front."""
    for organ, wall, content in (
        (Organ.STOMACH, Tissue.STOMACH_WALL, Tissue.STOMACH_CONTENT),
        (Organ.BLADDER, Tissue.BLADDER_WALL, Tissue.URINE),
    ):
        boxes = ndimage.find_objects((organs == organ).view(np.uint8))
        if not boxes or boxes[0] is None:
            continue
        box = boxes[0]
        mask = organs[box] == organ
        depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=canvas.spacing_mm)[1:-1, 1:-1, 1:-1]
        here = canvas.labels[box]
        here[mask] = wall
        thick = 2.2 if organ == Organ.BLADDER else rng.uniform(3.5, 9.0)
        here[mask & (depth > thick)] = content
        if organ == Organ.STOMACH and rng.random() < GAS_SHARE_STOMACH * 2:
            inside = mask & (depth > thick)
            rows = np.arange(mask.shape[1])[None, :, None]
            front = rows < np.percentile(np.nonzero(inside)[1], rng.uniform(15, 70)) if inside.any() else rows < 0
            here[inside & front] = Tissue.GAS
