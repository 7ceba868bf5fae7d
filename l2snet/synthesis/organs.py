"""The inner structure of brain, heart and kidneys, and the spaces of the head."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from l2snet.synthesis.drawing import Canvas, by, curve, ellipsoid_level, smooth_field
from l2snet.synthesis.landmarks import Landmarks, Organ
from l2snet.synthesis.tissues import FATS, MUSCLES, Tissue, among
from l2snet.volume import Array

SIDES = (-1, 1)
SOFT = among(*FATS, *MUSCLES)


def organ_box(organs: Array, organ: int, margin: int = 0) -> tuple[slice, ...] | None:
    """The box around an organ with a margin in voxels; None where it is absent."""
    found = ndimage.find_objects((organs == organ).view(np.uint8))
    if not found or found[0] is None:
        return None
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(found[0], organs.shape, strict=True)
    )


def draw_brain(canvas: Canvas, organs: Array, marks: Landmarks, rng: np.random.Generator) -> None:
    """Folded grey matter over white, deep grey nuclei, ventricles, cerebellum and stem."""
    box = organ_box(organs, Organ.BRAIN)
    if box is None:
        return
    mask = organs[box] == Organ.BRAIN
    # A brain that is cut by the field of view has no surface there.
    padded = np.pad(mask, 1)
    for face, index in ((padded[-1], mask[-1]), (padded[0], mask[0])):
        face[1:-1, 1:-1] = index
    depth = ndimage.distance_transform_edt(padded, sampling=canvas.spacing_mm)[1:-1, 1:-1, 1:-1]
    folds = smooth_field(rng, mask.shape, canvas.spacing_mm, 11.0)
    here = canvas.labels[box]
    here[mask] = Tissue.WHITE
    here[mask & (depth < 4.5 + 6.5 * np.clip(np.abs(folds) * 1.6, 0, 2.0))] = Tissue.GREY
    here[mask & (depth < 3.0) & (np.abs(folds) < 0.12)] = Tissue.CEREBROSPINAL
    z, y, x = marks.brain
    found = canvas.labels
    inner = Canvas(found, canvas.spacing_mm)
    brain = among(Tissue.WHITE, Tissue.GREY)
    for side in SIDES:
        inner.ellipsoid((z - 2, y - 8, x + side * 24), (12, 22, 7), Tissue.DEEP_GREY, brain)
        inner.ellipsoid((z - 2, y + 10, x + side * 11), (9, 13, 8), Tissue.DEEP_GREY, brain)
        wide = rng.uniform(3.5, 9.0)
        line = curve([(z + 8, y - 28, x + side * 10), (z + 12, y, x + side * 11), (z, y + 30, x + side * 20)])
        inner.tube(line, wide, Tissue.CEREBROSPINAL, brain)
    levels = (np.arange(box[0].start, box[0].stop) * canvas.spacing_mm[0])[:, None, None]
    rows = (np.arange(box[1].start, box[1].stop) * canvas.spacing_mm[1])[None, :, None]
    low = mask & (levels < marks.skull_base + 32) & (rows > y + 12)
    here[low & (here != Tissue.CEREBROSPINAL)] = Tissue.CEREBELLUM
    columns = (np.arange(box[2].start, box[2].stop) * canvas.spacing_mm[2])[None, None, :]
    stem = mask & (np.abs(columns - x) < 14) & (np.abs(rows - y - 2) < 15) & (levels < marks.skull_base + 30)
    here[stem] = Tissue.WHITE


def draw_heart(canvas: Canvas, organs: Array, marks: Landmarks, rng: np.random.Generator) -> Array:
    """Blood, and the left ventricle's wall as a horseshoe open to the base; its apex, (z, y, x) mm.

    The wall's thin right ventricle is drawn as muscle of the same label, one voxel thick.
    """
    box = organ_box(organs, Organ.HEART)
    if box is None:
        return np.array([marks.dome + 20, 0.0, marks.mid_x + 50])
    mask = organs[box] == Organ.HEART
    here = canvas.labels[box]
    here[mask] = Tissue.BLOOD
    steps = np.asarray(canvas.spacing_mm)
    points = (np.argwhere(mask) + [s.start for s in box]) * steps
    # The long axis runs to the left, front and down.
    axis = np.array([-0.38 + 0.12 * rng.normal(), -0.62 + 0.1 * rng.normal(), 0.68])
    axis /= np.linalg.norm(axis)
    along = points @ axis
    apex: Array = points[along >= np.percentile(along, 99.5)].mean(axis=0)
    size = float(np.clip((mask.sum() * np.prod(steps) / 1000 / 650) ** (1 / 3), 0.8, 1.2))
    length, width = 46 * size * rng.uniform(0.9, 1.1), 33 * size * rng.uniform(0.9, 1.15)
    wall = rng.uniform(8.5, 13.5)
    centre = apex - axis * (length - 5)
    helper = np.array([1.0, 0.0, 0.0])
    second = np.cross(axis, helper)
    second /= np.linalg.norm(second)
    turn = np.stack([axis, second, np.cross(axis, second)])
    coordinates = [
        (np.arange(s.start, s.stop) * step).astype(np.float32).reshape([-1 if k == j else 1 for j in range(3)])
        for k, (s, step) in enumerate(zip(box, steps, strict=True))
    ]
    outer = ellipsoid_level(coordinates, tuple(centre), (length, width, width), turn) < 1
    cavity = ellipsoid_level(coordinates, tuple(centre), (length - wall, width - wall, width - wall), turn) < 1
    zz, yy, xx = coordinates
    far: Array = (zz - centre[0]) * axis[0] + (yy - centre[1]) * axis[1] + (xx - centre[2]) * axis[2]
    ventricle = mask & outer & ~cavity & (far > -0.45 * length)
    here[ventricle] = Tissue.HEART_WALL
    rim = mask & ~ndimage.binary_erosion(mask, iterations=2)
    fat = smooth_field(rng, mask.shape, canvas.spacing_mm, 25.0) > 0.5
    here[rim & fat & ~ventricle] = Tissue.VISCERAL_FAT
    right = rim & ~fat & ~ventricle & (far > -0.2 * length)
    here[right] = Tissue.HEART_WALL
    return apex


def draw_kidneys(canvas: Canvas, organs: Array, marks: Landmarks, rng: np.random.Generator) -> dict[str, Array]:
    """Sinus, renal pelvis and calyces, and ureters with hot stretches; where each pelvis lies, by name."""
    pelves: dict[str, Array] = {}
    for side in SIDES:
        half = organs == Organ.KIDNEYS
        middle = int(marks.mid_x / canvas.spacing_mm[2])
        if side > 0:
            half[:, :, :middle] = False
        else:
            half[:, :, middle:] = False
        box = organ_box(half.view(np.uint8), 1, 4)
        if box is None or half[box].sum() * np.prod(canvas.spacing_mm) < 15000:
            continue
        kidney = half[box]
        here = canvas.labels[box]
        steps = np.asarray(canvas.spacing_mm)
        near = ndimage.distance_transform_edt(~kidney, sampling=steps) < 11
        closed = ndimage.distance_transform_edt(near, sampling=steps) > 11
        sinus = closed & ~kidney & (SOFT | among(Tissue.SINUS_FAT))[here]
        here[sinus] = Tissue.SINUS_FAT
        where = np.argwhere(sinus) if sinus.sum() > 20 else np.argwhere(kidney)
        offset = np.array([s.start for s in box])
        centre = (where.mean(axis=0) + offset) * steps
        hilum = centre + by(-4, -4, -side * 6)
        size = rng.uniform(2.5, 7.0) * (2.0 if rng.random() < 0.06 else 1.0)
        bed = among(Tissue.SINUS_FAT, Tissue.KIDNEY, *FATS)
        spots = [hilum]
        canvas.ellipsoid(tuple(hilum), (1.8 * size, size, size), Tissue.KIDNEY_PELVIS, bed)
        for level in np.linspace(-26, 26, int(rng.integers(3, 7))):
            tip = centre + by(level + rng.normal(0, 3), rng.normal(4, 4), side * rng.uniform(4, 12))
            canvas.tube(np.array([hilum, tip]), np.array([0.45 * size, 0.7 * size]), Tissue.KIDNEY_PELVIS, bed)
            spots.append(tip)
        pelves[f"kidney {side}"] = np.array(spots)
        _ureter(canvas, hilum, side, marks, rng)
    return pelves


def _ureter(canvas: Canvas, start: Array, side: int, marks: Landmarks, rng: np.random.Generator) -> None:
    y_low, x_low = (float(v) for v in marks.spine(marks.iliac))
    y_mid, x_mid = (float(v) for v in marks.spine(marks.kidney_low))
    z, y, x = marks.bladder
    line = curve(
        [
            tuple(start),
            (min(marks.kidney_low, start[0] - 20), y_mid - 14, x_mid + side * 34),
            (marks.iliac - 5, y_low - 24, x_low + side * 36),
            (z + 48, y + 40, x + side * 50),
            (z + 6, y + 24, x + side * 22),
        ],
        4.0,
    )
    bed = among(*FATS, *MUSCLES)
    canvas.tube(line, 2.2, Tissue.URETER, bed)
    for _ in range(int(rng.choice([0, 1, 2, 4, 8], p=[0.3, 0.25, 0.2, 0.15, 0.1]))):
        first = int(rng.integers(0, max(1, len(line) - 3)))
        last = first + int(rng.choice([2, 4, 8, 20]))
        canvas.tube(line[first : last + 1], rng.uniform(1.6, 3.6), Tissue.URETER_HOT, bed | among(Tissue.URETER))


def draw_face(canvas: Canvas, marks: Landmarks, has_glands: bool, rng: np.random.Generator) -> None:
    """Nose, sinuses, throat, tongue, tonsils, eyes and, where the map has none, the salivary glands."""
    y, x = marks.brain[1], marks.brain[2]
    base, chin = marks.skull_base, marks.chin
    tall = max(base - chin, 45.0)
    bony = SOFT | among(Tissue.CORTEX, Tissue.FATTY_MARROW)
    throat_y = float(marks.spine(chin + 15)[0]) - 24
    canvas.ellipsoid((base - 16, y - 66, x), (21, 30, 13), Tissue.MUCOSA, SOFT)
    for side in SIDES:
        canvas.ellipsoid((base - 16, y - 66, x + side * 6), (17, 27, 4), Tissue.AIRWAY, SOFT | among(Tissue.MUCOSA))
        canvas.ellipsoid((base - 22, y - 64, x + side * 29), (17, 17, 14), Tissue.CORTEX, SOFT)
        filled = rng.random() < 0.12
        lining = Tissue.MUCOSA if filled else Tissue.AIRWAY
        canvas.ellipsoid((base - 22, y - 64, x + side * 29), (14, 14, 11.5), lining, bony)
        canvas.ellipsoid((base + 6, y - 70, x + side * 32), (18, 22, 18), Tissue.FAT, bony)
        canvas.ellipsoid((base + 6, y - 80, x + side * 32), (12, 12, 12), Tissue.EYE, bony)
        for dz, dx in ((11, 0), (-11, 0), (0, 11), (0, -11)):
            front = (base + 6 + dz, y - 74, x + side * 32 + dx)
            canvas.tube(np.array([front, (base + 8, y - 44, x + side * 18)]), 2.4, Tissue.EYE_MUSCLE, SOFT)
        canvas.ellipsoid((chin + 0.42 * tall, throat_y - 6, x + side * 17), (11, 7, 6), Tissue.TONSIL, SOFT)
        if not has_glands:
            canvas.ellipsoid((base - 28, y - 8, x + side * 55), (24, 15, 9), Tissue.SALIVARY, SOFT)
        canvas.ellipsoid((chin + 12, y - 38, x + side * 26), (9, 15, 8), Tissue.SALIVARY, SOFT)
    canvas.ellipsoid((chin + 0.4 * tall, y - 58, x), (0.3 * tall, 32, 22), Tissue.TONGUE, SOFT)
    pharynx = curve([(base - 18, y - 34, x), (chin + 0.45 * tall, throat_y, x), (chin - 20, throat_y - 6, x)])
    canvas.tube(pharynx, np.linspace(10, 8, len(pharynx)), Tissue.MUCOSA, SOFT)
    canvas.tube(pharynx, np.linspace(7, 5, len(pharynx)), Tissue.AIRWAY, SOFT | among(Tissue.MUCOSA))
    canvas.ellipsoid((base - 16, throat_y, x), (8, 6, 15), Tissue.TONSIL, SOFT | among(Tissue.MUCOSA))
    canvas.ellipsoid((base + 32, y - 86, x), (10, 6, 16), Tissue.AIRWAY, bony)
