"""Training samples, drawn by number: sample `i` of a seed is always the same, so that runs resume exactly."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from l2snet.organs import OrganClass
from l2snet.preprocess import LogScale, Window, fullest, means
from l2snet.training.augment import slice_transforms, window_transforms
from l2snet.training.cache import HOT_SUV, CachedCase
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe
from l2snet.volume import Array

# A crop this much larger is read, so that rotation and scaling bring in tissue and not air at the corners.
MARGIN = 1.25

Sample = dict[str, Tensor]


class Readable(Protocol):
    """An array on disk, of which a slice reads what it has to: memory-mapped (the cache), or in an LMDB store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size."""

    @property
    def ndim(self) -> int:
        """Its number of axes."""

    def __getitem__(self, key: tuple[slice, ...], /) -> Array:
        """A part of it."""


class SliceDataset(Dataset[Sample]):
    """Coronal PET slices for phase 1: `image` (slices, z, x) in the recipe's window, `truth` (1, z, x).

    Where the recipe has them: `weight` (1, z, x), 1 + hot_weight on hot voxels, and `organs` (1, z, x), uint8.
    """

    def __init__(self, cases: Sequence[CachedCase], recipe: LocalizerRecipe) -> None:
        self.cases, self.recipe = list(cases), recipe
        organs = recipe.organ_weight > 0
        self.transforms = slice_transforms(recipe.crop, recipe.rotation_degrees, organs, recipe.appearance)
        has_lesion = {case: case.lesions.any(axis=(0, 2)) for case in self.cases}
        full = {case: np.flatnonzero(has) for case, has in has_lesion.items() if has.any()}
        empty = {case: np.flatnonzero(~has) for case, has in has_lesion.items() if not has.all()}
        self.full, self.empty = _Pool(full, recipe.shares), _Pool(empty, recipe.shares)
        self.slices = {self.full: full, self.empty: empty}

    def __len__(self) -> int:
        return self.recipe.epochs * self.recipe.steps_per_epoch * self.recipe.batch

    def __getitem__(self, index: int) -> Sample:
        rng = seeded(self.recipe.seed, index)
        kind = rng.random()
        pool = self.full if kind < self.recipe.lesion_share else self.empty
        pool = pool or self.full or self.empty
        case = pool.draw(rng)
        y = int(rng.choice(self.slices[pool][case]))
        held: Array | None = None
        if pool is self.full:
            rows, columns = np.nonzero(case.lesions[:, y])
            held = np.stack([rows, columns], 1)
        elif kind > 1 - self.recipe.hot_share and case.hot_voxels:
            hot = case.hot_voxels[rng.integers(len(case.hot_voxels))]
            y = int(hot[rng.integers(len(hot)), 1])
            held = hot[hot[:, 1] == y][:, ::2]
        half = self.recipe.slices // 2
        ys = np.clip(np.arange(y - half, y + half + 1), 0, case.suv.shape[1] - 1)
        start = random_start((case.suv.shape[0], case.suv.shape[2]), self.recipe.crop, rng, held)
        planes = _crop_with_margin(case.suv[:, ys].transpose(1, 0, 2), start, self.recipe.crop)
        lesions = _crop_with_margin(case.lesions[:, y], start, self.recipe.crop)
        labels = [lesions * (planes[half] >= self.recipe.lesion_floor)]
        if self.recipe.organ_weight:
            labels.append(_organ_crop(case, start, self.recipe.crop, y))
            planes = _otherwise(planes, labels[1], self.recipe.organ_gain, rng)
        planes = hotter(planes, lesions, self.recipe.lesion_gain, rng)
        data = {"image": torch.from_numpy(planes), "segmentation": torch.from_numpy(np.stack(labels))}
        data = self.transforms(**data)
        sample = _sample(torch.from_numpy(self.recipe.pet(data["image"].numpy())), data["segmentation"], self.recipe)
        if self.recipe.hot_weight:
            hot = (data["image"][half : half + 1] > HOT_SUV) | (sample["truth"] > 0)
            sample["weight"] = 1 + self.recipe.hot_weight * hot.float()
        if rng.random() < self.recipe.cut_share:
            _cut(sample, _beyond_view(self.recipe.crop[0], rng), self.recipe.pet(np.zeros(1))[0])
        return sample


class WindowDataset(Dataset[Sample]):
    """PET/CT windows for phase 2: `image` (2, z, y, x) as the recipe has it, `truth` (1, z, y, x), `weight` 1 + P_loc.

    Where the recipe has them, `weight` is more by hot_weight on hot voxels, and `organs` (1, z, y, x) are uint8 labels.
    """

    def __init__(self, cases: Sequence[CachedCase], recipe: SegmenterRecipe) -> None:
        if recipe.cue_weight and any(case.cue is None for case in cases):
            raise ValueError("a cue weight needs every case's cue; compute them with a localizer first")
        self.cases, self.recipe = list(cases), recipe
        self.all = _Pool(self.cases, recipe.shares)
        self.with_lesion = _Pool([case for case in self.cases if len(case.lesion_voxels)], recipe.shares)
        self.pet_span = pet_span(recipe.pet)
        self.transforms = window_transforms(recipe.crop, recipe.mirror_axes, recipe.organ_weight > 0)

    def __len__(self) -> int:
        return self.recipe.epochs * self.recipe.steps_per_epoch * self.recipe.batch

    def __getitem__(self, index: int) -> Sample:
        recipe, rng = self.recipe, seeded(self.recipe.seed, index)
        kind = rng.random()
        on_lesion = bool(self.with_lesion) and kind < recipe.lesion_share
        case = (self.with_lesion if on_lesion else self.all).draw(rng)
        span = [n * step for n, step in zip(recipe.crop, recipe.stride, strict=True)]
        if on_lesion:
            start = _centred(case.lesion_voxels, span, rng)
        elif kind > 1 - recipe.hot_share and case.hot_voxels:
            # A slice first: the brain has more hot voxels than all the rest.
            start = _centred(case.hot_voxels[rng.integers(len(case.hot_voxels))], span, rng)
        else:
            start = random_start(case.suv.shape, span, rng)

        def window(array: Readable, outside: float = 0.0) -> Array:
            return means(_crop_with_margin(array, start, recipe.crop, outside, recipe.stride), recipe.stride)

        fine_suv, fine_lesions = (
            _crop_with_margin(array, start, recipe.crop, stride=recipe.stride) for array in (case.suv, case.lesions)
        )
        # Before the mean, in which a small lesion is mixed with what is around it.
        lesions = fullest(fine_lesions * (fine_suv >= recipe.lesion_floor), recipe.stride).astype(np.float32)
        labels, suv = [lesions], means(fine_suv, recipe.stride)
        if recipe.organ_weight:
            organs = _organ_crop(case, start, recipe.crop, stride=recipe.stride)
            labels.append(organs[tuple(slice(step // 2, None, step) for step in recipe.stride)])
            suv = _otherwise(suv, labels[1], recipe.organ_gain, rng)
        pet = recipe.pet(hotter(suv, lesions, recipe.lesion_gain, rng))
        ct_array = None if rng.random() < recipe.ct_dropout else case.ct
        # Blank, zero in the window, is also what inference gives the network when there is no CT.
        ct = np.zeros_like(pet) if ct_array is None else recipe.ct(window(ct_array, recipe.ct.low))
        data = {
            "image": torch.from_numpy(np.stack([pet / self.pet_span, ct])),
            "segmentation": torch.from_numpy(np.stack(labels)),
        }
        if recipe.cue_weight and case.cue is not None:
            data["regression_target"] = torch.from_numpy(window(case.cue)[None])
        data = self.transforms(**data)
        sample = _sample(data["image"], data["segmentation"], recipe)
        image, truth = sample["image"], sample["truth"]
        image[0] *= self.pet_span
        if ct_array is None:
            image[1] = 0
        weight = torch.ones_like(truth)
        if "regression_target" in data:
            weight += recipe.cue_weight * data["regression_target"]
        if recipe.hot_weight:
            hot = (image[:1] > float(recipe.pet(np.full(1, HOT_SUV, np.float32))[0])) | (truth > 0)
            weight += recipe.hot_weight * hot
        sample["weight"] = weight
        if rng.random() < recipe.cut_share:
            air_ct = 0.0 if ct_array is None else recipe.ct(np.full(1, recipe.ct.low))[0]
            _cut(sample, _beyond_view(recipe.crop[0], rng), recipe.pet(np.zeros(1))[0], air_ct)
        return sample


def pet_span(pet: Window | LogScale) -> float:
    """How far apart SUV 0 and 15 are in the network's intensities; transforms are for images in which it is one."""
    low, high = pet(np.array([0.0, 15.0], np.float32))
    return float(high - low)


def hotter(suv: Array, lesions: Array, most: float, rng: np.random.Generator) -> Array:
    """SUV whose lesions are up to `most` times as hot, with soft edges, in half of the samples that have any.

    The hottest tumours are rare, and a network that knows only organs of such uptake takes them for organs.

    Parameters
    ----------
    suv : (..., z, x) or (z, y, x) float32.
    lesions : float32, 0 or 1, of the last axes.
    most : at least 1; at 1 nothing is drawn.

    Returns
    -------
    SUV of the same shape.
    """
    if most == 1 or not lesions.any() or rng.random() < 0.5:
        return suv
    gain = most ** rng.random()
    changed: Array = suv * (1 + (gain - 1) * ndimage.gaussian_filter(lesions, 1.0))
    return changed


def _otherwise(suv: Array, organs: Array, most: float, rng: np.random.Generator) -> Array:
    """SUV whose organs are each up to `most` times as hot or as cold, with soft edges, in half of the samples.

    A body has one uptake of each organ, and a network that sees it often knows the body by it.

    Parameters
    ----------
    suv : (..., z, x) or (z, y, x) float32.
    organs : labels of `OrganClass`, of the last axes; where they are not known nothing changes.
    """
    if most == 1 or rng.random() < 0.5:
        return suv
    gains = np.ones(int(OrganClass.UNKNOWN) + 1, np.float32)
    gains[OrganClass.OTHER : OrganClass.LESION] = most ** rng.uniform(-1, 1, OrganClass.LESION - OrganClass.OTHER)
    changed: Array = suv * ndimage.gaussian_filter(gains[organs.astype(np.uint8)], 1.0)
    return changed


def _organ_crop(
    case: CachedCase,
    start: Sequence[int],
    crop: Sequence[int],
    y: int | None = None,
    stride: Sequence[int] | None = None,
) -> Array:
    """Organ labels of a window, or of coronal slice `y`, float32; unknown where the case has no map."""
    if case.organs is None:
        nowhere = np.zeros((1,) * len(crop), np.uint8)
        return _crop_with_margin(nowhere, start, crop, stride=stride) + float(OrganClass.UNKNOWN)
    organs = case.organs if y is None else case.organs[:, y]
    return _crop_with_margin(organs, start, crop, OrganClass.OUTSIDE, stride)


def _sample(image: Tensor, labels: Tensor, recipe: LocalizerRecipe | SegmenterRecipe) -> Sample:
    """What the loss needs, from transformed arrays: labels are the lesions and, where they are learnt, the organs."""
    truth = labels[:1].float()
    sample = {"image": image, "truth": truth}
    if recipe.organ_weight:
        organs = labels[1:].to(torch.uint8)
        organs[(truth > 0) & (organs != OrganClass.UNKNOWN)] = OrganClass.LESION
        sample["organs"] = organs
    return sample


def _cut(sample: Sample, beyond: slice, *air: float) -> None:
    """Show air at these rows, where a field of view has ended, in place; organs there teach nothing.

    Parameters
    ----------
    air : what a channel shows of it: each has its own, or all the same.
    """
    values = {"truth": 0, "weight": 1, "organs": int(OrganClass.UNKNOWN)}
    for name, array in sample.items():
        if name != "image":
            array[:, beyond] = values[name]
    for channel, value in zip(sample["image"], itertools.cycle(air)):
        channel[beyond] = float(value)


class _Pool:
    """Cases to draw from: data folders by their shares, and the cases of a folder alike."""

    def __init__(self, cases: Iterable[CachedCase], shares: Sequence[float] | None) -> None:
        self.cases = list(cases)
        self.chances: Array | None = None
        if shares is not None and self.cases:
            sources = np.array([case.source for case in self.cases])
            chances = np.asarray(shares, float)[sources] / np.bincount(sources)[sources]
            self.chances = chances / chances.sum()

    def __len__(self) -> int:
        return len(self.cases)

    def draw(self, rng: np.random.Generator) -> CachedCase:
        return self.cases[int(rng.choice(len(self.cases), p=self.chances))]


def seeded(seed: int, index: int) -> np.random.Generator:
    """A generator for one sample; batchgeneratorsv2 draws from the global ones, so they are set too."""
    np.random.seed(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    torch.manual_seed(hash((seed, index)))
    return np.random.default_rng([seed, index])


def _centred(voxels: Array, crop: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Where a crop starts whose centre is one of the voxels, (n, axes)."""
    voxel = voxels[rng.integers(len(voxels))]
    return [int(v) - n // 2 for v, n in zip(voxel, crop, strict=True)]


def _beyond_view(rows: int, rng: np.random.Generator) -> slice:
    """The rows above, or below, a random one that leaves a third of them."""
    end = int(rng.integers(rows // 3, rows))
    return slice(end, None) if rng.random() < 0.5 else slice(0, rows - end)


def random_start(
    size: Sequence[int], crop: Sequence[int], rng: np.random.Generator, held: Array | None = None
) -> list[int]:
    """Uniform over the places where the crop lies inside, or where it holds everything.

    Parameters
    ----------
    held : (n, axes) voxels, one of which, drawn first, the crop must hold; None: it may lie anywhere.
    """
    voxel = None if held is None else held[rng.integers(len(held))]
    start = []
    for axis, (n, c) in enumerate(zip(size, crop, strict=True)):
        low, high = min(0, n - c), max(0, n - c)
        if voxel is not None:
            low, high = max(low, int(voxel[axis]) - c + 1), min(high, int(voxel[axis]))
        start.append(int(rng.integers(low, high + 1)))
    return start


def _crop_with_margin(
    array: Readable,
    start: Sequence[int],
    crop: Sequence[int],
    outside: float = 0.0,
    stride: Sequence[int] | None = None,
) -> Array:
    """The crop at `start` of the last axes and `MARGIN` around it, which the transforms cut off again; float32.

    `outside` fills what lies beyond the array. The crop is in steps of `stride` voxels, each axis'; None: of one.
    """
    steps = stride or [1] * len(crop)
    size = [int(np.ceil(n * MARGIN / 2)) * 2 for n in crop]
    first = [at - (s - c) // 2 * step for at, s, c, step in zip(start, size, crop, steps, strict=True)]
    return read_crop(array, first, [s * step for s, step in zip(size, steps, strict=True)], outside)


def read_crop(array: Readable, start: Sequence[int], size: Sequence[int], outside: float = 0.0) -> Array:
    """The part of the last axes that begins at `start`, float32; `outside` fills what lies beyond the array."""
    lead = array.ndim - len(size)
    out = np.empty(array.shape[:lead] + tuple(size), np.float32)
    source, target = [slice(None)] * lead, [slice(None)] * lead
    for n, at, wanted in zip(array.shape[lead:], start, size, strict=True):
        low, high = max(0, at), min(n, at + wanted)
        if low >= high:
            out[:] = outside
            return out
        source.append(slice(low, high))
        target.append(slice(low - at, high - at))
    part = array[tuple(source)]
    if part.shape != out.shape:
        out[:] = outside
    out[tuple(target)] = part
    return out
