"""Classes of organs, which the networks may learn beside the lesions: where normal uptake is."""

from __future__ import annotations

from enum import IntEnum


class OrganClass(IntEnum):
    """Labels of a study's organ map, `ORGANS.nii.gz`. `UNKNOWN` voxels teach nothing."""

    OUTSIDE = 0
    OTHER = 1
    MUSCLE = 2
    BONE = 3
    LUNG = 4
    HEART_WALL = 5
    BLOOD = 6  # chambers of the heart and large vessels
    LIVER = 7
    SPLEEN = 8
    KIDNEY = 9
    URINE = 10  # ureters and bladder
    STOMACH = 11
    BOWEL = 12
    BRAIN = 13
    HEAD_AND_NECK = 14  # glands, tonsils, thyroid, larynx, tongue, eyes, mucosa
    LESION = 15  # in training alone, in place of what it lies in
    UNKNOWN = 255


CLASSES = len(OrganClass) - 1  # without UNKNOWN
# Share of each class in slices of synthetic bodies, roughly. Small organs are what is hot; fat and muscle drown them
# in a loss without balance.
SHARES = (0.35, 0.24, 0.2, 0.03, 0.05, 0.002, 0.022, 0.033, 0.0044, 0.006, 0.003, 0.008, 0.034, 0.004, 0.0015, 0.004)
