"""Painting tumours into a body: shape, inner texture, CT, and the mask an expert would draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2snet.synthesis.anatomy import Anatomy
from l2snet.synthesis.drawing import FWHM_PER_SIGMA, Spacing, box_of, ellipsoid_level, random_rotation, smooth_field
from l2snet.synthesis.lesions import KINDS, MAX_SUV, Lesion
from l2snet.synthesis.tissues import BONES, GASES, MUSCLES, Tissue, among
from l2snet.synthesis.tumours import Tumour
from l2snet.volume import Array

# Tumours do not grow into these; urine and blood only reach them through the point spread.
BARRED = among(*GASES, Tissue.URINE, Tissue.METAL, Tissue.TOOTH, Tissue.GREY, Tissue.DEEP_GREY, Tissue.CEREBELLUM,
               Tissue.HEART_WALL, Tissue.KIDNEY_PELVIS, Tissue.URETER_HOT)  # fmt: skip
# Only tumours of that kind grow into these: elsewhere they would be told from normal uptake by nothing.
RESERVED = {Tissue.KIDNEY: "kidney", Tissue.WHITE: "brain"}
BONE = among(*BONES)
# A voxel is drawn as tumour where at least half of it is, and where it stands out over what is around by this share of
# the peak's excess: by no less than an eye tells from noise, and by no more than what an expert takes in anyhow, be the
# rest ever so hot.
HALF, VISIBLE = 0.5, 0.4
MIN_VISIBLE_EXCESS_SUV, MAX_VISIBLE_EXCESS_SUV = 0.7, 2.5
# Parts of a tumour's mask that are smaller than this share of the largest are left out.
CRUMB = 0.1
MIN_EXCESS_SUV, MIN_EXCESS_OVER_BACKGROUND = 1.5, 1.0
# A point spread lowers small tumours; to show their drawn SUV they may be this hot before it.
MAX_TRUE_SUV = 90.0
REAL_MIN_ML, REAL_SHARE = 4.0, 0.3


@dataclass(frozen=True)
class Grown:
    """A tumour's box, its share of tumour tissue (0 or 1) and its SUV over its peak there."""

    box: tuple[slice, ...]
    shape: Array
    relative: Array


def grow_lesions(
    anatomy: Anatomy,
    lesions: list[Lesion],
    suv: Array,
    hu: Array,
    fwhm_mm: Spacing,
    contrast: float,
    tumours: list[Tumour],
    rng: np.random.Generator,
) -> Array:
    """Paint the tumours into `suv` and `hu` in place, the hottest last.

    Parameters
    ----------
    fwhm_mm : the scanner's point spread, which decides what the mask of a small tumour covers.
    tumours : real tumours whose shape and texture some get.

    Returns
    -------
    (z, y, x) bool mask.
    """
    mask = np.zeros(suv.shape, bool)
    for lesion in sorted(lesions, key=lambda one: one.suv):
        real = tumours[int(rng.integers(len(tumours)))] if tumours else None
        use_real = real is not None and lesion.volume_ml > REAL_MIN_ML and rng.random() < REAL_SHARE
        grown = _paste(anatomy, lesion, real, rng) if real is not None and use_real else _grow(anatomy, lesion, rng)
        if grown is not None and grown.shape.any():
            _paint(anatomy, lesion, grown, suv, mask, fwhm_mm)
            _paint_ct(anatomy, lesion, grown, hu, contrast, rng)
    return mask


def _free(anatomy: Anatomy, lesion: Lesion, box: tuple[slice, ...], rng: np.random.Generator) -> Array:
    """Where this tumour may grow within the box."""
    here = anatomy.tissues[box]
    free = ~BARRED[here]
    for tissue, owner in RESERVED.items():
        if lesion.kind != owner:
            free &= here != tissue
    kind = KINDS[lesion.kind]
    if kind.tissues and rng.random() < kind.confined:
        own = among(*kind.tissues)
        if lesion.kind in ("bone", "limb bone"):
            own |= BONE
        free &= own[here]
    elif lesion.kind in ("lung", "lung mass"):
        # Nodules push into the chest wall and the mediastinum only when they are large.
        if lesion.volume_ml < 20 or rng.random() < 0.5:
            free &= among(Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.VISCERAL_FAT, *MUSCLES, Tissue.CARTILAGE)[here]
    else:
        free &= here != Tissue.LUNG if rng.random() < 0.7 else True
    return free & (anatomy.depth_mm[box] > 1.0)


def _grow(anatomy: Anatomy, lesion: Lesion, rng: np.random.Generator) -> Grown | None:
    """Lobes around the centre with an irregular surface, to the wanted volume."""
    radius = lesion.radius_mm
    reach = radius * max(lesion.axes) * (1.5 + lesion.irregular) + 4
    centre = np.asarray(lesion.centre_mm)
    found = box_of(anatomy.tissues.shape, anatomy.spacing_mm, centre - reach, centre + reach)
    if found is None:
        return None
    box, coordinates = found
    shape = anatomy.tissues[box].shape
    semi = radius * np.asarray(lesion.axes)
    level = np.full(shape, np.inf, np.float32)
    turn = random_rotation(rng)
    for lobe in range(lesion.lobes):
        away = rng.normal(0, 0.55, 3) * semi if lobe else np.zeros(3)
        size = 1.0 if lobe == 0 else rng.uniform(0.4, 0.95)
        np.minimum(level, np.sqrt(ellipsoid_level(coordinates, centre + away, size * semi, turn)), out=level)
    if lesion.irregular > 0.02:
        rough = smooth_field(rng, shape, anatomy.spacing_mm, max(0.7 * radius, 5.0))
        level += np.float32(lesion.irregular) * rough
        if lesion.volume_ml > 20:
            level += np.float32(0.4 * lesion.irregular) * smooth_field(
                rng, shape, anatomy.spacing_mm, 0.25 * radius + 3
            )
    free = _free(anatomy, lesion, box, rng)
    wanted = max(int(lesion.volume_ml * 1000 / np.prod(anatomy.spacing_mm)), 4)
    levels = level[free]
    if len(levels) < 4:
        return None
    limit = float(np.partition(levels, min(wanted, len(levels) - 1))[min(wanted, len(levels) - 1)])
    limit = min(limit, 1.9)
    inside = _largest((level < limit) & free)
    depth = np.clip((limit - level) / max(limit - float(level.min()), 1e-3), 0, 1)
    return Grown(box, inside, _texture(lesion, depth, shape, anatomy.spacing_mm, rng))


def _texture(lesion: Lesion, depth: Array, shape: tuple[int, ...], steps: Spacing, rng: np.random.Generator) -> Array:
    """SUV over the peak: patches, a necrotic core, a faded surface. `depth` is 0 at the surface and 1 at the centre."""
    relative = np.ones(shape, np.float32)
    grain = max(lesion.grain * lesion.radius_mm, 4.0)
    if lesion.patchy > 0.02:
        relative *= np.exp(lesion.patchy * smooth_field(rng, shape, steps, grain))
    if lesion.fading:
        relative *= np.clip(0.35 + 0.65 * depth / lesion.fading, 0.35, 1)
    if lesion.core:
        noise = 0.25 * smooth_field(rng, shape, steps, max(0.5 * lesion.radius_mm, 5.0))
        share = np.clip((depth + noise - (1 - lesion.core)) / 0.15, 0, 1)
        relative *= 1 - share * (1 - lesion.core_suv)
    return relative


def _paste(anatomy: Anatomy, lesion: Lesion, real: Tumour, rng: np.random.Generator) -> Grown | None:
    """A real tumour, turned, mirrored and scaled to the wanted volume, as far as the body has room."""
    scale = (lesion.volume_ml / real.volume_ml) ** (1 / 3)
    turn = random_rotation(rng) if rng.random() < 0.7 else np.eye(3)
    turn = turn * rng.choice([-1, 1], 3)[:, None]
    half = scale * np.asarray(real.relative.shape) * real.spacing_mm / 2
    reach = np.abs(turn.T) @ half + 2
    centre = np.asarray(lesion.centre_mm)
    found = box_of(anatomy.tissues.shape, anatomy.spacing_mm, centre - reach, centre + reach)
    if found is None:
        return None
    box, coordinates = found
    grid = np.stack([c - m for c, m in zip(np.broadcast_arrays(*coordinates), centre, strict=True)])
    source = np.tensordot(turn, grid, 1) / scale
    index = source / np.asarray(real.spacing_mm)[:, None, None, None]
    index += (np.asarray(real.relative.shape)[:, None, None, None] - 1) / 2
    relative = ndimage.map_coordinates(real.relative, index, order=1, mode="constant", prefilter=False)
    inside = ndimage.map_coordinates(real.mask, index, order=1, mode="constant", prefilter=False) > 0.5
    inside = _largest(inside & _free(anatomy, lesion, box, rng))
    return Grown(box, inside, relative.astype(np.float32))


def _largest(mask: Array) -> Array:
    """The largest connected part."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: Array = labels == int(np.bincount(labels.ravel())[1:].argmax()) + 1
    return largest


def _without_crumbs(mask: Array) -> Array:
    """Only the parts that are not tiny beside the largest one."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: Array = (sizes >= CRUMB * sizes.max())[labels]
    return kept


def _paint(anatomy: Anatomy, lesion: Lesion, grown: Grown, suv: Array, mask: Array, fwhm_mm: Spacing) -> None:
    """Raise the SUV so that the peak after the point spread is the drawn one, and add to the mask in place."""
    box = tuple(
        slice(max(0, s.start - m), min(n, s.stop + m))
        for s, n, m in zip(
            grown.box,
            suv.shape,
            (int(f / s) + 2 for f, s in zip(fwhm_mm, anatomy.spacing_mm, strict=True)),
            strict=True,
        )
    )
    inner = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(grown.box, box, strict=True))
    here = suv[box]
    shape = np.zeros(here.shape, np.float32)
    shape[inner] = grown.shape
    relative = np.zeros(here.shape, np.float32)
    relative[inner] = grown.relative * grown.shape
    inside = shape > 0
    background = float(np.median(here[inside]))
    relative /= max(float(np.percentile(relative[inside], 98)), 1e-3)
    np.clip(relative, 0, 1.3, out=relative)
    sigma = [f / FWHM_PER_SIGMA / s for f, s in zip(fwhm_mm, anatomy.spacing_mm, strict=True)]
    seen = ndimage.gaussian_filter(relative, sigma, truncate=3)
    peak = float(seen.max())
    wanted = max(lesion.suv, background + max(MIN_EXCESS_SUV, MIN_EXCESS_OVER_BACKGROUND * background))
    wanted = min(wanted, MAX_SUV * 1.1)
    # The background also shines in: what the tumour itself must add.
    true = min(max((wanted - background * (1 - peak)) / max(peak, 0.05), wanted), MAX_TRUE_SUV)
    here[inside] = np.maximum(relative[inside] * true, 0.15 * background)
    excess = ndimage.gaussian_filter(shape * np.maximum(here - background, 0), sigma, truncate=3)
    share = ndimage.gaussian_filter(shape, sigma, truncate=3)
    visible = np.clip(VISIBLE * float(excess.max()), MIN_VISIBLE_EXCESS_SUV, MAX_VISIBLE_EXCESS_SUV)
    drawn = _without_crumbs((share > HALF * min(float(share.max()), 1.0)) & (excess > visible))
    if lesion.core_in_mask:
        drawn = ndimage.binary_fill_holes(drawn)
    mask[box] |= drawn & (anatomy.depth_mm[box] > 0) & ~among(*GASES)[anatomy.tissues[box]]


def _paint_ct(
    anatomy: Anatomy, lesion: Lesion, grown: Grown, hu: Array, contrast: float, rng: np.random.Generator
) -> None:
    """Soft tissue in place of lung and fat, less contrast medium than the liver, dense or dissolved bone."""
    here, tissues = hu[grown.box], anatomy.tissues[grown.box]
    bone = BONE[tissues] & grown.shape
    soft = grown.shape & ~bone
    value = lesion.hu + contrast * rng.uniform(0, 60)
    if lesion.kind == "lung" and rng.random() < 0.12:
        value = rng.uniform(-650, -250)
    fade = 1.0 if rng.random() < 0.75 else 0.4
    here[soft] += fade * (value - here[soft])
    if lesion.core:
        here[soft] -= (20 * (grown.relative < 0.5))[soft]
    if lesion.kind in ("bone", "limb bone"):
        here[bone] = np.clip(here[bone] + lesion.bone, 30, 1400)
    elif lesion.volume_ml > 5 and rng.random() < 0.5:
        here[bone] = value
