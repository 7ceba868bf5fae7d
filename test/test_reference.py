"""The shipped networks by the engine of `--precision exact` and by PyTorch, from case to mask: nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from organ_phantom import organ_map
from scipy import ndimage

from l2snet.backend import load_reference
from l2snet.case import Case
from l2snet.evaluation.compare import agreement
from l2snet.fuse import CONNECTIVITY
from l2snet.pipeline import L2SNet
from l2snet.sources import challenge
from l2snet.synthesis import synthesize
from l2snet.weights import LOCALIZER, SEGMENTER, find_weights

SAMPLE = Path(__file__).parent / "cases" / "acrin_042" / "input"


@pytest.mark.parametrize(
    "read", [lambda: challenge.read(SAMPLE), lambda: synthesize(organ_map(), 3)], ids=["sample case", "synthetic body"]
)
def test_the_engine_gives_the_masks_of_pytorch(read: Callable[[], Case]) -> None:
    case = read()
    found = L2SNet.from_weights(device="cpu", precision="exact").segment(case)
    reference = L2SNet(*([load_reference(find_weights(role))] for role in (LOCALIZER, SEGMENTER))).segment(case)
    assert found.cue is not None
    assert reference.cue is not None
    np.testing.assert_allclose(found.cue.array, reference.cue.array, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.probability.array, reference.probability.array, rtol=0, atol=1e-4)
    mask, expected = found.mask.array > 0, reference.mask.array > 0
    assert expected.any()
    assert agreement(expected, mask) >= 0.998
    for one, other in ((expected, mask), (mask, expected)):
        labels, count = ndimage.label(one, CONNECTIVITY)
        assert set(np.unique(labels[other])) - {0} == set(range(1, count + 1))
