"""A synthetic whole-body PET/CT from an organ label map: one seed, one case."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.synthesis.anatomy import Anatomy, draw_anatomy
from l2snet.synthesis.ct import CTScan, draw_ct_scan, image_ct, outside_view, plant_metal, surroundings
from l2snet.synthesis.drawing import Spacing, resize
from l2snet.synthesis.growth import grow_lesions
from l2snet.synthesis.imaging import Scanner, draw_scanner, image_pet
from l2snet.synthesis.landmarks import Organ
from l2snet.synthesis.lesions import draw_lesions
from l2snet.synthesis.physiology import Appearance, density, draw_appearance, uptake
from l2snet.synthesis.tissues import ORGAN_OF_TISSUE
from l2snet.synthesis.traps import paint_traps
from l2snet.synthesis.tumours import Tumour
from l2snet.volume import Array, Geometry, Volume

# Raise it when a change alters the bodies that a seed gives.
VERSION = 6
CT_MISSING = 0.12
# Grids of PET scanners, (z, y, x) mm, for bodies that are not imaged on the organ map's own.
SCANNER_GRIDS: tuple[Spacing, ...] = (
    (3.27, 4.69, 4.69), (3.27, 3.91, 3.91), (3.27, 5.47, 5.47), (3.0, 4.07, 4.07), (5.0, 4.07, 4.07),
    (4.0, 4.0, 4.0), (2.0, 2.73, 2.73), (4.25, 5.31, 5.31), (2.03, 4.06, 4.06), (3.27, 2.73, 2.73),
)  # fmt: skip
MAX_ATTEMPTS = 6


@dataclass(frozen=True)
class Options:
    """What to make.

    Attributes
    ----------
    spacing_mm : the PET's grid (z, y, x); None for the organ map's own.
    lesions : whether the body has tumours; None takes it from the seed: every second one has.
    tumours : real tumours to paste; none: all are drawn.
    """

    spacing_mm: Spacing | None = None
    lesions: bool | None = None
    tumours: list[Tumour] = field(default_factory=list)


def synthesize(organs: Volume, seed: int, options: Options | None = None, name: str | None = None) -> Case:
    """Make the PET, CT (or none), lesion mask and organ map of a synthetic body.

    The same seed, `VERSION`, map and options give the same voxels.

    Parameters
    ----------
    organs : label map of a torso: 1 spleen, 2 kidneys, 3 liver, 4 bladder, 5 lungs, 6 brain, 7 heart, 8 stomach,
        9 prostate, 10 salivary glands. Missing organs are drawn, but lungs and liver must be there.
    name : of the case; by default the seed.

    Raises
    ------
    InputError : the map has no lungs or liver, or lies obliquely.
    """
    options = options or Options()
    if not organs.geometry.is_axis_aligned:
        raise InputError(f"the organ map lies obliquely ({organs.geometry}); resample it along the patient's axes")
    low, high = float(organs.array.min()), float(organs.array.max())
    if low < 0 or high > max(Organ):
        raise InputError(f"the organ map holds values from {low:g} to {high:g}; expected the labels 0 to {max(Organ)}")
    canonical = organs.canonical()
    draw = [np.random.default_rng([VERSION, seed, stage]) for stage in range(6)]
    wanted = options.lesions if options.lesions is not None else seed % 2 == 1
    anatomy = draw_anatomy(canonical.array.astype(np.uint8), canonical.geometry.spacing_mm, draw[0])
    looks, scanner, scan = draw_appearance(draw[1]), draw_scanner(draw[2]), draw_ct_scan(draw[2])
    suv, hu = uptake(anatomy, looks, draw[1]), density(anatomy, looks, draw[1])
    plant_metal(anatomy, suv, hu, scan, draw[2])
    paint_traps(anatomy, suv, hu, draw[3])
    mask = _lesions(anatomy, suv, hu, scanner, looks, options.tumours, draw[4]) if wanted else np.zeros(suv.shape, bool)
    shape, spacing = _imaging_grid(anatomy, options.spacing_mm)
    organ_map = ORGAN_OF_TISSUE[anatomy.tissues]
    if shape != organ_map.shape:
        organ_map = resize(organ_map, anatomy.spacing_mm, shape, spacing, nearest=True)
    pet = image_pet(suv, anatomy, scanner, shape, spacing, draw[5])
    drawn = _on_grid(mask, anatomy, shape, spacing)
    has_ct = draw[2].random() >= CT_MISSING
    ct = image_ct(hu, anatomy, scanner, scan, shape, spacing, draw[5]) if has_ct else None
    frame = _Frame(canonical.geometry, anatomy, shape, spacing, options.spacing_mm is None)
    target = organs.geometry if options.spacing_mm is None else frame.geometry
    return Case(
        name or f"body_{seed:06d}",
        frame.place(pet, 0.0).to_grid(target, outside=0.0),
        None if ct is None else _surround(ct, frame, anatomy, scan).to_grid(target, outside=scan.padding_hu),
        frame.place(drawn.astype(np.uint8), 0).to_grid(target, outside=0.0, nearest=True),
        frame.place(organ_map, 0).to_grid(target, outside=0.0, nearest=True),
    )


def _lesions(
    anatomy: Anatomy,
    suv: Array,
    hu: Array,
    scanner: Scanner,
    looks: Appearance,
    tumours: list[Tumour],
    rng: np.random.Generator,
) -> Array:
    """Paint tumours in place until at least one took hold; their mask."""
    mask = np.zeros(suv.shape, bool)
    for _ in range(MAX_ATTEMPTS):
        lesions = draw_lesions(anatomy, rng)
        mask |= grow_lesions(anatomy, lesions, suv, hu, scanner.fwhm_mm, looks.contrast, tumours, rng)
        if mask.any():
            break
    return mask


def _imaging_grid(anatomy: Anatomy, spacing_mm: Spacing | None) -> tuple[tuple[int, ...], Spacing]:
    """Shape and spacing of the scanner's grid over the body's box."""
    if spacing_mm is None:
        return anatomy.tissues.shape, anatomy.spacing_mm
    lengths = [n * s for n, s in zip(anatomy.tissues.shape, anatomy.spacing_mm, strict=True)]
    return tuple(max(2, int(length / s)) for length, s in zip(lengths, spacing_mm, strict=True)), spacing_mm


def _on_grid(mask: Array, anatomy: Anatomy, shape: tuple[int, ...], spacing_mm: Spacing) -> Array:
    """The mask on the scanner's grid: voxels of which at least half is tumour."""
    if shape == mask.shape:
        return mask
    shares: Array = resize(mask.astype(np.float32), anatomy.spacing_mm, shape, spacing_mm)
    return shares >= 0.5


class _Frame:
    """The output's canonical grid, and where the body's box lies on it."""

    def __init__(
        self, canonical: Geometry, anatomy: Anatomy, shape: tuple[int, ...], spacing_mm: Spacing, own: bool
    ) -> None:
        self.start = anatomy.start
        self.geometry = canonical
        if own:
            return
        box = Geometry(
            size=(shape[0], shape[1], shape[2]),
            spacing_mm=spacing_mm,
            origin_mm=canonical.crop(anatomy.start, (1, 1, 1)).origin_mm,
            direction=canonical.direction,
        )
        # A square field of view of at least 600 mm, the body in its middle.
        side = [max(n, int(600 / s)) for n, s in zip(shape[1:], spacing_mm[1:], strict=True)]
        before = [(wide - n) // 2 for wide, n in zip(side, shape[1:], strict=True)]
        self.start = (0, before[0], before[1])
        self.geometry = box.crop((0, -before[0], -before[1]), (shape[0], side[0], side[1]))

    def place(self, array: Array, outside: float) -> Volume:
        """The body's box on the whole grid."""
        full = np.full(self.geometry.size, outside, array.dtype)
        full[self.box(array.shape)] = array
        return Volume(full, self.geometry)

    def box(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Where the body's box lies."""
        return tuple(slice(first, first + n) for first, n in zip(self.start, shape, strict=True))


def _surround(ct: Array, frame: _Frame, anatomy: Anatomy, scan: CTScan) -> Volume:
    """The CT on the whole grid, with the table under the body and nothing beyond its field of view."""
    size, steps = frame.geometry.size, frame.geometry.spacing_mm
    table_y = anatomy.outline.table_y + frame.start[1] * steps[1]
    plane = surroundings(size[1:], steps, table_y, anatomy.marks.mid_x + frame.start[2] * steps[2], scan)
    full = np.empty(size, np.float32)
    full[:] = plane
    box = frame.box(ct.shape)
    np.maximum(full[box], ct, out=full[box])
    full[:, outside_view(size[1:], steps, scan)] = scan.padding_hu
    return Volume(full, frame.geometry)
