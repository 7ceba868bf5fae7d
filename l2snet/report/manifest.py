"""What a report reads of the manifest that `predict` left: checked, for files are altered, or of another program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2snet import fuse
from l2snet.errors import InputError, reason
from l2snet.measure.lesions import Rules
from l2snet.predict import MANIFEST
from l2snet.subject import SuvType
from l2snet.volume import Array

MAPPINGS = ("measured", "thresholds", "packages", "weights_sha256", "seconds")
# The thresholds of a rule in the order of `Rule`: of the method with a cue, and of one without.
BY_CUE, ALONE = ("off_cue", "on_cue", "cue"), ("lesion",)

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """How probability and cue become the mask: the probability must be above `off`, or, on the cue, above `on`.

    Where it is `cued`, a component of which less than `least_overlap` lies on the cue is cut to it.
    """

    off: float
    on: float | None = None
    cue: float | None = None
    cued: bool = False
    least_overlap: float = 0.0

    def mask(self, probability: Array, cue: Array | None) -> Array:
        """(z, y, x) bool; both maps are float32 in 0..1."""
        if cue is None or self.on is None or self.cue is None:
            return np.asarray(probability > np.float32(self.off))
        thresholds = self.on, self.off, self.cue
        if self.cued:
            return fuse.cued(probability, cue, *thresholds, self.least_overlap) > 0
        return fuse.adaptive(probability, cue, *thresholds) > 0


def read_manifest(path: Path) -> Manifest:
    """A manifest's content, checked; empty where there is no such file.

    Raises
    ------
    InputError : it cannot be read, or holds what no manifest holds.
    """
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); run l2snet predict again") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{path} holds no object; run l2snet predict again")
    check_manifest(manifest, str(path))
    return manifest


def check_manifest(manifest: Manifest, name: str = MANIFEST) -> None:
    """Refuse what a report cannot be made by.

    Parameters
    ----------
    name : what the manifest is called in the sentence.

    Raises
    ------
    InputError : says which entry, what it is and what was expected.
    """
    for key in MAPPINGS:
        if not isinstance(manifest.get(key, {}), Mapping):
            raise _wrong(name, key, manifest[key], "an object")
    if not isinstance(manifest.get("notes", []), list):
        raise _wrong(name, "notes", manifest["notes"], "a list")
    rules_of(manifest, name)
    suv_type_of(manifest, name)
    rule_in(manifest, name)


def rules_of(manifest: Manifest, name: str = MANIFEST) -> Rules:
    """What of the mask counted as lesion.

    Raises
    ------
    InputError : an entry is no number from 0.
    """
    measured = manifest.get("measured", {})
    values = []
    for key in ("smallest_ml", "suv_floor"):
        value = measured.get(key, 0.0)
        if not _is_number(value) or value < 0:
            raise _wrong(name, f"measured.{key}", value, "a number from 0")
        values.append(float(value))
    return Rules(*values)


def suv_type_of(manifest: Manifest, name: str = MANIFEST) -> SuvType:
    """What SUV was normalised by.

    Raises
    ------
    InputError : it is none of `SuvType`.
    """
    value = manifest.get("measured", {}).get("suv_type", SuvType.bw)
    if value not in list(SuvType):
        raise _wrong(name, "measured.suv_type", value, f"one of {', '.join(SuvType)}")
    return SuvType(value)


def threshold_names(manifest: Manifest) -> tuple[str, ...]:
    """The thresholds that make the mask, if thresholds alone make it; else none."""
    if "thresholds" not in manifest:
        return ()
    if ALONE[0] in manifest["thresholds"]:
        return ALONE
    return BY_CUE if manifest.get("fusion") in fuse.RULES else ()


def rule_in(manifest: Manifest, name: str = MANIFEST) -> Rule | None:
    """The rule of thresholds that makes the mask; None for any other method.

    Raises
    ------
    InputError : the manifest tells no number from 0 to 1 for a threshold of the rule.
    """
    names = threshold_names(manifest)
    if not names:
        return None
    values = {key: threshold(manifest, key, name) for key in names}
    least = manifest.get("least_overlap", 0.0)  # a result from before it was told: one voxel did
    if not _is_number(least) or not 0 <= least <= 1:
        raise _wrong(name, "least_overlap", least, "a number from 0 to 1")
    return Rule(values[names[0]], values.get("on_cue"), values.get("cue"), manifest.get("fusion") == "cued", least)


def threshold(manifest: Manifest, key: str, name: str = MANIFEST) -> float:
    """One of the thresholds.

    Raises
    ------
    InputError : it is missing, or no number from 0 to 1.
    """
    value = manifest["thresholds"].get(key)
    if not _is_number(value) or not 0 <= value <= 1:
        raise _wrong(name, f"thresholds.{key}", value, "a number from 0 to 1")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, key: str, value: object, expected: str) -> InputError:
    found = "missing" if value is None and "." in key else f"{json.dumps(value, default=str)[:40]}"
    return InputError(f"{name}: {key} is {found}; expected {expected}: run l2snet predict again")
