"""What a report tells of one case: images, lesions, how they were found, and what a reader should beware of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.evaluation.pairs import mask_in, read_mask
from l2snet.measure.lesions import Rules, label_lesions, measure_lesions
from l2snet.measure.patient import Burden, Measurement, burden
from l2snet.predict import CUE, MANIFEST, PROBABILITY
from l2snet.report.manifest import Rule, check_manifest, read_manifest, rule_in, rules_of, suv_type_of
from l2snet.report.origin import Origin
from l2snet.report.strings import STRINGS
from l2snet.report.views import Box, warm_box
from l2snet.subject import Subject, SuvType
from l2snet.volume import Array, Geometry, Volume, read_volume

# A lesion of so few voxels, or so pale, may be noise, or as well part of an organ.
TINY_ML, FAINT_SUV = 0.5, 2.5
# From the skull to the thighs is more; what is shorter cannot hold every lesion.
WHOLE_BODY_MM = 800.0
MOST_NAMED = 12
# The lowest threshold that the page's slider offers, unless the method's own is lower.
LEAST_THRESHOLD = 0.05


@dataclass(frozen=True)
class Findings:
    """One case with its result, all on the PET's grid.

    Attributes
    ----------
    case : PET, CT if any, and the truth (`lesions`) where it is known.
    measurement : lesions by number and their numbers.
    probability, cue : float32, 0..1; None where they were not kept.
    manifest : what `predict` noted; empty where there is none.
    rules : what of the mask counted as lesion.
    surface_m2 : of the patient's body; None where height or weight is not known.
    origin : whose the images are and when they were made.
    """

    case: Case
    measurement: Measurement
    probability: Volume | None = None
    cue: Volume | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    surface_m2: float | None = None
    origin: Origin = field(default_factory=Origin)

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    @property
    def burden(self) -> Burden:
        """The patient's totals."""
        return self.measurement.burden

    @cached_property
    def suv(self) -> Volume:
        """The PET, canonical."""
        return self.case.suv.canonical()

    @cached_property
    def ct(self) -> Volume | None:
        """The CT, canonical."""
        return None if self.case.ct is None else self.case.ct.canonical()

    @cached_property
    def labels(self) -> Array:
        """(z, y, x) lesion numbers, canonical."""
        return self.measurement.labels.canonical().array

    @cached_property
    def places(self) -> list[Box]:
        """Where each lesion lies in `labels`, in order of their numbers."""
        return list(ndimage.find_objects(self.labels))

    @cached_property
    def box(self) -> Box:
        """The part of the canonical grid that is shown."""
        marked = self.labels > 0
        if self.probability is not None:
            marked |= self.probability.canonical().array > LEAST_THRESHOLD
        return warm_box(self.suv.array, marked)

    @cached_property
    def rule(self) -> Rule | None:
        """The rule of thresholds by which the method made the mask, where the maps for it were kept; else None."""
        rule = rule_in(self.manifest)
        known = self.probability is not None and (rule is None or rule.cue is None or self.cue is not None)
        return rule if known else None

    @cached_property
    def is_edited(self) -> bool:
        """Whether the method's rule makes other lesions of the maps than the mask holds."""
        if self.rule is None or self.probability is None:
            return False
        mask = self.rule.mask(self.probability.array, None if self.cue is None else self.cue.array)
        lesions = label_lesions(mask, self.case.suv.array, self.case.geometry.voxel_ml, self.rules)
        return not np.array_equal(lesions > 0, self.measurement.labels.array > 0)

    @property
    def warnings(self) -> list[str]:
        """What a reader should beware of, a sentence each."""
        text = STRINGS["warnings"]
        notes = [str(note) for note in self.manifest.get("notes", [])]
        if self.case.ct is None and not any("CT" in note for note in notes):
            notes.append(text["no_ct"])
        if self.rules.smallest_ml or self.rules.suv_floor:
            notes.append(text["rules"].format(ml=self.rules.smallest_ml, suv=self.rules.suv_floor))
        if self.is_edited:
            notes.append(text["edited"])
        if self.measurement.suv_type != SuvType.bw:
            notes.append(text["suv_type"].format(type=text["suv_types"][self.measurement.suv_type]))
        long_mm = self.suv.geometry.size[0] * self.suv.geometry.spacing_mm[0]
        if long_mm < WHOLE_BODY_MM:
            notes.append(text["short"].format(cm=long_mm / 10))
        if not self.measurement.lesions:
            notes.append(text["none"])
        lesions = self.measurement.lesions
        for key, numbers in (
            ("edge", [n for n in np.unique(_border(self.labels)).tolist() if n]),
            ("tiny", [lesion.number for lesion in lesions if lesion.volume_ml < TINY_ML]),
            ("faint", [lesion.number for lesion in lesions if lesion.suv_max < FAINT_SUV]),
        ):
            if numbers:
                notes.append(text[key].format(numbers=_listed(numbers), ml=TINY_ML, suv=FAINT_SUV))
        return notes


def find(
    case: Case,
    mask: Array,
    probability: Volume | None = None,
    cue: Volume | None = None,
    manifest: Mapping[str, Any] | None = None,
    subject: Subject | None = None,
) -> Findings:
    """Measure a (z, y, x) mask on the case's grid, by the rules and the SUV that its manifest tells.

    Parameters
    ----------
    case : with SUV by body weight.
    subject : needed for any other SUV, and for the standardised Dmax.

    Raises
    ------
    InputError : the manifest is damaged, or SUV of its type needs something that is not known of the body.
    MissingPackageError : connected-components-3d is not installed.
    """
    subject, manifest = subject or Subject(), manifest or {}
    check_manifest(manifest)
    rules, suv_type = rules_of(manifest), suv_type_of(manifest)
    scale = subject.suv_scale(suv_type)
    if scale != 1.0:
        case = replace(case, suv=case.suv.with_array(case.suv.array * case.suv.array.dtype.type(scale)))
    labels = case.suv.with_array(label_lesions(mask, case.suv.array, case.geometry.voxel_ml, rules))
    lesions = measure_lesions(labels, case.suv.array, None if probability is None else probability.array)
    measurement = Measurement(labels, tuple(lesions), burden(lesions, subject), str(suv_type))
    surface_m2 = subject.surface_m2 if subject.has_size else None
    return Findings(case, measurement, probability, cue, manifest, rules, surface_m2)


def read_findings(case: Case, result: Path, subject: Subject | None = None) -> Findings:
    """What `predict` wrote of a case: a folder with mask, manifest and maps as it holds them; or a mask's file.

    Raises
    ------
    InputError : there is no mask, or a file is damaged or lies on another grid.
    """
    if not result.exists():
        raise InputError(f"there is no {result}; expected the folder that l2snet predict wrote, or a mask's file")
    mask = read_mask_on(mask_in(result), "mask", case.geometry)
    if not result.is_dir():
        return find(case, mask, subject=subject)
    probability, cue = (_map_on(result / name, case.geometry) for name in (PROBABILITY, CUE))
    return find(case, mask, probability, cue, read_manifest(result / MANIFEST), subject)


def read_mask_on(path: Path, what: str, grid: Geometry) -> Array:
    """(z, y, x) bool mask of a file, which must lie on the PET's grid.

    Raises
    ------
    InputError : see `read_mask`; or the grid is another.
    """
    mask, other = read_mask(path, what)
    if not other.matches(grid):
        raise InputError(f"the {what} {path.name} ({other}) is not on the PET's grid ({grid}); write it there")
    return mask


def _map_on(path: Path, grid: Geometry) -> Volume | None:
    if not path.is_file():
        return None
    volume = read_volume(path, path.stem)
    if not volume.geometry.matches(grid):
        raise InputError(f"{path.name} ({volume.geometry}) is not on the PET's grid ({grid}); is it another case's?")
    return volume


def _border(labels: Array) -> Array:
    """What lies in the outermost voxels of a (z, y, x) array."""
    return np.concatenate([np.take(labels, end, axis).ravel() for axis in range(3) for end in (0, -1)])


def _listed(numbers: list[int]) -> str:
    more = len(numbers) - MOST_NAMED
    return ", ".join(map(str, numbers[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
