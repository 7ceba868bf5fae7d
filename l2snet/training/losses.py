"""The paper's losses: (weighted) binary cross-entropy plus (weighted) Dice (sections 3.2 and 3.3, equations 1 to 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from l2snet.organs import CLASSES, SHARES, OrganClass
from l2snet.training.distributed import total

# Added above and below the Dice fraction: a batch without lesion has Dice 1 when nothing is predicted.
DICE_SMOOTHING = 1.0


class BceDice(nn.Module):
    """`bce_dice`, and `organ_entropy` where organs are learnt, of the network's output and the sample.

    Parameters
    ----------
    organ_weight : of the organs' cross-entropy.
    """

    def __init__(self, bce_weight: float = 1.0, organ_weight: float = 0.0) -> None:
        super().__init__()
        self.bce_weight, self.organ_weight = bce_weight, organ_weight

    def forward(self, output: Tensor | tuple[Tensor, Tensor], sample: Mapping[str, Tensor]) -> Tensor:
        """`output` are logits (n, 1, ...) of lesions, or they and the organs'.

        The sample has `truth`, and may have `weight` and `organs`.
        """
        lesions, organs = (output, None) if isinstance(output, Tensor) else output
        loss = bce_dice(lesions, sample["truth"], sample.get("weight"), self.bce_weight)
        return (
            loss
            if organs is None
            else loss + self.organ_weight * organ_entropy(organs, sample["organs"], sample.get("weight"))
        )


def organ_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean cross-entropy of organ classes over the voxels whose class is known, a scalar.

    A class weighs by the inverse of its share of a body (`l2snet.organs.SHARES`).

    Parameters
    ----------
    logits : (n, classes, ...), maybe on coarser voxels, each of which takes the label of one voxel within it.
    labels : (n, 1, ...) uint8 `OrganClass`.
    weight : (n, 1, ...) voxel weights; None for 1 everywhere.
    """
    steps = [fine // coarse for fine, coarse in zip(labels.shape[2:], logits.shape[2:], strict=True)]
    within = (slice(None), *(slice(step // 2, None, step) for step in steps))
    labels = labels[:, 0][within].long()
    weights = torch.ones_like(labels, dtype=torch.float32) if weight is None else weight[:, 0][within].float()
    balance = torch.ones(OrganClass.UNKNOWN + 1, device=labels.device)
    balance[:CLASSES] = 1 / (CLASSES * torch.tensor(SHARES, device=labels.device))
    weights = weights * balance[labels] * (labels != OrganClass.UNKNOWN)
    entropy = functional.cross_entropy(logits.float(), labels, ignore_index=OrganClass.UNKNOWN, reduction="none")
    sums = total(torch.stack([(weights * entropy).sum(), weights.sum()]))
    loss: Tensor = sums[0] / sums[1].clamp(min=1e-3)  # no voxel of a known class: 0
    return loss


def bce_dice(logits: Tensor, truth: Tensor, weight: Tensor | None = None, bce_weight: float = 1.0) -> Tensor:
    """bce_weight x BCE^w + Dice^w, a scalar.

    Parameters
    ----------
    logits, truth : (n, 1, ...); truth is 0 or 1.
    weight : (n, 1, ...) voxel weights, 1 + P_loc in phase 2; None for 1 everywhere (phase 1).
        BCE^w = sum(w bce) / sum(w); Dice^w = 1 - (2 sum(w p g) + e) / (sum(w p) + sum(w g) + e), over the whole batch,
        of all processes, so that it is defined on slices without lesion (four in five are).
    """
    logits, truth = logits.float(), truth.float()
    weight = torch.ones_like(truth) if weight is None else weight.float()
    bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = torch.sigmoid(logits)
    sums = [
        (weight * probability * truth).sum(),
        (weight * probability).sum() + (weight * truth).sum(),
        (weight * bce).sum(),
        weight.sum(),
    ]
    overlap, both, entropy, weights = total(torch.stack(sums))
    dice = (2 * overlap + DICE_SMOOTHING) / (both + DICE_SMOOTHING)
    loss: Tensor = bce_weight * entropy / weights + 1 - dice
    return loss
