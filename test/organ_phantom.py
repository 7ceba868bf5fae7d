"""An organ label map of ellipsoids, from which a synthetic body can be drawn without a patient's."""

from __future__ import annotations

import numpy as np

from l2snet.synthesis.drawing import Canvas
from l2snet.synthesis.landmarks import Organ
from l2snet.volume import Geometry, Volume

SPACING = (6.0, 6.0, 6.0)
# Centre and half-axes (z, y, x) in mm: a torso from the pelvis to the vertex.
ELLIPSOIDS = (
    (Organ.BLADDER, (120, 250, 390), (25, 30, 35)),
    (Organ.LIVER, (420, 240, 330), (75, 75, 80)),
    (Organ.SPLEEN, (430, 300, 480), (45, 30, 25)),
    (Organ.STOMACH, (420, 220, 450), (40, 40, 35)),
    (Organ.KIDNEYS, (360, 290, 330), (50, 25, 25)),
    (Organ.KIDNEYS, (365, 290, 450), (50, 25, 25)),
    (Organ.LUNGS, (545, 255, 320), (115, 80, 60)),
    (Organ.LUNGS, (545, 255, 460), (115, 80, 60)),
    (Organ.HEART, (510, 225, 410), (45, 45, 48)),
    (Organ.BRAIN, (880, 250, 390), (60, 80, 66)),
    (Organ.GLANDS, (790, 250, 335), (25, 14, 9)),
    (Organ.GLANDS, (790, 250, 445), (25, 14, 9)),
)


def organ_map() -> Volume:
    labels = np.zeros((160, 84, 132), np.uint8)
    canvas = Canvas(labels, SPACING)
    for organ, centre, semi in ELLIPSOIDS:
        canvas.ellipsoid(centre, semi, organ)
    # The second axis runs to the anterior, as in the organ maps of the autoPET grid.
    direction = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))
    geometry = Geometry(labels.shape, SPACING, (-390.0, 250.0, -900.0), direction)
    return Volume(np.ascontiguousarray(labels[:, ::-1]), geometry)
