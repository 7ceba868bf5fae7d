"""Findings that report tests share: a phantom, and the sample case with probability and cue made from its mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from l2snet import fuse
from l2snet.case import Case
from l2snet.report.findings import Findings, find
from l2snet.sources import challenge
from l2snet.volume import Geometry, Volume, read_volume

SAMPLE = Path(__file__).parent / "cases" / "acrin_042"
ON, OFF, CUE = 0.1, 0.5, 0.5
MANIFEST = {
    "method": "l2snet",
    "fusion": "adaptive",
    "thresholds": {"cue": CUE, "on_cue": ON, "off_cue": OFF},
    "least_overlap": fuse.LEAST_OVERLAP,
    "weights_sha256": {"localizer": ["a1" * 32], "segmenter": ["b2" * 32]},
    "l2snet": "9.8.7",
    "packages": {"numpy": "1.2.3"},
    "python": "3.99",
    "engine": "abacus",
    "notes": ["the PET was resampled"],
    "seconds": {"segment": 12.5},
}
HOSTILE = """</script><script>alert(1)</script>"'><img src=x onerror=alert(2)>{{7*7}}&amp;\u2028"""


def phantom_case(name: str = "phantom", geometry: Geometry | None = None, with_ct: bool = True) -> Case:
    """A warm body in noise, with three hot places; the truth is the first and one that is not hot."""
    grid = geometry or Geometry((40, 30, 36), (3.0, 4.0, 4.0), (-70.0, -60.0, -500.0))
    z, y, x = np.indices(grid.size)
    body = ((y - 14.5) / 13) ** 2 + ((x - 17.5) / 16) ** 2 < 1
    suv = np.where(body, 1.0, 0.0) + np.random.default_rng(0).uniform(0, 0.1, grid.size)
    for at, radius, hot in ((28, 12, 10), 3.2, 9.0), ((12, 16, 24), 2.3, 6.0), ((6, 10, 14), 1.4, 4.0):
        suv[sum((i - c) ** 2 for i, c in zip((z, y, x), at, strict=True)) < radius**2] += hot
    truth = (sum((i - c) ** 2 for i, c in zip((z, y, x), (28, 12, 11), strict=True)) < 9) | (
        sum((i - c) ** 2 for i, c in zip((z, y, x), (34, 20, 26), strict=True)) < 5
    )
    ct = Volume(np.where(body, 40.0, -1000.0).astype(np.float32), grid) if with_ct else None
    return Case(name, Volume(suv.astype(np.float32), grid), ct, Volume(truth.astype(np.float32), grid))


def phantom(
    name: str = "phantom", with_ct: bool = True, truth: bool = True, fusion: str = MANIFEST["fusion"]
) -> Findings:
    """The phantom as the method would have it: a probability that falls with SUV, a cue in its upper half."""
    case = phantom_case(name, with_ct=with_ct)
    if not truth:
        case = Case(case.name, case.suv, case.ct)
    probability = np.clip((ndimage.gaussian_filter(case.suv.array, 0.7) - 1) / 6, 0, 1).astype(np.float32)
    cue = (np.indices(probability.shape)[0] / probability.shape[0]).astype(np.float32)
    return fused(case, probability, cue, {**MANIFEST, "fusion": fusion})


def sample() -> Findings:
    """The sample case, its expected mask blurred to a probability."""
    case = challenge.read(SAMPLE / "input")
    (path,) = (SAMPLE / "expected_output" / challenge.OUTPUT).iterdir()
    mask = read_volume(path, "mask").array
    return fused(case, ndimage.gaussian_filter(mask, 0.8), ndimage.maximum_filter(mask, 3) * np.float32(0.6))


def fused(case: Case, probability: np.ndarray, cue: np.ndarray, manifest: dict = MANIFEST) -> Findings:
    mask = getattr(fuse, manifest["fusion"])(probability, cue, ON, OFF, CUE)
    return find(case, mask, case.suv.with_array(probability), case.suv.with_array(cue), manifest)


def at_thresholds(findings: Findings, on: float, off: float) -> Findings:
    """The same case with the mask at other thresholds, as the program computes it."""
    assert findings.probability is not None
    assert findings.cue is not None
    rule = getattr(fuse, findings.manifest["fusion"])
    mask = rule(findings.probability.array, findings.cue.array, on, off, CUE)
    return find(findings.case, mask, findings.probability, findings.cue, findings.manifest)
