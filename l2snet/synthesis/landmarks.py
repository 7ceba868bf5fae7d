"""Where things are: levels and curves that the organ labels fix, from which the rest of the body is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy.interpolate import PchipInterpolator

from l2snet.errors import InputError
from l2snet.synthesis.drawing import Canvas, Point, Spacing, by
from l2snet.volume import Array

MIN_ORGAN_ML = 20.0


class Organ(IntEnum):
    """The labels of an organ map."""

    SPLEEN = 1
    KIDNEYS = 2
    LIVER = 3
    BLADDER = 4
    LUNGS = 5
    BRAIN = 6
    HEART = 7
    STOMACH = 8
    PROSTATE = 9
    GLANDS = 10


@dataclass(frozen=True)
class Landmarks:
    """Levels (z, mm), the spine's curve, and centres (z, y, x in mm) of what the rest hangs on."""

    mid_x: float
    bladder: Point
    bladder_low: float
    bladder_top: float
    kidney_low: float
    iliac: float
    lung_base: float
    dome: float
    apex: float
    chin: float
    skull_base: float
    brain: Point
    vertex: float
    male: bool
    spine_z: tuple[float, ...]
    spine_y: tuple[float, ...]
    spine_x: tuple[float, ...]

    @property
    def crotch(self) -> float:
        """Level at which the legs part."""
        return self.bladder_low - 45

    @property
    def hip(self) -> Point:
        """Centre between the hip joints."""
        return (self.bladder[0] - 12, self.bladder[1] + 18, self.bladder[2])

    @property
    def shoulder(self) -> float:
        """Level of the shoulder joints with the arms down."""
        return self.apex - 22

    def spine(self, z_mm: Array | float) -> tuple[Array, Array]:
        """The y and x of the vertebral bodies' centres at the given levels."""
        z = np.clip(z_mm, self.spine_z[0], self.spine_z[-1])
        return (
            PchipInterpolator(self.spine_z, self.spine_y)(z),
            PchipInterpolator(self.spine_z, self.spine_x)(z),
        )


@dataclass(frozen=True)
class Extent:
    """An organ's centroid, lowest and highest position in mm, (z, y, x), and volume."""

    centre: Array
    low: Array
    high: Array
    volume_ml: float


def extents(organs: Array, spacing_mm: Spacing) -> dict[int, Extent]:
    """The organs of a map that are large enough to be trusted."""
    found: dict[int, Extent] = {}
    steps = np.asarray(spacing_mm)
    counts = np.bincount(organs.ravel(), minlength=11)
    for organ in Organ:
        ml = float(counts[organ] * np.prod(steps) / 1000)
        if ml < (MIN_ORGAN_ML if organ not in (Organ.GLANDS, Organ.PROSTATE) else 3.0):
            continue
        where = organs == organ
        centre, low, high = np.zeros(3), np.zeros(3), np.zeros(3)
        for axis in range(3):
            profile = where.sum(axis=tuple({0, 1, 2} - {axis}))
            cumulated = np.cumsum(profile) / profile.sum()
            # A percent is left out on each side: stray voxels would move a level.
            low[axis], high[axis] = np.searchsorted(cumulated, [0.005, 0.995]) * steps[axis]
            centre[axis] = np.average(np.arange(len(profile)), weights=profile) * steps[axis]
        found[int(organ)] = Extent(centre, low, high, ml)
    return found


def complete(organs: Array, spacing_mm: Spacing, rng: np.random.Generator) -> dict[int, Extent]:
    """Draw the organs that a map lacks as ellipsoids, in place; brain and bladder may lie outside the grid.

    Raises
    ------
    InputError : lungs or liver are missing, without which nothing can be placed.
    """
    found = extents(organs[::2, ::2, ::2], _twice(spacing_mm))
    for needed in (Organ.LUNGS, Organ.LIVER):
        if needed not in found:
            raise InputError(f"the organ map has no {needed.name.lower()} (label {int(needed)}); choose a torso map")
    lungs, liver = found[Organ.LUNGS], found[Organ.LIVER]
    x, posterior = lungs.centre[2], lungs.high[1]
    below = liver.low[0]
    wanted: dict[int, tuple[Point, Point]] = {
        Organ.HEART: ((lungs.low[0] + 60, lungs.low[1] + 50, x + 22), (52, 48, 55)),
        Organ.SPLEEN: ((liver.centre[0] + 10, posterior - 40, x + 95), (50, 35, 22)),
        Organ.STOMACH: ((liver.centre[0], lungs.centre[1] - 30, x + 55), (45, 40, 40)),
        Organ.BLADDER: ((below - 190, lungs.centre[1] - 10, x), tuple(rng.uniform((15, 22, 25), (35, 40, 45)))),
        Organ.BRAIN: ((lungs.high[0] + 215, lungs.centre[1] - 5, x), (62, 85, 68)),
    }
    canvas = Canvas(organs, spacing_mm)
    empty = np.zeros(256, bool)
    empty[0] = True
    for organ, (middle, semi) in wanted.items():
        if organ not in found:
            canvas.ellipsoid(middle, semi, organ, empty)
            low, high = np.subtract(middle, semi), np.add(middle, semi)
            found[organ] = Extent(np.asarray(middle), low, high, float(np.prod(semi)) * 4.19e-3)
    if Organ.KIDNEYS not in found:
        for side in (-1, 1):
            canvas.ellipsoid((below + 10, posterior - 45, x + 58 * side), (52, 26, 28), Organ.KIDNEYS, empty)
        centre = np.array([below + 10, posterior - 45, x])
        found[Organ.KIDNEYS] = Extent(centre, centre - (52, 26, 86), centre + by(52, 26, 86), 300.0)
    return found


def find_landmarks(organs: Array, spacing_mm: Spacing, found: dict[int, Extent], rng: np.random.Generator) -> Landmarks:
    """Levels and curves from the organs' extents; `organs` is complete (see `complete`)."""
    lungs, liver, kidneys = found[Organ.LUNGS], found[Organ.LIVER], found[Organ.KIDNEYS]
    bladder, brain = found[Organ.BLADDER], found[Organ.BRAIN]
    apex = float(lungs.high[0]) + 4
    # The brain stem reaches below the skull's base; a brain that is cut by the field of view has no top.
    skull_base = max(float(brain.low[0]) + 12, apex + 95)
    glands = found.get(Organ.GLANDS)
    chin = float(np.clip(glands.low[0] + 12 if glands else skull_base - 62, apex + 45, skull_base - 45))
    bladder_z = float(np.mean([bladder.low[0], bladder.high[0]]))
    kidney_low = float(kidneys.low[0])
    iliac = float(np.clip(kidney_low - 32, bladder_z + 85, bladder_z + 150))
    mid = float(np.mean([lungs.centre[2], kidneys.centre[2]]))
    points = _spine_points(organs, spacing_mm, found, mid, (bladder_z, kidney_low, apex, chin, skull_base))
    scoliosis = rng.normal(0, 4, len(points)) * rng.uniform(0, 1)
    return Landmarks(
        mid_x=mid,
        bladder=(bladder_z, float(bladder.centre[1]), float(bladder.centre[2])),
        bladder_low=float(bladder.low[0]),
        bladder_top=float(bladder.high[0]),
        kidney_low=kidney_low,
        iliac=iliac,
        lung_base=float(lungs.low[0]),
        dome=float(liver.high[0]),
        apex=apex,
        chin=chin,
        skull_base=skull_base,
        brain=(float(brain.centre[0]), float(brain.centre[1]), float(brain.centre[2])),
        vertex=float(brain.high[0]) + 14,
        male=Organ.PROSTATE in found or bool(rng.random() < 0.25),
        spine_z=tuple(p[0] for p in points),
        spine_y=tuple(p[1] for p in points),
        spine_x=tuple(p[2] + float(s) for p, s in zip(points, scoliosis, strict=True)),
    )


def _spine_points(
    organs: Array, spacing_mm: Spacing, found: dict[int, Extent], mid: float, levels: tuple[float, ...]
) -> list[tuple[float, float, float]]:
    """Centres of vertebral bodies from the coccyx to the skull, in rising z."""
    bladder_z, kidney_low, apex, chin, skull_base = levels
    bladder, kidneys, brain = found[Organ.BLADDER], found[Organ.KIDNEYS], found[Organ.BRAIN]
    bladder_y, bladder_x = float(bladder.centre[1]), float(bladder.centre[2])
    kidney_y = float(kidneys.centre[1])
    # Lordosis: the promontory lies forward, the coccyx behind.
    sacrum = bladder_y + 82
    lumbar = kidney_y - 8
    points = [
        (bladder_z - 15, sacrum, bladder_x),
        (bladder_z + 30, sacrum + 6, bladder_x),
        (bladder_z + 80, 0.55 * sacrum + 0.45 * lumbar, (bladder_x + mid) / 2),
        (max(bladder_z + 120, kidney_low - 25), lumbar - 2, mid),
        (float(kidneys.centre[0]), lumbar, mid),
    ]
    lungs = organs == Organ.LUNGS
    for part in (0.25, 0.45, 0.65, 0.85):
        z = float(found[Organ.LUNGS].low[0]) + part * (apex - float(found[Organ.LUNGS].low[0]))
        if z > points[-1][0] + 25 and (found_here := _behind(lungs[int(z / spacing_mm[0])], spacing_mm)):
            posterior, centre = found_here
            points.append((z, posterior - (42 if part < 0.8 else 34), 0.5 * centre + 0.5 * mid))
    head_x = float(brain.centre[2])
    neck_y = 0.5 * points[-1][1] + 0.5 * (float(brain.centre[1]) + 18)
    points.append((max(apex + 15, points[-1][0] + 20), points[-1][1] - 12, 0.7 * mid + 0.3 * head_x))
    points.append(((chin + apex + 15) / 2 + 12, neck_y - 6, 0.5 * mid + 0.5 * head_x))
    points.append((skull_base + 8, float(brain.centre[1]) + 16, head_x))
    rising = [points[0]]
    for point in points[1:]:
        if point[0] > rising[-1][0] + 8:
            rising.append(point)
    return [(float(z), float(y), float(x)) for z, y, x in rising]


def _behind(lungs: Array, spacing_mm: Spacing) -> tuple[float, float] | None:
    """The posterior limit (y) and the middle (x) of a slice's lungs, mm."""
    rows, columns = np.nonzero(lungs)
    if len(rows) < 60:
        return None
    return float(np.percentile(rows, 98) * spacing_mm[1]), float(np.mean(np.percentile(columns, [2, 98]))) * (
        spacing_mm[2]
    )


def _twice(spacing_mm: Spacing) -> Spacing:
    return (2 * spacing_mm[0], 2 * spacing_mm[1], 2 * spacing_mm[2])
