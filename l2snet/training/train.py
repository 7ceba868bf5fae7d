"""The two phases as a user starts them: cached cases, a recipe, a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from l2snet.backend import Network
from l2snet.errors import InputError, reason
from l2snet.localize import localize
from l2snet.networks import build
from l2snet.progress import track
from l2snet.sources.autopet import find_studies, read_study
from l2snet.training.cache import CachedCase, write_case
from l2snet.training.datasets import SliceDataset, WindowDataset
from l2snet.training.loop import CHECKPOINT, CUES, fit, start_record
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe


def cached_cases(data: Path, cache: Path, hold_out: Set[str], resample_ct: bool) -> list[CachedCase]:
    """The cases under `data` without those held out, cached.

    Raises
    ------
    InputError : a name to hold out is not there, a study cannot be used, or nothing is left.
    """
    folders = find_studies(data)
    studies = {folder.name: folder for folder in folders}
    if len(studies) < len(folders):
        twice = next(folder for folder in folders if studies[folder.name] != folder)
        raise InputError(f"{twice} and {studies[twice.name]} have one name; rename one, since cases go by folder name")
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
    source = f"{folder.resolve()}{' with its CT resampled' if resample_ct else ''}"
    if not cached.is_whole:
        return write_case(read_study(folder, resample_ct), cache, source)
    found = cached.record.get("source", "something unknown")
    if found != source:
        raise InputError(f"{cached.folder} was made from {found}, not {source}; remove it, or choose another --cache")
    return cached


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
    torch.manual_seed(recipe.seed)
    try:
        network = build(recipe.network, architecture)
    except Exception as error:
        if architecture.get("encoder_weights") is None:
            raise
        raise InputError(
            f"the encoder weights {recipe.encoder_weights!r} cannot be had ({reason(error)}); "
            "give a local file of timm's with --encoder-weights FILE, or none"
        ) from error
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
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, recipe.architecture)
    names = [case.name for case in cases]
    return fit(network, WindowDataset(cases, recipe), recipe, run, names, device, workers, stop_after)


def write_cues(cases: Sequence[CachedCase], localizer: Network, run: Path) -> list[CachedCase]:
    """Compute the location cue of every case, and record in the run by which weights and which cases those had seen.

    A cue that is there already, by the same weights, is kept.

    Returns
    -------
    The cases, with these cues.

    Raises
    ------
    InputError : the run was begun with another localizer.
    """
    seen = set(localizer.config.trained.get("cases", []))
    record = {
        "localizer_sha256": localizer.sha256,
        "cases_the_localizer_was_trained_on": sorted(case.name for case in cases if case.name in seen),
    }
    start_record(run / CUES, json.dumps(record, indent=1) + "\n")
    with_cues = [replace(case, cue_name=f"cue-{localizer.sha256[:12]}") for case in cases]
    for case in track(with_cues, "cues", len(with_cues)):
        if case.cue is None:
            aside = case.cue_path.with_suffix(".part.npy")
            np.save(aside, localize(case.body(), localizer).astype(np.float16))
            aside.replace(case.cue_path)
    return [replace(case) for case in with_cues]
