"""Training of Step-by-Step (Liu et al., section 2): the channels it learns, its loss, its crops, its run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from l2snet.networks import build
from l2snet.prepare.store import prepare_store
from l2snet.preprocess import means
from l2snet.sources.autopet import patients_of
from l2snet.training.augment import appearance_transforms
from l2snet.training.datasets import Readable, Sample, hotter, pet_span, random_start, read_crop, seeded
from l2snet.training.distributed import processes, total, whole_batch
from l2snet.training.loop import fit
from l2snet.training.recipes import StepByStepRecipe
from l2snet.training.store import StoredCase, open_store
from l2snet.training.surroundings import LESION_LEVEL, coarse_levels
from l2snet.training.train import check_names, learnt_from, start_from, tell_without_ct, watched
from l2snet.volume import Array

# What the network's channels are; the first is a mask, the others images in the input's intensities.
CHANNELS = ("lesion", "D1 PET", "D1 CT", "D2 PET", "D2 CT", "D3 PET", "whole PET", "whole CT")


def channels(image: Tensor, levels: Tensor) -> Tensor:
    """What the network is to give: (n, 8, z, y, x) in the order of `CHANNELS`.

    Parameters
    ----------
    image : (n, 2, z, y, x), PET then CT in the network's intensities.
    levels : (n, 1, z, y, x) uint8 of `l2snet.training.surroundings`.

    Returns
    -------
    The lesion mask, then PET and CT within each region and 0 outside. All of it is 0 in a crop without a lesion voxel,
    though surroundings of a lesion beyond its border may reach into it.
    """
    pet, ct = image[:, :1], image[:, 1:2]
    lesion, d1, d2, d3 = ((levels >= LESION_LEVEL - outwards).to(image.dtype) for outwards in range(LESION_LEVEL))
    whole = lesion.amax(dim=(1, 2, 3, 4), keepdim=True)
    all_channels = [lesion, d1 * pet, d1 * ct, d2 * pet, d2 * ct, d3 * pet, pet, ct]
    return torch.cat(all_channels, dim=1) * whole


class AutomaticWeightedLoss(nn.Module):
    """Losses weighted by what is learnt beside the network (Liebel and Körner 2018): sum of 0.5 / p² L + log(1 + p²).

    The weights 0.5 / p² are positive whatever the sign of p, and log(1 + p²) keeps them from falling to 0.

    Parameters
    ----------
    count : of losses; each p starts at 1.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(count))

    @property
    def weights(self) -> Tensor:
        """(count,) what each loss is multiplied with."""
        return 0.5 / self.p**2

    def forward(self, losses: Tensor) -> Tensor:
        """(count,) losses to a scalar."""
        return (self.weights * losses + torch.log1p(self.p**2)).sum()


class StepByStepLoss(nn.Module):
    """DiceFocal on the lesion, mean squared error on each other channel, weighted automatically (section 2.2).

    Dice is of the whole batch, of all processes: of one crop without a lesion it would be 1 whatever is predicted.

    Parameters
    ----------
    count : of the network's channels; with 1, the lesion alone is learnt.
    """

    def __init__(self, count: int = len(CHANNELS)) -> None:
        super().__init__()
        from monai.losses import DiceFocalLoss  # a slow import that L2SNet does without

        self.mask_loss = DiceFocalLoss(sigmoid=True, batch=True)
        self.weighted = AutomaticWeightedLoss(count)

    def forward(self, output: Tensor, sample: Mapping[str, Tensor]) -> Tensor:
        """`output` (n, count, z, y, x); the sample has `image` and `levels`."""
        return self.weighted(self.losses(output, sample))  # type: ignore[no-any-return]  # Module's call

    def losses(self, output: Tensor, sample: Mapping[str, Tensor]) -> Tensor:
        """(count,) the loss of each channel, before its weight; float32 whatever the network's precision."""
        with torch.autocast(output.device.type, enabled=False):
            output = output.float()
            truth = channels(sample["image"].float(), sample["levels"])[:, : output.shape[1]]
            squared = total(((output - truth) ** 2).mean(dim=(0, 2, 3, 4))) / processes()
            mask: Tensor = self.mask_loss(whole_batch(output[:, :1]), whole_batch(truth[:, :1]))
            return torch.cat([mask.reshape(1), squared[1:]])


class CropDataset(Dataset[Sample]):
    """Crops: `image` (2, z, y, x) PET and CT in the network's intensities, `levels` (1, z, y, x) uint8.

    Images are dealt like cards: a pack holds every image once, those with lesions `lesion_repeat` times, and is dealt
    to its end before the next. Where the recipe has shares, the pack holds each data folder's images accordingly.
    It may show lesions hotter (`lesion_gain`) and change the image (`appearance`): what the channels hold is of the
    image as it is shown.
    """

    def __init__(self, cases: Sequence[StoredCase], recipe: StepByStepRecipe) -> None:
        self.cases, self.recipe = list(cases), recipe
        repeats = np.array([recipe.lesion_repeat if case.has_lesions else 1 for case in self.cases], float)
        self.pack = int(repeats.sum())
        if recipe.shares is not None:
            sources = np.array([case.source for case in self.cases])
            repeats *= np.asarray(recipe.shares)[sources] / np.bincount(sources, repeats)[sources]
        self.ends = np.cumsum(repeats) / repeats.sum() * self.pack
        self.appearance = appearance_transforms() if recipe.appearance else None
        self.spans = torch.tensor([pet_span(recipe.pet), 1.0]).reshape(2, 1, 1, 1)

    def __len__(self) -> int:
        return self.recipe.epochs * self.recipe.steps_per_epoch * self.recipe.batch

    def __getitem__(self, index: int) -> Sample:
        recipe, rng = self.recipe, seeded(self.recipe.seed, index)
        case = self.cases[self.dealt(index)]
        start = self._start(case, rng)
        ct = case.ct if case.ct is not None and rng.random() >= recipe.ct_dropout else None
        image, levels = crop_at(start, case.suv, ct, case.levels, recipe, rng)
        if self.appearance is not None:
            changed = self.appearance(image=torch.from_numpy(image) / self.spans)["image"] * self.spans
            image = changed.numpy()
            if ct is None:
                image[1] = 0
        axes = tuple(axis + 1 for axis in recipe.mirror_axes if rng.random() < 0.5)
        image, levels = (np.ascontiguousarray(np.flip(array, axes)) for array in (image, levels))
        return {"image": torch.from_numpy(image), "levels": torch.from_numpy(levels)}

    def dealt(self, index: int) -> int:
        """Number of the case that sample `index` is of."""
        cycle, place = divmod(index, self.pack)
        rng = np.random.default_rng([self.recipe.seed, cycle, 1])  # no sample's
        cards = np.searchsorted(self.ends, np.arange(self.pack) + rng.uniform(0.01, 0.99))
        return int(rng.permutation(cards)[place])

    def _start(self, case: StoredCase, rng: np.random.Generator) -> list[int]:
        """Anywhere, or so that it holds a drawn voxel of a lesion or of normal uptake; in the body's box if it fits."""
        crop, size, kind = self.recipe.span, case.suv.shape, rng.random()
        on_lesion = case.has_lesions and kind < self.recipe.lesion_share
        voxels = case.lesion_voxels if on_lesion else case.hot_voxels
        if not on_lesion and (kind < 1 - self.recipe.hot_share or not voxels.shape[0]):
            return random_start(size, crop, rng)
        row = int(rng.integers(voxels.shape[0]))
        (voxel,) = voxels[row : row + 1, 0:3]
        start = [int(v - rng.integers(c)) for v, c in zip(voxel, crop, strict=True)]
        return [int(np.clip(at, min(0, n - c), max(0, n - c))) for at, n, c in zip(start, size, crop, strict=True)]


def crop_at(
    start: Sequence[int],
    suv: Readable,
    ct: Readable | None,
    levels: Readable,
    recipe: StepByStepRecipe,
    rng: np.random.Generator | None = None,
) -> tuple[Array, Array]:
    """What the network is shown and taught of the crop that begins at a voxel of the working grid.

    Parameters
    ----------
    start : (z, y, x) voxel; what lies beyond the arrays is air.
    suv, ct : (z, y, x) on the working grid, SUV and HU; no CT is shown blank.
    levels : (z, y, x) uint8 of `l2snet.training.surroundings`, on the same grid.
    rng : draws the recipe's `lesion_gain`; None: the lesions are shown as hot as they are.

    Returns
    -------
    (2, z, y, x) float32, PET and CT in the network's intensities, and (1, z, y, x) uint8 levels, on coarse voxels.
    """
    shown_levels = coarse_levels(read_crop(levels, start, recipe.span), recipe.stride)
    shown_suv = means(read_crop(suv, start, recipe.span), recipe.stride)
    if rng is not None:
        shown_suv = hotter(shown_suv, (shown_levels == LESION_LEVEL).astype(np.float32), recipe.lesion_gain, rng)
    pet = recipe.pet(shown_suv)
    blank = np.zeros_like(pet)
    shown = blank if ct is None else recipe.ct(means(read_crop(ct, start, recipe.span, recipe.ct.low), recipe.stride))
    return np.stack([pet, shown]), shown_levels[None]


def stored_cases(
    data: Sequence[Path], cache: Path, hold_out: Set[str] = frozenset(), resample_ct: bool = False
) -> list[StoredCase]:
    """The cases of `data`, stores or folders of studies, without those held out; a folder gets its store in `cache`.

    Raises
    ------
    InputError : see `check_names`.
    """
    paths = [root if root.is_file() else _store_of(root, cache, resample_ct) for root in data]
    cases = [case for source, path in enumerate(paths) for case in open_store(path, source)]
    patients = patients_of([root for root in data if not root.is_file()])  # a store of an earlier version has none
    cases = [replace(case, patient=patients.get(case.name, case.patient)) for case in cases]
    check_names([(case.name, case.source, case.suv.path) for case in cases], data, hold_out)
    kept = [case for case in cases if case.name not in hold_out]
    tell_without_ct(kept)
    return kept


def train_step_by_step(
    cases: Sequence[StoredCase],
    recipe: StepByStepRecipe,
    run: Path,
    device: str = "auto",
    workers: int = 0,
    stop_after: int | None = None,
    pretrained: Path | None = None,
    compiled: bool = False,
    watch: Sequence[StoredCase] = (),
) -> Path:
    """Train the network of Step-by-Step (section 2); returns the checkpoint.

    Parameters
    ----------
    watch : cases that are not trained on, see `watched`.
    """
    if recipe.epoch_is_all_images:
        recipe = replace(recipe, steps_per_epoch=math.ceil(CropDataset(cases, recipe).pack / recipe.batch))
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, recipe.architecture)
    start_from(network, recipe, pretrained, run)
    dataset, criterion = CropDataset(cases, recipe), StepByStepLoss(recipe.channels)
    seen, others = learnt_from(cases), watched(CropDataset, cases, watch, recipe, pretrained)
    return fit(network, dataset, recipe, run, seen, device, workers, stop_after, compiled, criterion, others)


def _store_of(root: Path, cache: Path, resample_ct: bool) -> Path:
    """The store of a folder of studies; written if it is not there."""
    mark = hashlib.sha256(f"{root.resolve()} {resample_ct}".encode()).hexdigest()[:8]
    path = cache / f"{root.resolve().name}-{mark}.lmdb"
    prepare_store([root], path, resample_ct)
    return path
