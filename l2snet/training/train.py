"""The two phases as a user starts them: cached cases, a recipe, a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from l2snet.backend import Network
from l2snet.errors import InputError
from l2snet.localize import localize
from l2snet.networks import build
from l2snet.sources.autopet import find_studies, read_study
from l2snet.training.cache import CachedCase, write_case
from l2snet.training.datasets import SliceDataset, WindowDataset
from l2snet.training.loop import CHECKPOINT, fit
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe

CUES = "cues.json"


def cached_cases(data: Path, cache: Path, hold_out: Set[str], resample_ct: bool) -> list[CachedCase]:
    """The cases under `data` without those held out, cached.

    Raises
    ------
    InputError : a name to hold out is not there, a study cannot be used, or nothing is left.
    """
    studies = {folder.name: folder for folder in find_studies(data)}
    unknown = sorted(set(hold_out) - set(studies))
    if unknown:
        raise InputError(f"{', '.join(unknown)} cannot be held out: not among the {len(studies)} studies under {data}")
    kept = [folder for name, folder in studies.items() if name not in hold_out]
    if not kept:
        raise InputError(f"all {len(studies)} studies under {data} are held out; nothing is left to train on")
    return [cache_study(folder, cache, resample_ct) for folder in kept]


def cache_study(folder: Path, cache: Path, resample_ct: bool) -> CachedCase:
    """One study, read and cached unless it is there already."""
    cached = CachedCase(cache / folder.name)
    return cached if cached.is_whole else write_case(read_study(folder, resample_ct), cache)


def train_localizer(
    cases: Sequence[CachedCase],
    recipe: LocalizerRecipe,
    run: Path,
    device: str = "auto",
    workers: int = 0,
    stop_after: int | None = None,
) -> Path:
    """Phase 1 (section 3.2); returns the checkpoint."""
    architecture = dict(recipe.architecture)
    if not (run / CHECKPOINT).is_file():
        architecture["encoder_weights"] = recipe.encoder_weights
    network = build(recipe.network, architecture)
    names = [case.name for case in cases]
    return fit(network, SliceDataset(cases, recipe), recipe, run, names, device, workers, stop_after)


def train_segmenter(
    cases: Sequence[CachedCase],
    recipe: SegmenterRecipe,
    run: Path,
    device: str = "auto",
    workers: int = 0,
    stop_after: int | None = None,
) -> Path:
    """Phase 2 (section 3.3); the cases hold their cues (`write_cues`) unless the recipe has no cue weight."""
    network = build(recipe.network, recipe.architecture)
    names = [case.name for case in cases]
    return fit(network, WindowDataset(cases, recipe), recipe, run, names, device, workers, stop_after)


def write_cues(cases: Sequence[CachedCase], localizer: Network, run: Path) -> None:
    """Compute the location cue of every case and record in the run by which weights, and whether those saw the case."""
    seen = set(localizer.config.trained.get("cases", []))
    for case in cases:
        np.save(case.folder / "cue.npy", localize(case.body(), localizer).astype(np.float16))
    record = {
        "localizer_sha256": localizer.sha256,
        "cases_the_localizer_was_trained_on": sorted(case.name for case in cases if case.name in seen),
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / CUES).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
