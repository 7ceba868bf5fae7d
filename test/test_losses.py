"""The loss of equations 1 to 4, by hand. With logit 0 the probability is 1/2, with ln 3 it is 3/4."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from l2snet.organs import CLASSES, SHARES, OrganClass
from l2snet.training.losses import DICE_SMOOTHING, BceDice, bce_dice, organ_entropy

LN3 = log(3)


def row(*values: float) -> Tensor:
    """(1, 1, n), as a one-dimensional image."""
    return torch.tensor(values)[None, None]


def test_smoothing_is_one() -> None:
    assert DICE_SMOOTHING == 1.0


CASES = [
    # bce = ln 2; Dice = (2 x 1/2 + 1) / (1/2 + 1/2 + 1 + 1) = 2/3
    ((0.0, 0.0), (1.0, 0.0), None, log(2) + 1 / 3),
    # p = 3/4, 1/4; bce = -(ln 3/4 + ln 3/4) / 2 = ln 4/3; Dice = (2 x 3/4 + 1) / (3/4 + 1/4 + 1 + 1) = 5/6
    ((LN3, -LN3), (1.0, 0.0), None, log(4 / 3) + 1 / 6),
    # p = 3/4, 3/4; bce = -(ln 3/4 + ln 1/4) / 2; Dice = (3/2 + 1) / (3/2 + 1 + 1) = 5/7
    ((LN3, LN3), (1.0, 0.0), None, (log(4 / 3) + log(4)) / 2 + 2 / 7),
    # The same with weights 2 and 1: bce = (2 ln 4/3 + ln 4) / 3;
    # Dice = (2 x 2 x 3/4 + 1) / (2 x 3/4 + 3/4 + 2 + 1) = 4 / (21/4) = 16/21
    ((LN3, LN3), (1.0, 0.0), (2.0, 1.0), (2 * log(4 / 3) + log(4)) / 3 + 5 / 21),
    # Empty truth, p = 1/2, 1/2: bce = ln 2; Dice = (0 + 1) / (1 + 1)
    ((0.0, 0.0), (0.0, 0.0), None, log(2) + 1 / 2),
    # Empty truth, weights 3 and 1, p = 1/2, 3/4: bce = (3 ln 2 + ln 4) / 4 = 5/4 ln 2;
    # Dice = 1 / (3/2 + 3/4 + 1) = 4/13
    ((0.0, LN3), (0.0, 0.0), (3.0, 1.0), 5 / 4 * log(2) + 9 / 13),
    # All lesion, p = 3/4: bce = ln 4/3; Dice = (2 x 3/2 + 1) / (3/2 + 2 + 1) = 8/9
    ((LN3, LN3), (1.0, 1.0), None, log(4 / 3) + 1 / 9),
]


@pytest.mark.parametrize(("logits", "truth", "weight", "expected"), CASES)
def test_by_hand(
    logits: tuple[float, ...], truth: tuple[float, ...], weight: tuple[float, ...] | None, expected: float
) -> None:
    loss = bce_dice(row(*logits), row(*truth), None if weight is None else row(*weight))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_weight_from_a_cue() -> None:
    """Equation 3, w = 1 + P_loc: P = 1 and 1/2 at p = 3/4 (lesion) and 1/4 (none)."""
    weight = 1 + row(1.0, 0.5)
    # bce = (2 ln 4/3 + 3/2 ln 4/3) / (7/2) = ln 4/3
    # Dice = (2 x 2 x 3/4 + 1) / (2 x 3/4 + 3/2 x 1/4 + 2 + 1) = 4 / (39/8) = 32/39
    loss = bce_dice(row(LN3, -LN3), row(1.0, 0.0), weight)
    assert loss.item() == pytest.approx(log(4 / 3) + 7 / 39, rel=1e-6)


@pytest.mark.parametrize("bce_weight", [0.0, 0.5, 10.0])
def test_bce_weight(bce_weight: float) -> None:
    loss = bce_dice(row(0.0, 0.0), row(1.0, 0.0), bce_weight=bce_weight)
    assert loss.item() == pytest.approx(bce_weight * log(2) + 1 / 3, rel=1e-6)
    sample = {"truth": row(1.0, 0.0)}
    assert BceDice(bce_weight)(row(0.0, 0.0), sample).item() == loss.item()


def test_dice_is_over_the_whole_batch() -> None:
    """Two samples of one voxel are the first case above, split."""
    loss = bce_dice(torch.zeros(2, 1, 1), torch.tensor([1.0, 0.0]).reshape(2, 1, 1))
    assert loss.item() == pytest.approx(log(2) + 1 / 3, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 1, 3, 4, 5)])
def test_weight_of_ones_is_no_weight(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(shape), (torch.rand(shape) < 0.3).float()
    assert bce_dice(logits, truth, torch.ones(shape)).item() == pytest.approx(bce_dice(logits, truth).item(), rel=1e-6)


@pytest.mark.parametrize(("logit", "truth"), [(-200.0, 0.0), (200.0, 1.0)])
def test_perfect_prediction_costs_nothing(logit: float, truth: float) -> None:
    assert bce_dice(torch.full((1, 1, 4), logit), torch.full((1, 1, 4), truth)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_finite_for_extreme_logits(truth: float) -> None:
    logits = torch.tensor([-1e4, -100.0, 100.0, 1e4]).reshape(1, 1, 4).requires_grad_()
    loss = bce_dice(logits, torch.full((1, 1, 4), truth))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_gradient_by_hand() -> None:
    """Logits 0, truth 1 and 0. The gradient of bce is (p - g) / 2 = -1/4, 1/4.

    Dice = N/T with N = 2, T = 3; dDice/dp = (2g T - N) / T^2 = 4/9, -2/9; times p (1 - p) = 1/4: 1/9, -1/18.
    """
    logits = row(0.0, 0.0).requires_grad_()
    bce_dice(logits, row(1.0, 0.0)).backward()
    torch.testing.assert_close(logits.grad, row(-1 / 4 - 1 / 9, 1 / 4 + 1 / 18))


def test_weighted_gradient_by_hand() -> None:
    """As above with weights 3 and 1: bce (-1/2 x 3/4, 1/2 x 1/4); N = 4, T = 3/2 + 1/2 + 3 + 1 = 6.

    dDice/dp = w (2g T - N) / T^2 = 3 x 8/36, -4/36; times 1/4: 1/6, -1/36.
    """
    logits = row(0.0, 0.0).requires_grad_()
    bce_dice(logits, row(1.0, 0.0), row(3.0, 1.0)).backward()
    torch.testing.assert_close(logits.grad, row(-3 / 8 - 1 / 6, 1 / 8 + 1 / 36))


def test_half_precision_is_widened() -> None:
    """bf16 logits and integer truth, as mixed precision and the data give them: the sum is made in float32."""
    loss = bce_dice(torch.zeros(1, 1, 2, dtype=torch.bfloat16), torch.tensor([1, 0], dtype=torch.uint8)[None, None])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(log(2) + 1 / 3, rel=1e-6)


# Organs


def balanced(*pairs: tuple[float, int]) -> float:
    """Mean of (entropy, class) pairs, each class weighted by the inverse of its share."""
    return sum(value / SHARES[label] for value, label in pairs) / sum(1 / SHARES[label] for _, label in pairs)


def test_every_organ_has_a_share() -> None:
    assert len(SHARES) == CLASSES
    assert sum(SHARES) == pytest.approx(1, abs=0.01)


def test_organ_entropy_is_the_balanced_mean_over_known_voxels() -> None:
    # Three classes over two voxels: probabilities 1/2, 1/4, 1/4 and 1/3 each. The third voxel's class is unknown.
    logits = torch.tensor([[[log(2), 0.0, 9.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    labels = torch.tensor([[[0, 2, OrganClass.UNKNOWN]]], dtype=torch.uint8)
    assert organ_entropy(logits, labels).item() == pytest.approx(balanced((log(2), 0), (log(3), 2)), rel=1e-6)


def test_organ_entropy_counts_a_voxel_by_its_weight() -> None:
    logits = torch.tensor([[[log(2), 0.0, 9.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    labels = torch.tensor([[[2, 2, OrganClass.UNKNOWN]]], dtype=torch.uint8)
    weight = torch.tensor([[[3.0, 1.0, 100.0]]])
    assert organ_entropy(logits, labels, weight).item() == pytest.approx((3 * log(4) + log(3)) / 4, rel=1e-6)


def test_organ_entropy_of_nothing_known_is_zero() -> None:
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    loss = organ_entropy(logits, torch.full((1, 1, 2), OrganClass.UNKNOWN, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_organ_entropy_on_coarser_voxels_takes_a_label_within_each() -> None:
    logits = torch.full((1, 2, 1, 2), -20.0)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = 20.0  # class 0, then class 1
    labels = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.uint8)[None, None]
    assert organ_entropy(logits, labels).item() == pytest.approx(0, abs=1e-6)
    labels[..., 0] = 1  # not the voxel that is taken
    assert organ_entropy(logits, labels).item() == pytest.approx(0, abs=1e-6)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 2, 4)
    wrong = torch.full_like(labels, OrganClass.UNKNOWN)
    wrong[0, 0, 1, 1] = wrong[0, 0, 1, 3] = 1  # the first coarse voxel, weight 2, is wrong; the second, 4, right
    assert organ_entropy(logits, wrong, weight).item() == pytest.approx(40 * 2 / 6, rel=1e-5)


def test_organs_are_learnt_beside_the_lesions() -> None:
    sample = {"truth": row(1.0, 0.0), "organs": torch.tensor([[[1, 1]]], dtype=torch.uint8)}
    lesions, organs = row(LN3, -LN3), torch.zeros(1, 2, 2)
    alone = bce_dice(lesions, sample["truth"]).item()
    assert BceDice(organ_weight=3.0)(lesions, sample).item() == pytest.approx(alone)
    assert BceDice(organ_weight=3.0)((lesions, organs), sample).item() == pytest.approx(alone + 3 * log(2))
    weighted = {**sample, "weight": row(3.0, 1.0)}
    alone = bce_dice(lesions, sample["truth"], weighted["weight"]).item()
    organs[0, 1, 0] = LN3  # right with 3 in 4, and it counts three times
    expected = (3 * -log(3 / 4) + log(2)) / 4
    assert BceDice(organ_weight=3.0)((lesions, organs), weighted).item() == pytest.approx(alone + 3 * expected)
