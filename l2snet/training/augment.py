"""Augmentation with batchgeneratorsv2, the library nnU-Net itself uses.

Phase 1: rotation and horizontal flip, nothing else (section 3.2). Phase 2: "as nnU-Net" (section 3.3), the transforms
and probabilities of its default trainer.
"""

from __future__ import annotations

import numpy as np
from batchgeneratorsv2.helpers.scalar_type import RandomScalar
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

# Standard deviations, which batchgeneratorsv2 calls variances. nnU-Net's is (0, 0.1) on images of unit variance; where
# 0..1 is SUV 0..15 that is up to SUV 1.5, and this 0.3.
NOISE = (0, 0.02)
# What brightness and contrast are multiplied by.
BRIGHTNESS = (0.75, 1.25)
# Of slices in SUV: wider, so that no SUV is that of an organ alone, and so much oftener.
SUV_NOISE, SUV_BRIGHTNESS = (0, 0.2), (0.5, 2.0)
SLICE_SHARE = 2.5


def slice_transforms(
    crop: tuple[int, int], rotation_degrees: float, nearest: bool = False, appearance: bool = False
) -> BasicTransform:
    """Phase 1: in-plane rotation of every slice and a left-right flip of half of them; axes (z, x), intensities SUV.

    Parameters
    ----------
    nearest : take the nearest label where several would be interpolated one by one, which is slow for many.
    appearance : also scale half of the slices, and change most in what phase 2's are changed in, so that what is drawn
        (synthetic bodies) is not told by its noise and its edges; the paper has no such.
    """
    angle = np.deg2rad(rotation_degrees)
    zoom, more = (0.5, _appearance(SUV_NOISE, SUV_BRIGHTNESS, SLICE_SHARE)) if appearance else (0.0, [])
    return ComposeTransforms([_spatial(crop, 1.0, angle, zoom, nearest), *more, MirrorTransform(allowed_axes=(1,))])


def window_transforms(
    crop: tuple[int, int, int], mirror_axes: tuple[int, ...] = (0, 1, 2), nearest: bool = False
) -> BasicTransform:
    """Phase 2: nnU-Net's default 3D augmentation; axes (z, y, x), intensities about 0..1; `nearest` as above."""
    return ComposeTransforms(
        [
            _spatial(crop, 0.2, np.deg2rad(30.0), 0.2, nearest),
            *_appearance(NOISE, BRIGHTNESS, 1.0),
            MirrorTransform(allowed_axes=mirror_axes),
        ]
    )


def appearance_transforms() -> BasicTransform:
    """Phase 2's changes of noise, blur, contrast, resolution and gamma, without those that move voxels: labels stay.

    Axes (z, y, x), intensities about 0..1. For Step-by-Step, whose paper names no augmentation.
    """
    return ComposeTransforms(_appearance(NOISE, BRIGHTNESS, 1.0))


def _appearance(
    noise: tuple[float, float], brightness_range: tuple[float, float], share: float
) -> list[BasicTransform]:
    """Noise, blur, brightness, contrast, resolution and gamma, each with `share` times nnU-Net's probability."""

    def sometimes(transform: BasicTransform, probability: float) -> BasicTransform:
        return RandomTransform(transform, apply_probability=probability * share)

    brightness: RandomScalar = BGContrast(brightness_range)
    contrast: RandomScalar = BGContrast(BRIGHTNESS)
    gamma: RandomScalar = BGContrast((0.7, 1.5))
    return [
        sometimes(GaussianNoiseTransform(noise_variance=noise, p_per_channel=1, synchronize_channels=True), 0.1),
        sometimes(
            GaussianBlurTransform(
                blur_sigma=(0.5, 1.0), synchronize_channels=False, synchronize_axes=False, p_per_channel=0.5
            ),
            0.2,
        ),
        sometimes(
            MultiplicativeBrightnessTransform(multiplier_range=brightness, synchronize_channels=False, p_per_channel=1),
            0.15,
        ),
        sometimes(
            ContrastTransform(
                contrast_range=contrast, preserve_range=True, synchronize_channels=False, p_per_channel=1
            ),
            0.15,
        ),
        sometimes(
            SimulateLowResolutionTransform(
                scale=(0.5, 1.0),
                synchronize_channels=False,
                synchronize_axes=True,
                ignore_axes=(),
                allowed_channels=None,
                p_per_channel=0.5,
            ),
            0.25,
        ),
        sometimes(_gamma(gamma, invert=True), 0.1),
        sometimes(_gamma(gamma, invert=False), 0.3),
    ]


def _gamma(gamma: RandomScalar, invert: bool) -> BasicTransform:
    return GammaTransform(
        gamma=gamma,
        p_invert_image=1 if invert else 0,
        synchronize_channels=False,
        p_per_channel=1,
        p_retain_stats=1,
    )


def _spatial(
    crop: tuple[int, ...], p_rotation: float, angle: float, p_scaling: float, nearest: bool
) -> SpatialTransform:
    """Rotation by up to `angle` radians and scaling about the centre, then the central `crop`."""
    return SpatialTransform(
        patch_size=crop,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=p_rotation,
        rotation=(-angle, angle),
        p_scaling=p_scaling,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
        mode_seg="nearest" if nearest else "bilinear",
    )
