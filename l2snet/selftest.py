"""A small case whose answer is known, through the networks (`l2snet doctor`)."""

from __future__ import annotations

import numpy as np

from l2snet.case import Case
from l2snet.errors import L2SNetError
from l2snet.pipeline import Method
from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.volume import Array, Geometry, Volume

# The self-test's body: a warm cylinder, head to foot, with a hot ball to the left.
TEST_SIZE = (64, 96, 96)
BODY_SHARE, BALL_MM, BODY_SUV, BALL_SUV, BODY_HU, OUTSIDE_HU = 0.45, 15.0, 1.0, 12.0, 40.0, -1000.0
# Trained networks see a ball of twelve times the uptake around it; where they do not, they are not what they seem.
MIN_FOUND, MAX_WRONG = 0.5, 0.05


def self_test(method: Method) -> str:
    """Segment a small body with a hot ball twice; what was found.

    Raises
    ------
    L2SNetError : the ball was not found, or too much besides, or the second result is not the first.
    """
    case, ball = body_with_ball()
    first, second = method.segment(case), method.segment(case)
    if not np.isfinite(first.probability.array).all():
        raise L2SNetError("the networks give numbers that are not finite; reinstall the engine, or try another device")
    if first.mask.array.tobytes() != second.mask.array.tobytes():
        raise L2SNetError("the same input gave two masks; the engine or the hardware is at fault, try another device")
    mask = first.mask.array > 0
    found, wrong = mask[ball].mean(), mask[~ball & (case.suv.array > 0)].mean()
    if found < MIN_FOUND or wrong > MAX_WRONG:
        raise L2SNetError(
            f"{found:.0%} of a hot ball and {wrong:.0%} of the warm body around it were marked; expected over "
            f"{MIN_FOUND:.0%} and under {MAX_WRONG:.0%}: are the networks trained?"
        )
    seconds = sum(first.seconds.values()) + sum(second.seconds.values())
    engine = method.settings["engine"]
    return f"{found:.0%} of a hot ball found, {wrong:.1%} wrong, twice the same ({engine}, {seconds:.1f} s)"


def body_with_ball() -> tuple[Case, Array]:
    """The self-test's body, and where its ball is, (z, y, x) bool."""
    grid = Geometry(TEST_SIZE, WORKING_SPACING_MM)
    z, y, x = np.ogrid[tuple(slice(n) for n in TEST_SIZE)]
    z, y, x = ((at - (n - 1) / 2) * s for at, n, s in zip((z, y, x), TEST_SIZE, WORKING_SPACING_MM, strict=True))
    radii = [BODY_SHARE * n * s for n, s in zip(TEST_SIZE, WORKING_SPACING_MM, strict=True)]
    body = np.broadcast_to((y / radii[1]) ** 2 + (x / radii[2]) ** 2 < 1, TEST_SIZE)
    ball = z**2 + (y + 0.3 * radii[1]) ** 2 + (x - 0.4 * radii[2]) ** 2 < BALL_MM**2
    suv = np.where(ball, BALL_SUV, np.where(body, BODY_SUV, 0.0)).astype(np.float32)
    hu = np.where(body, BODY_HU, OUTSIDE_HU).astype(np.float32)
    return Case("self-test", Volume(suv, grid), Volume(hu, grid)), ball
