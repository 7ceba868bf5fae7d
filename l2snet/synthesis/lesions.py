"""Tumours: how many, where, how large, of what shape and inner texture, and how hot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2snet.synthesis.anatomy import Anatomy
from l2snet.synthesis.physiology import log_uniform
from l2snet.synthesis.tissues import COLON, MUSCLES, SMALL_BOWEL, Tissue
from l2snet.volume import Array

MIN_ML, MAX_ML = 0.2, 2400.0
MIN_SUV, MAX_SUV = 2.0, 45.0
# Chances of one, a few, many and very many lesions in a body that has any.
COUNTS = ((1, 1), (2, 4), (5, 14), (15, 60))
COUNT_CHANCES = (0.34, 0.32, 0.22, 0.12)


@dataclass(frozen=True)
class Kind:
    """A kind of tumour.

    Attributes
    ----------
    weight : how often it is the disease of a body.
    volume_ml : smallest and largest, drawn log-uniformly.
    hu : CT number without contrast medium, added contrast apart.
    tissues : labels in which its centre lies.
    near : curves or spots near which its centre lies instead, with `apart_mm` between.
    stretch : longest over shortest axis, at most.
    confined : chance that it stays within the tissues of its centre.
    many : whether a body may have more than four.
    """

    weight: float
    volume_ml: tuple[float, float]
    hu: tuple[float, float] = (20.0, 60.0)
    tissues: tuple[int, ...] = ()
    near: tuple[str, ...] = ()
    apart_mm: tuple[float, float] = (8.0, 22.0)
    stretch: float = 2.0
    confined: float = 0.0
    many: bool = False


# Volumes up to 16 cm across (2 litres and more) as bulky lymphoma and sarcoma reach them.
KINDS: dict[str, Kind] = {
    "neck nodes": Kind(2.0, (0.2, 60), near=("carotid -1", "carotid 1"), many=True),
    "axillary nodes": Kind(1.2, (0.2, 60), near=("axilla -1", "axilla 1"), many=True),
    "hilar nodes": Kind(2.2, (0.2, 150), near=("hilum -1", "hilum 1", "trachea"), apart_mm=(4, 20), many=True),
    "abdominal nodes": Kind(1.6, (0.2, 100), near=("aorta",), apart_mm=(13, 26), many=True),
    "pelvic nodes": Kind(1.4, (0.2, 80), near=("iliac -1", "iliac 1"), apart_mm=(7, 20), many=True),
    "mesenteric": Kind(0.8, (0.3, 120), tissues=(Tissue.VISCERAL_FAT, *SMALL_BOWEL), many=True),
    "bulk": Kind(2.6, (60, MAX_ML), near=("aorta", "hilum -1", "hilum 1", "iliac -1", "iliac 1"), apart_mm=(15, 60)),
    "lung": Kind(2.6, (0.2, 300), (10, 60), tissues=(Tissue.LUNG,), many=True),
    "lung mass": Kind(1.9, (10, 700), (10, 60), tissues=(Tissue.LUNG, Tissue.LUNG_VESSEL)),
    "liver": Kind(2.0, (0.3, 500), (15, 50), tissues=(Tissue.LIVER,), confined=0.7, many=True),
    "spleen": Kind(0.5, (0.3, 150), (20, 50), tissues=(Tissue.SPLEEN,), confined=0.7),
    "bone": Kind(2.2, (0.2, 120), (40, 60), tissues=(Tissue.MARROW,), stretch=2.5, confined=0.6, many=True),
    "limb bone": Kind(0.4, (0.5, 300), (40, 60), tissues=(Tissue.FATTY_MARROW,), stretch=3.0, confined=0.4),
    "soft tissue": Kind(1.6, (0.4, MAX_ML), (20, 55), tissues=MUSCLES, stretch=2.5),
    "sarcoma": Kind(2.6, (60, MAX_ML), (10, 55), tissues=MUSCLES, stretch=2.5),
    "under the skin": Kind(0.8, (0.2, 40), tissues=(Tissue.FAT, Tissue.SKIN), many=True),
    "head and neck": Kind(1.4, (0.6, 80), tissues=(Tissue.TONSIL, Tissue.TONGUE, Tissue.LARYNX, Tissue.MUCOSA)),
    "thyroid": Kind(0.4, (0.3, 60), tissues=(Tissue.THYROID,)),
    "oesophagus": Kind(0.7, (1, 80), tissues=(Tissue.OESOPHAGUS,), stretch=3.5),
    "stomach": Kind(0.6, (2, 250), tissues=(Tissue.STOMACH_WALL,), stretch=2.5),
    "bowel": Kind(1.0, (1, 200), tissues=(*COLON, Tissue.ANUS), stretch=2.2),
    "pancreas": Kind(0.6, (1, 100), tissues=(Tissue.PANCREAS,)),
    "adrenal": Kind(0.6, (0.5, 120), tissues=(Tissue.ADRENAL,)),
    "kidney": Kind(0.5, (1, 500), tissues=(Tissue.KIDNEY, Tissue.SINUS_FAT)),
    "beside the bladder": Kind(
        1.5, (0.5, 400), tissues=(Tissue.BLADDER_WALL, Tissue.PROSTATE, Tissue.UTERUS, Tissue.OVARY)
    ),
    "beside the heart": Kind(0.8, (0.5, 200), near=("heart",), apart_mm=(10, 45)),
    "breast": Kind(0.8, (0.3, 150), tissues=(Tissue.BREAST,)),
    "brain": Kind(0.2, (0.3, 30), tissues=(Tissue.WHITE,), confined=1.0),
}


@dataclass(frozen=True)
class Lesion:
    """One tumour before it is painted.

    Attributes
    ----------
    centre_mm : (z, y, x).
    suv : what its hottest part shows after the point spread.
    axes : relative half-axes (3,), product 1; lobes : how many ellipsoids it is made of.
    irregular : how far its surface departs from them, over its radius.
    core : share of the radius that is necrotic; 0 for none. core_suv : its SUV over the rim's.
    core_in_mask : whether the mask has it even where it is too cold to stand out, if the rim is closed around it.
    patchy : standard deviation of the logarithm of SUV inside, over `grain` radii.
    fading : share of the radius over which the SUV falls off towards the surface.
    hu : CT number; bone : what a bone lesion does to bone's density (HU added).
    """

    kind: str
    centre_mm: tuple[float, float, float]
    volume_ml: float
    suv: float
    axes: tuple[float, float, float]
    lobes: int
    irregular: float
    core: float
    core_suv: float
    core_in_mask: bool
    patchy: float
    grain: float
    fading: float
    hu: float
    bone: float

    @property
    def radius_mm(self) -> float:
        """Radius of the ball of its volume."""
        return float((self.volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))


def draw_lesion(kind: str, centre_mm: tuple[float, float, float], base_suv: float, rng: np.random.Generator) -> Lesion:
    """Draw size, shape and uptake around a body's base level of uptake."""
    traits = KINDS[kind]
    volume = float(np.clip(log_uniform(rng, *traits.volume_ml), MIN_ML, MAX_ML))
    axes = np.exp(rng.uniform(-0.5, 0.5, 3) * np.log(rng.uniform(1.0, traits.stretch)))
    axes /= np.prod(axes) ** (1 / 3)
    necrotic = volume > 5 and rng.random() < min(0.65, 0.15 + 0.12 * np.log10(volume / 5) * 2)
    large = volume > 3
    return Lesion(
        kind=kind,
        centre_mm=centre_mm,
        volume_ml=volume,
        suv=float(np.clip(base_suv * np.exp(rng.normal(0, 0.4)), MIN_SUV, MAX_SUV)),
        axes=(float(axes[0]), float(axes[1]), float(axes[2])),
        lobes=int(rng.integers(1, 7)) if large else int(rng.integers(1, 3)),
        irregular=float(rng.uniform(0.05, 0.5) if large else rng.uniform(0.0, 0.3)),
        core=float(rng.uniform(0.35, 0.85)) if necrotic else 0.0,
        core_suv=float(rng.uniform(0.05, 0.55)),
        core_in_mask=bool(rng.random() < 0.5),
        patchy=float(rng.uniform(0.0, 0.55)) if large else float(rng.uniform(0, 0.25)),
        grain=float(rng.uniform(0.2, 0.9)),
        fading=float(rng.choice([0.0, rng.uniform(0.1, 0.7)])),
        hu=float(rng.uniform(*traits.hu)),
        bone=float(rng.choice([0.0, rng.uniform(-250, -60), rng.uniform(150, 800)], p=[0.4, 0.3, 0.3])),
    )


def draw_lesions(anatomy: Anatomy, rng: np.random.Generator) -> list[Lesion]:
    """The tumours of one patient: one to three kinds, that share a level of uptake."""
    names = list(KINDS)
    weights = np.array([KINDS[name].weight for name in names])
    count = int(rng.integers(*COUNTS[rng.choice(len(COUNTS), p=COUNT_CHANCES)], endpoint=True))
    kinds = list(rng.choice(names, min(count, int(rng.integers(1, 5))), replace=False, p=weights / weights.sum()))
    if count > 4 and not any(KINDS[k].many for k in kinds):
        kinds.append("bone" if rng.random() < 0.4 else "lung" if rng.random() < 0.4 else "liver")
    base = float(np.clip(np.exp(rng.normal(np.log(7.0), 0.65)), 2.5, 38.0))
    where = _Places(anatomy)
    lesions: list[Lesion] = []
    made = dict.fromkeys(kinds, 0)
    for attempt in range(4 * count + 8):
        if attempt == 4 and not lesions:
            # This body has no place for them, as a man has none for a tumour of the uterus.
            kinds.append("liver")
            made["liver"] = 0
        kind = str(rng.choice([k for k in kinds if made[k] < (60 if KINDS[k].many else 4)] or kinds))
        centre = where.draw(KINDS[kind], rng)
        if centre is not None:
            made[kind] += 1
            lesions.append(draw_lesion(kind, centre, base, rng))
        if len(lesions) == count:
            break
    return lesions


class _Places:
    """Voxels of each label on a coarse grid, to pick centres from."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        coarse = anatomy.tissues[::2, ::3, ::3]
        flat = coarse.ravel()
        self.order = np.argsort(flat, kind="stable")
        self.edges = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=256))])
        self.shape = coarse.shape
        self.steps = np.asarray(anatomy.spacing_mm) * (2, 3, 3)

    def draw(self, kind: Kind, rng: np.random.Generator) -> tuple[float, float, float] | None:
        """A centre for a tumour of this kind; None where the body has no place for it."""
        spot = self._near(kind, rng) if kind.near else self._within(kind, rng)
        if spot is None:
            return None
        index = np.rint(spot / self.anatomy.spacing_mm).astype(int)
        if (index < 0).any() or (index >= self.anatomy.tissues.shape).any():
            return None
        if self.anatomy.tissues[tuple(index)] in (Tissue.AIR, Tissue.AIRWAY, Tissue.URINE, Tissue.GREY):
            return None
        return float(spot[0]), float(spot[1]), float(spot[2])

    def _within(self, kind: Kind, rng: np.random.Generator) -> Array | None:
        sizes = np.array([self.edges[t + 1] - self.edges[t] for t in kind.tissues])
        if not sizes.sum():
            return None
        label = kind.tissues[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
        flat = self.order[self.edges[label] + rng.integers(self.edges[label + 1] - self.edges[label])]
        spot: Array = np.array(np.unravel_index(flat, self.shape)) * self.steps + rng.uniform(-2, 2, 3)
        return spot

    def _near(self, kind: Kind, rng: np.random.Generator) -> Array | None:
        name = str(rng.choice(kind.near))
        points = self.anatomy.lines.get(name, self.anatomy.spots.get(name))
        if points is None:
            return None
        points = np.atleast_2d(points)
        point = points[rng.integers(len(points))]
        away = rng.normal(0, 1, 3)
        spot: Array = point + away / np.linalg.norm(away) * rng.uniform(*kind.apart_mm)
        return spot
