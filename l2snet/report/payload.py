"""What the viewer in the page needs, small: images in 256 levels, and exact numbers where a lesion could be.

Images are cut to the body. A level is finer than the images' noise: SUV 0.05 to SUV 5, an even ratio beyond; 4 HU in
soft tissue. Whatever the table counts (SUV, SUVpeak, probability) goes as float32 for every voxel that a threshold
could bring into the mask, so that the page computes what the program computes.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np
from scipy import ndimage

from l2snet.measure.peak import sphere_weights
from l2snet.report.findings import LEAST_THRESHOLD, Findings
from l2snet.report.manifest import Rule
from l2snet.report.views import Box
from l2snet.volume import Array, Geometry, Volume

LEVELS = 256
FINE_SUV, FINE_STEP = 5.0, 0.05
MAP_LEVELS = 200
HU_LEVELS = np.concatenate(
    [np.arange(-1000, -200, 20), np.arange(-200, 300, 4), np.arange(300, 2100, 20), [3000.0]]
).astype(np.float32)


def rule_of(findings: Findings) -> Rule | None:
    """The rule that the sliders move: None where no rule of thresholds made the mask, as where it was edited.

    Raises
    ------
    InputError : the manifest tells no number for a threshold of the rule.
    """
    return None if findings.is_edited else findings.rule


def payload(findings: Findings) -> tuple[dict[str, Any], dict[str, str]]:
    """What the viewer is told, and the packed arrays by name.

    Returns
    -------
    The first is small and goes into JSON; the second are arrays, gzipped, in base64: `pet`, `ct`, `map_probability` and
    `map_cue` in levels, `labels`, and of each voxel that could be in the mask `index`, `suv`, `peak`, `probability` and
    `on_cue`.
    """
    box, geometry = findings.box, findings.suv.geometry
    suv = findings.suv.array[box]
    suv_levels = levels_of(float(suv.max()))
    labels = findings.labels[box]
    packed = {"pet": pack(to_levels(suv, suv_levels)), "labels": pack(labels.astype("<u4"))}
    told: dict[str, Any] = {
        "size": labels.shape[::-1],
        "affine": ras_affine(geometry, box).tolist(),
        "voxel_ml": geometry.voxel_ml,
        "suv_levels": suv_levels.tolist(),
        "surface_m2": findings.surface_m2,
        "rules": {"smallest_ml": findings.rules.smallest_ml, "suv_floor": findings.rules.suv_floor},
        "map_levels": MAP_LEVELS,
        **dict.fromkeys(("hu_levels", "rule")),
    }
    if findings.ct is not None:
        packed["ct"] = pack(to_levels(findings.ct.array[box], HU_LEVELS))
        told["hu_levels"] = HU_LEVELS.tolist()
    probability, cue = (None if v is None else v.canonical().array[box] for v in (findings.probability, findings.cue))
    for name, array in ("probability", probability), ("cue", cue):
        if array is not None:
            packed[f"map_{name}"] = pack((array * MAP_LEVELS + 0.5).astype(np.uint8))
    rule = rule_of(findings)
    if rule is not None and probability is not None:
        told["rule"] = {
            "off": rule.off,
            "on": rule.on,
            "cue": rule.cue,
            "cued": rule.cued,
            "least_overlap": rule.least_overlap,
            "least": least_threshold(rule),
        }
        packed |= candidates(findings.suv, box, probability, cue, labels, rule)
    return told, packed


def candidates(
    suv: Volume, box: Box, probability: Array, cue: Array | None, labels: Array, rule: Rule
) -> dict[str, str]:
    """Packed numbers of each voxel that is in the mask, or above the least threshold."""
    possible = (probability > np.float32(least_threshold(rule))) | (labels > 0)
    index = np.flatnonzero(possible).astype("<u4")
    arrays = {
        "index": np.diff(index, prepend=np.uint32(0)).astype("<u4"),
        "suv": suv.array[box][possible].astype("<f4"),
        "peak": sphere_means(suv, box, possible).astype("<f4"),
        "probability": probability[possible].astype("<f4"),
    }
    if cue is not None and rule.cue is not None:
        arrays["on_cue"] = (cue[possible] > np.float32(rule.cue)).astype(np.uint8)
    return {name: pack(array) for name, array in arrays.items()}


def sphere_means(suv: Volume, box: Box, where: Array) -> Array:
    """(n,) mean SUV in the sphere of 1 ml around each voxel of a (z, y, x) mask of the box, as SUVpeak takes it."""
    weights = sphere_weights(suv.geometry.spacing_mm)
    means = np.zeros(where.shape)
    blobs, _ = ndimage.label(where, np.ones((3, 3, 3)))
    reach = [n // 2 for n in weights.shape]
    for part in ndimage.find_objects(blobs):
        # The sphere may reach beyond the box, and beyond the image, where nothing counts.
        starts = [b.start + p.start - n for b, p, n in zip(box, part, reach, strict=True)]
        stops = [b.start + p.stop + n for b, p, n in zip(box, part, reach, strict=True)]
        near = tuple(slice(max(0, a), min(n, b)) for a, b, n in zip(starts, stops, suv.geometry.size, strict=True))
        here = tuple(
            slice(b.start + p.start - n.start, b.start + p.stop - n.start)
            for b, p, n in zip(box, part, near, strict=True)
        )
        sums = ndimage.correlate(suv.array[near].astype(np.float64), weights, mode="constant")[here]
        known = ndimage.correlate(np.ones([n.stop - n.start for n in near]), weights, mode="constant")[here]
        inside = where[part]
        means[part][inside] = (sums / known)[inside]
    found: Array = means[where]
    return found


def least_threshold(rule: Rule) -> float:
    """Where the sliders begin."""
    return min([LEAST_THRESHOLD, rule.off, *([] if rule.on is None else [rule.on])])


def levels_of(highest: float) -> Array:
    """The SUV of each of 256 levels: even steps to SUV 5, then even ratios to the highest."""
    fine = np.arange(0, FINE_SUV + FINE_STEP / 2, FINE_STEP)
    coarse = np.geomspace(FINE_SUV, max(highest, 2 * FINE_SUV), LEVELS - len(fine) + 1)[1:]
    return np.concatenate([fine, coarse]).astype(np.float32)


def to_levels(values: Array, levels: Array) -> Array:
    """The nearest level of each value, as uint8."""
    between = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    return np.searchsorted(between, values.ravel()).astype(np.uint8).reshape(values.shape)


def ras_affine(geometry: Geometry, box: Box) -> Array:
    """(4, 4) of the cut grid as NIfTI has it: (x, y, z) index to millimetres to the right, anterior, superior."""
    start = tuple(part.start for part in box)
    cut = geometry.crop(start, (1, 1, 1)).affine
    affine = cut[:, [2, 1, 0, 3]].copy()
    affine[:2] *= -1
    return affine


def pack(array: Array) -> str:
    """Gzipped, in base64."""
    return base64.b64encode(gzip.compress(np.ascontiguousarray(array).tobytes(), 6, mtime=0)).decode("ascii")
