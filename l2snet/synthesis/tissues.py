"""The tissues of a synthetic body, and the FDG uptake and CT number that each may have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from l2snet.organs import OrganClass
from l2snet.volume import Array


class Tissue(IntEnum):
    """Labels of the tissue map. Muscles, bowel and marrow come in several parts so that each may take up its own."""

    AIR = 0
    SKIN = 1
    FAT = 2
    VISCERAL_FAT = 3
    CORTEX = 4
    MARROW = 5
    FATTY_MARROW = 6
    DISC = 7
    CARTILAGE = 8
    LUNG = 9
    AIRWAY = 10
    HEART_WALL = 11
    BLOOD = 12
    LIVER = 13
    SPLEEN = 14
    KIDNEY = 15
    KIDNEY_PELVIS = 16
    URETER = 17
    URINE = 18
    BLADDER_WALL = 19
    STOMACH_WALL = 20
    STOMACH_CONTENT = 21
    GAS = 22
    OESOPHAGUS = 23
    THYROID = 24
    LARYNX = 25
    TONSIL = 26
    SALIVARY = 27
    TONGUE = 28
    EYE = 29
    EYE_MUSCLE = 30
    GREY = 31
    WHITE = 32
    CEREBROSPINAL = 33
    DEEP_GREY = 34
    CEREBELLUM = 35
    CORD = 36
    PANCREAS = 37
    GALLBLADDER = 38
    ADRENAL = 39
    BREAST = 40
    TESTIS = 41
    UTERUS = 42
    OVARY = 43
    PROSTATE = 44
    TOOTH = 45
    MUCOSA = 46
    LUNG_VESSEL = 47
    URETER_HOT = 48
    NIPPLE = 49
    STOOL = 50
    BOWEL_FLUID = 51
    THYMUS = 52
    SINUS_FAT = 53
    METAL = 54
    ANUS = 55
    MUSCLE = 60  # 60..71, by group
    COLON = 80  # 80..87, by segment
    SMALL_BOWEL = 90  # 90..101, by loop


MUSCLE_GROUPS = 12
COLON_SEGMENTS = 8
BOWEL_LOOPS = 12
(M_TRUNK, M_BACK, M_PSOAS, M_NECK, M_GLUTEAL, M_PECTORAL, M_SHOULDER_R, M_SHOULDER_L, M_THIGH_R, M_THIGH_L, M_FACE,
 M_DIAPHRAGM) = range(Tissue.MUSCLE, Tissue.MUSCLE + MUSCLE_GROUPS)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a tissue looks; ranges are between patients and deliberately wider than what is usual.

    Attributes
    ----------
    suv : lowest and highest mean SUV, drawn log-uniformly.
    hu : lowest and highest mean CT number without contrast medium.
    contrast_hu : what a contrast medium adds at most.
    suv_texture : variation of SUV inside the tissue, over its mean.
    hu_texture : variation of HU inside the tissue.
    """

    suv: tuple[float, float]
    hu: tuple[float, float]
    contrast_hu: float = 10.0
    suv_texture: float = 0.10
    hu_texture: float = 6.0


# Sources: Wang et al. 2007, Mol Imaging Biol 9:83 (SUV of normal tissues); Zincirkeser et al. 2007, J Int Med Res
# 35:231 (the same); Cohade et al. 2003, J Nucl Med 44:170 (brown fat); Gontier et al. 2008, EJNMMI 35:95 (bowel under
# metformin); Boellaard et al. 2015, EJNMMI 42:328 (EANM procedure guideline). HU: common radiological values.
# All are widened: a network that has seen more than reality copes with it.
LOOKS: dict[int, Look] = {
    Tissue.SKIN: Look((0.35, 1.1), (0, 50), 10, 0.25),
    Tissue.FAT: Look((0.10, 0.55), (-115, -85), 0, 0.25, 6),
    Tissue.VISCERAL_FAT: Look((0.18, 0.6), (-112, -80), 3, 0.30, 8),
    Tissue.CORTEX: Look((0.4, 1.4), (650, 1350), 0, 0.15, 120),
    Tissue.MARROW: Look((0.75, 2.2), (110, 280), 15, 0.15, 45),
    Tissue.FATTY_MARROW: Look((0.15, 0.7), (-60, 60), 0, 0.2, 20),
    Tissue.DISC: Look((0.35, 1.0), (70, 110), 0),
    Tissue.CARTILAGE: Look((0.4, 1.0), (60, 150), 0, 0.15, 20),
    Tissue.LUNG: Look((0.22, 0.7), (-890, -690), 15, 0.22, 25),
    Tissue.AIRWAY: Look((0.05, 0.2), (-1000, -960), 0, 0.0, 4),
    Tissue.HEART_WALL: Look((1.0, 18.0), (38, 50), 70, 0.15),
    Tissue.BLOOD: Look((1.0, 2.3), (33, 50), 200, 0.05, 4),
    Tissue.LIVER: Look((1.4, 3.2), (38, 66), 60, 0.06, 5),
    Tissue.SPLEEN: Look((1.1, 2.8), (42, 55), 70, 0.06, 5),
    Tissue.KIDNEY: Look((1.4, 4.0), (26, 38), 150, 0.15, 8),
    Tissue.KIDNEY_PELVIS: Look((3.0, 40.0), (0, 15), 300, 0.35, 10),
    Tissue.URETER: Look((0.8, 2.0), (10, 35), 60),
    Tissue.URETER_HOT: Look((4.0, 50.0), (5, 30), 250, 0.3),
    Tissue.URINE: Look((3.0, 80.0), (-2, 16), 15, 0.05, 3),
    Tissue.BLADDER_WALL: Look((1.0, 3.0), (25, 45), 30),
    Tissue.STOMACH_WALL: Look((0.9, 4.5), (28, 45), 50, 0.30, 8),
    Tissue.STOMACH_CONTENT: Look((0.3, 1.5), (-5, 50), 0, 0.2, 25),
    Tissue.GAS: Look((0.1, 0.4), (-990, -880), 0, 0.1, 10),
    Tissue.OESOPHAGUS: Look((0.9, 3.2), (25, 45), 40, 0.25),
    Tissue.THYROID: Look((0.8, 2.4), (70, 125), 90),
    Tissue.LARYNX: Look((0.8, 5.0), (40, 120), 20, 0.25, 30),
    Tissue.TONSIL: Look((1.5, 8.0), (30, 50), 40),
    Tissue.SALIVARY: Look((0.9, 4.5), (-10, 50), 50),
    Tissue.TONGUE: Look((0.7, 3.5), (35, 60), 25, 0.2),
    Tissue.EYE: Look((0.3, 1.0), (5, 20), 0),
    Tissue.EYE_MUSCLE: Look((1.5, 7.0), (40, 60), 20),
    Tissue.GREY: Look((4.5, 16.0), (34, 42), 8, 0.10, 3),
    Tissue.WHITE: Look((2.0, 5.0), (26, 34), 5, 0.08, 3),
    Tissue.CEREBROSPINAL: Look((0.4, 1.5), (0, 15), 0),
    Tissue.DEEP_GREY: Look((5.0, 17.0), (34, 42), 8),
    Tissue.CEREBELLUM: Look((3.5, 10.0), (32, 42), 8),
    Tissue.CORD: Look((0.9, 3.0), (25, 40), 5, 0.15),
    Tissue.PANCREAS: Look((0.8, 2.4), (15, 45), 60, 0.15, 10),
    Tissue.GALLBLADDER: Look((0.4, 1.6), (0, 20), 0),
    Tissue.ADRENAL: Look((0.9, 3.5), (5, 38), 40),
    Tissue.BREAST: Look((0.35, 1.8), (-30, 40), 25, 0.3, 25),
    Tissue.TESTIS: Look((1.5, 5.0), (20, 40), 20),
    Tissue.UTERUS: Look((0.9, 4.0), (35, 55), 70, 0.2, 8),
    Tissue.OVARY: Look((0.8, 6.5), (10, 40), 40),
    Tissue.PROSTATE: Look((0.9, 3.0), (30, 45), 30),
    Tissue.TOOTH: Look((0.3, 1.2), (1300, 2400), 0, 0.2, 300),
    Tissue.MUCOSA: Look((0.7, 3.0), (20, 60), 40, 0.2),
    Tissue.LUNG_VESSEL: Look((0.7, 1.5), (0, 40), 150, 0.1, 15),
    Tissue.NIPPLE: Look((0.8, 3.0), (20, 50), 10),
    Tissue.STOOL: Look((0.5, 3.0), (-120, 60), 30, 0.4, 140),
    Tissue.BOWEL_FLUID: Look((0.5, 2.5), (-10, 40), 15, 0.25, 15),
    Tissue.THYMUS: Look((0.5, 3.5), (-60, 40), 15, 0.2, 15),
    Tissue.SINUS_FAT: Look((0.6, 2.0), (-100, -40), 10, 0.2),
    Tissue.METAL: Look((0.2, 0.8), (2500, 3071), 0, 0.0, 100),
    Tissue.ANUS: Look((0.9, 5.0), (35, 55), 20),
}
MUSCLE_LOOK = Look((0.45, 1.6), (38, 64), 12, 0.15, 9)
COLON_LOOK = Look((0.7, 3.6), (22, 42), 45, 0.35)
BOWEL_LOOK = Look((0.7, 3.2), (22, 42), 60, 0.35)
FIRST_OF_MANY = (
    (Tissue.MUSCLE, MUSCLE_GROUPS, MUSCLE_LOOK),
    (Tissue.COLON, COLON_SEGMENTS, COLON_LOOK),
    (Tissue.SMALL_BOWEL, BOWEL_LOOPS, BOWEL_LOOK),
)
MUSCLES = tuple(range(Tissue.MUSCLE, Tissue.MUSCLE + MUSCLE_GROUPS))
COLON = tuple(range(Tissue.COLON, Tissue.COLON + COLON_SEGMENTS))
SMALL_BOWEL = tuple(range(Tissue.SMALL_BOWEL, Tissue.SMALL_BOWEL + BOWEL_LOOPS))
BONES = (Tissue.CORTEX, Tissue.MARROW, Tissue.FATTY_MARROW)
FATS = (Tissue.FAT, Tissue.VISCERAL_FAT)
GASES = (Tissue.AIR, Tissue.AIRWAY, Tissue.GAS)


def look_of(label: int) -> Look:
    """The look of any label of the tissue map."""
    for first, count, look in FIRST_OF_MANY:
        if first <= label < first + count:
            return look
    return LOOKS[label]


def all_labels() -> list[int]:
    """Every label but air."""
    return [*LOOKS, *MUSCLES, *COLON, *SMALL_BOWEL]


def among(*labels: int) -> Array:
    """(256,) bool: which labels are among the given ones."""
    chosen = np.zeros(256, bool)
    chosen[list(labels)] = True
    return chosen


def _organ_of_tissue() -> Array:
    """(256,) uint8: the class of organs that a tissue belongs to."""
    members = {
        OrganClass.OUTSIDE: (Tissue.AIR,),
        OrganClass.MUSCLE: MUSCLES,
        OrganClass.BONE: BONES,
        OrganClass.LUNG: (Tissue.LUNG, Tissue.AIRWAY, Tissue.LUNG_VESSEL),
        OrganClass.HEART_WALL: (Tissue.HEART_WALL,),
        OrganClass.BLOOD: (Tissue.BLOOD,),
        OrganClass.LIVER: (Tissue.LIVER,),
        OrganClass.SPLEEN: (Tissue.SPLEEN,),
        OrganClass.KIDNEY: (Tissue.KIDNEY, Tissue.KIDNEY_PELVIS, Tissue.SINUS_FAT),
        OrganClass.URINE: (Tissue.URETER, Tissue.URETER_HOT, Tissue.URINE, Tissue.BLADDER_WALL),
        OrganClass.STOMACH: (Tissue.STOMACH_WALL, Tissue.STOMACH_CONTENT),
        OrganClass.BOWEL: (*COLON, *SMALL_BOWEL, Tissue.GAS, Tissue.STOOL, Tissue.BOWEL_FLUID, Tissue.ANUS),
        OrganClass.BRAIN: (Tissue.GREY, Tissue.WHITE, Tissue.DEEP_GREY, Tissue.CEREBELLUM, Tissue.CEREBROSPINAL),
        OrganClass.HEAD_AND_NECK: (
            *(Tissue.THYROID, Tissue.LARYNX, Tissue.TONSIL, Tissue.SALIVARY, Tissue.TONGUE),
            *(Tissue.EYE, Tissue.EYE_MUSCLE, Tissue.MUCOSA),
        ),
    }
    classes = np.full(256, OrganClass.OTHER, np.uint8)
    for organ, tissues in members.items():
        classes[list(tissues)] = organ
    return classes


ORGAN_OF_TISSUE = _organ_of_tissue()
