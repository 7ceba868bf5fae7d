"""The two phases as a user starts them: cached cases, a recipe, a run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from l2snet.backend import Network
from l2snet.errors import InputError, reason
from l2snet.export import load_network
from l2snet.localize import localize
from l2snet.networks import build
from l2snet.organs import CLASSES
from l2snet.progress import track
from l2snet.sources.autopet import find_studies, patients_among, patients_of, read_donors, read_study
from l2snet.training.cache import CachedCase, write_case
from l2snet.training.datasets import Sample, SliceDataset, WindowDataset
from l2snet.training.loop import CHECKPOINT, CUES, START, fit, start_record
from l2snet.training.losses import BceDice
from l2snet.training.recipes import LocalizerRecipe, Recipe, SegmenterRecipe
from l2snet.weights import NETWORK, ORGAN_HEAD, read_config, sha256

logger = logging.getLogger(__name__)


def cached_cases(
    data: Sequence[Path], cache: Path, hold_out: Set[str] = frozenset(), resample_ct: bool = False
) -> list[CachedCase]:
    """The cases under the `data` folders without those held out, cached; a case may lack a CT.

    Raises
    ------
    InputError : a study cannot be used; or see `check_names`.
    """
    found = [(folder, source) for source, root in enumerate(data) for folder in find_studies(root)]
    check_names([(folder.name, source, folder) for folder, source in found], data, hold_out)
    kept = [(folder, source) for folder, source in found if folder.name not in hold_out]
    patients = patients_of(data)
    cases = [
        replace(cache_study(folder, cache, resample_ct), source=source, patient=patients[folder.name])
        for folder, source in track(kept, "cached cases", len(kept))
    ]
    tell_without_ct(cases)
    return cases


def check_folders(data: Sequence[Path], watch: Sequence[Path]) -> None:
    """Refuse studies to watch that have the names of studies of the data: cases go by name.

    Raises
    ------
    InputError : says which.
    """
    names = [
        {folder.name for root in roots for folder in find_studies(root)} if watch else set() for roots in (data, watch)
    ]
    if both := sorted(names[0] & names[1]):
        raise InputError(
            f"{', '.join(both[:5])}: studies of this name are in the folders to watch and in those to train on; "
            "watch a folder of other studies, with other names"
        )


def check_names(cases: Sequence[tuple[str, int, Path]], data: Sequence[Path], hold_out: Set[str]) -> None:
    """Refuse names that are not unique, and names to hold out that make no sense.

    Parameters
    ----------
    cases : name, number of the data folder, and place of every case of the data.

    Raises
    ------
    InputError : two cases have one name, a name to hold out is not there, or nothing is left of a folder.
    """
    places: dict[str, Path] = {}
    for name, _, place in cases:
        if name in places:
            raise InputError(
                f"two cases are named {name}, in {places[name]} and in {place}; rename one, or leave it out, "
                "since cases go by name"
            )
        places[name] = place
    unknown = sorted(set(hold_out) - set(places))
    if unknown:
        roots = ", ".join(str(root) for root in data)
        raise InputError(f"{', '.join(unknown)} cannot be held out: not among the {len(places)} cases of {roots}")
    left = {source for name, source, _ in cases if name not in hold_out}
    for source, root in enumerate(data):
        if source not in left:
            raise InputError(f"all cases of {root} are held out; nothing is left to train on")


def tell_without_ct(cases: Sequence[TrainingCase]) -> None:
    """Log how many cases have no CT, if any."""
    without_ct = sum(case.ct is None for case in cases)
    if without_ct:
        logger.warning("%d of %d cases have no CT", without_ct, len(cases))


class TrainingCase(Protocol):
    """What every kind of training case has."""

    @property
    def name(self) -> str:
        """The case's name."""

    @property
    def patient(self) -> str:
        """Name of its patient; "" where that is the case's."""

    @property
    def source(self) -> int:
        """Number of the data folder that it is from."""

    @property
    def ct(self) -> object | None:
        """Its CT, or None."""

    @property
    def has_lesions(self) -> bool:
        """Whether it has any lesion voxel."""

    @property
    def donors(self) -> Sequence[str]:
        """Names of the cases whose tumours it may hold."""


C = TypeVar("C", bound=TrainingCase)
R = TypeVar("R", bound=Recipe)


def learnt_from(cases: Sequence[TrainingCase]) -> list[str]:
    """Names of the cases, in order, and of their patients and those whose tumours they may hold: all that is seen."""
    names = [case.name for case in cases]
    others = {name for case in cases for name in (case.patient or case.name, *case.donors)}
    return names + sorted(others - set(names))


def cache_study(folder: Path, cache: Path, resample_ct: bool) -> CachedCase:
    """One study, read and cached unless it is there already."""
    cached = CachedCase(cache / folder.name)
    source = f"{folder.resolve()}{' with its CT resampled' if resample_ct else ''}"
    if not cached.is_whole:
        return write_case(read_study(folder, resample_ct, ct_optional=True), cache, source, read_donors(folder))
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
    pretrained: Path | None = None,
    watch: Sequence[CachedCase] = (),
) -> Path:
    """Phase 1 (section 3.2); returns the checkpoint.

    Parameters
    ----------
    pretrained : weights folder to start from, instead of the recipe's encoder weights.
    watch : cases that are not trained on, see `watched`.
    """
    architecture = dict(recipe.architecture)
    if pretrained is None and not (run / CHECKPOINT).is_file():
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
    start_from(network, recipe, pretrained, run)
    loss = _loss(network, recipe, pretrained)
    data, seen = SliceDataset(cases, recipe), learnt_from(cases)
    others = watched(SliceDataset, cases, watch, recipe, pretrained)
    return fit(network, data, recipe, run, seen, device, workers, stop_after, criterion=loss, watched=others)


def train_segmenter(
    cases: Sequence[CachedCase],
    recipe: SegmenterRecipe,
    run: Path,
    device: str = "auto",
    workers: int = 0,
    stop_after: int | None = None,
    pretrained: Path | None = None,
    compiled: bool = False,
    watch: Sequence[CachedCase] = (),
) -> Path:
    """Phase 2 (section 3.3); the cases hold their cues (`write_cues`) unless the recipe has no cue weight.

    Parameters
    ----------
    watch : cases that are not trained on, see `watched`; they need no cue.
    """
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, recipe.architecture)
    start_from(network, recipe, pretrained, run)
    loss = _loss(network, recipe, pretrained)
    data, seen = WindowDataset(cases, recipe), learnt_from(cases)
    others = watched(WindowDataset, cases, watch, replace(recipe, cue_weight=0.0), pretrained)
    return fit(network, data, recipe, run, seen, device, workers, stop_after, compiled, loss, others)


def watched(
    make: Callable[[Sequence[C], R], Dataset[Sample]],
    cases: Sequence[C],
    watch: Sequence[C],
    recipe: R,
    pretrained: Path | None = None,
) -> dict[str, Dataset[Sample]]:
    """Samples of what is trained on and of what is not, to tell what is learnt from what is learnt by heart.

    Parameters
    ----------
    make : the dataset of cases and a recipe.
    watch : beside the cases of as many data folders, the first ones, in their shares; none: nothing is watched.

    Raises
    ------
    InputError : see `check_watched`.
    """
    if not watch:
        return {}
    check_watched(cases, watch, pretrained)
    folders = 1 + max(case.source for case in watch)
    like = replace(recipe, shares=None if recipe.shares is None else recipe.shares[:folders])
    beside = [case for case in cases if case.source < folders]
    return {"seen_loss": make(beside, like), "held_out_loss": make(watch, like)}


def check_watched(cases: Sequence[TrainingCase], watch: Sequence[TrainingCase], pretrained: Path | None = None) -> None:
    """Refuse to watch what is learnt from.

    Parameters
    ----------
    pretrained : weights folder that the training starts from.

    Raises
    ------
    InputError : a watched case, its patient or a patient whose tumours it may hold is trained on, or was in the weights
        that the training starts from; or there are more folders of them than are trained on.
    """
    learnt = {*learnt_from(cases), *(read_config(pretrained).learnt_cases if pretrained and watch else ())}
    if both := [case.name for case in watch if {case.name, case.patient or case.name} & learnt]:
        raise InputError(
            f"{', '.join(both[:5])} is watched, and trained on or known to the weights that are started from; "
            "watch other cases"
        )
    if donors := sorted({name for case in watch for name in case.donors} & learnt):
        raise InputError(
            f"watched cases hold tumours of {', '.join(donors[:5])}, which are trained on; draw them with other tumours"
        )
    if watch and max(case.source for case in watch) > max(case.source for case in cases):
        raise InputError(
            "more folders are watched than are trained on; each stands beside one of these, in their order"
        )


def check_statistics(recipe: Recipe, pretrained: Path | None) -> None:
    """Refuse a recipe that keeps the statistics of weights, where there are none to start from.

    Raises
    ------
    InputError : so it is.
    """
    if recipe.keep_statistics and pretrained is None:
        raise InputError("keep_statistics keeps those of weights to start from: give them with --pretrained")


def _loss(network: nn.Module, recipe: LocalizerRecipe | SegmenterRecipe, pretrained: Path | None) -> BceDice:
    """The recipe's loss; adds a head to the network where it learns organs, that of the weights it starts from if any.

    A head that knows nothing yet would undo some of what the weights know.
    """
    if recipe.organ_weight:
        network.learn_organs(CLASSES)  # type: ignore[operator]  # nn.Module calls every attribute a tensor
        if pretrained is not None and (pretrained / ORGAN_HEAD).is_file():
            try:
                network.organ_head.load_state_dict(load_file(str(pretrained / ORGAN_HEAD)))  # type: ignore[union-attr]
            except Exception as error:
                raise InputError(
                    f"{pretrained / ORGAN_HEAD} holds no head of these organs ({reason(error)}); export the weights "
                    "again, or begin with a new head: remove the file, and its line in SHA256SUMS"
                ) from error
    return BceDice(recipe.bce_weight, recipe.organ_weight)


def start_from(network: nn.Module, recipe: Recipe, pretrained: Path | None, run: Path) -> None:
    """Load a weights folder into the network, in place, and record in the run what it was and what it had seen.

    Only the stride may differ: the parameters are of one shape for all.

    Raises
    ------
    InputError : the weights are of another network, or the run was begun with others; see `check_statistics`.
    """
    check_statistics(recipe, pretrained)
    if recipe.keep_statistics and not any(
        isinstance(one, nn.modules.batchnorm._BatchNorm) for one in network.modules()
    ):
        raise InputError(f"this {recipe.network} has no batch norm whose statistics could be kept")
    if pretrained is None:
        if (run / START).is_file():
            raise InputError(f"{run} was begun from weights ({run / START}); give the same with --pretrained")
        return
    config = read_config(pretrained)
    state = load_network(pretrained / NETWORK, config).state_dict()
    alike = {**config.architecture, **{k: v for k, v in recipe.architecture.items() if k == "stride"}}
    shapes = [{name: value.shape for name, value in one.items()} for one in (state, network.state_dict())]
    if config.network != recipe.network or alike != recipe.architecture or shapes[0] != shapes[1]:
        raise InputError(
            f"{pretrained} holds a {config.network} of {dict(config.architecture)}, and the recipe's is a "
            f"{recipe.network} of {recipe.architecture}; they must be the same to start from"
        )
    if not (run / START).is_file() and (run / CHECKPOINT).is_file():
        raise InputError(f"{run} was begun without weights; leave --pretrained out, or give another run folder")
    record = {"sha256": sha256(pretrained / NETWORK), "cases": sorted(config.learnt_cases)}
    start_record(run / START, json.dumps(record, indent=1) + "\n")
    network.load_state_dict(state)


def cue_name(sha256: str, slice_stride: int) -> str:
    """Name of the cue by the localizer of this hash, run at this stride."""
    return f"cue-{sha256[:12]}" + (f"-{slice_stride}" if slice_stride > 1 else "")


def write_cues(cases: Sequence[CachedCase], localizers: Sequence[Network], run: Path) -> list[CachedCase]:
    """Compute the location cue of every case by a localizer that did not see it, and record in the run which did.

    A cue that is there already, by the same weights, is kept.

    Parameters
    ----------
    localizers : the first that did not see a case's patient gives its cue. Where all did, the first that saw them only
        in the weights it started from, else the first; a warning says for how many.

    Returns
    -------
    The cases, with these cues.

    Raises
    ------
    InputError : the run was begun with other localizers.
    """
    patient = {case.name: case.patient or case.name for case in cases}
    seen = {one.sha256: patients_among(one.config.learnt_cases, patient) for one in localizers}
    itself = {one.sha256: patients_among(one.config.trained.get("cases", []), patient) for one in localizers}
    chosen = {
        case: next(
            (one for saw in (seen, itself) for one in localizers if patient[case.name] not in saw[one.sha256]),
            localizers[0],
        )
        for case in cases
    }
    not_held_out = sorted(case.name for case, one in chosen.items() if patient[case.name] in seen[one.sha256])
    if not_held_out:
        logger.warning("the cue of %d of %d cases is by a localizer that saw them", len(not_held_out), len(cases))
    record = {
        "localizers": [{"sha256": one.sha256, "cases": sorted(one.config.learnt_cases)} for one in localizers],
        "cases_their_localizer_was_trained_on": not_held_out,
    }
    start_record(run / CUES, json.dumps(record, indent=1) + "\n")
    with_cues = {
        replace(case, cue_name=cue_name(one.sha256, one.config.slice_stride)): one for case, one in chosen.items()
    }
    for case, localizer in track(with_cues.items(), "cues", len(with_cues)):
        if not case.cue_path.is_file():
            aside = case.cue_path.with_suffix(".part.npy")
            np.save(aside, localize(case.body(), localizer).astype(np.float16))
            aside.replace(case.cue_path)
    return list(with_cues)
