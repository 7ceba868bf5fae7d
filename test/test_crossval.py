"""Cross-validation: folds keep patients together, no step sees its test cases, and a stopped one goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_step_by_step_training import TINY
from torch import nn

from l2snet import export
from l2snet.backend import Network
from l2snet.errors import InputError
from l2snet.evaluation.records import Records
from l2snet.evaluation.summary import Row
from l2snet.methods import METHODS, make_plan
from l2snet.networks import build
from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.sources.autopet import patients_among, patients_of, with_patients, write_donors
from l2snet.training import fold, plans, train
from l2snet.training.cache import CachedCase
from l2snet.training.crossval import Setup, crossval
from l2snet.training.datasets import WindowDataset
from l2snet.training.fold import split
from l2snet.training.named import LOCALIZERS, STEP_BY_STEPS
from l2snet.training.plans import WITHOUT_CUE, L2SNetPlan, StepByStepPlan
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe
from l2snet.training.step_by_step import CropDataset
from l2snet.volume import Geometry, Volume, write_volume
from l2snet.weights import CONFIG, NETWORK, NetworkConfig, read_config, sha256, write_sums

SIZE = (20, 24, 24)
GRID = Geometry(SIZE, WORKING_SPACING_MM)
LOCALIZER = LocalizerRecipe(
    epochs=1, steps_per_epoch=2, batch=2, crop=(32, 32), widths=(4, 4, 4, 4, 4), encoder_weights=None
)
SEGMENTER = SegmenterRecipe(
    epochs=1, steps_per_epoch=2, crop=(16, 16, 16), window=(16, 16, 16), widths=(2, 3), norm="channels"
)
SETUPS = {
    "l2snet": Setup(L2SNetPlan(LOCALIZER, SEGMENTER), folds=2),
    "step-by-step": Setup(StepByStepPlan(replace(TINY, epochs=1, cosine_epochs=1)), folds=2),
}
SETUP = SETUPS["l2snet"]
ROWS = {
    "l2snet": [
        "2D alone",
        "3D alone",
        "L2SNet, off-cue 0.5",
        "L2SNet, off-cue 0.9",
        "L2SNet, cued",
        "L2SNet, components",
        WITHOUT_CUE,
    ],
    "step-by-step": ["Step-by-Step"],
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors as small as these are slower on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def plain_weights() -> Iterator[None]:
    """Weights folders without ONNX, whose export takes longer than all the rest: the state dict, run by PyTorch."""

    def write_folder(network: nn.Module, config: NetworkConfig, folder: Path, *_: object) -> None:
        folder.mkdir(parents=True)
        save_file(network.state_dict(), str(folder / NETWORK))
        (folder / CONFIG).write_text(config.to_json(), "utf-8")
        write_sums(folder)

    def load_network(path: Path, config: NetworkConfig) -> nn.Module:
        network = build(config.network, config.architecture)
        network.load_state_dict(load_file(str(path)))
        return network.eval()

    def load(folder: Path, *_: str) -> Network:
        config = read_config(folder)
        network = load_network(folder / NETWORK, config)

        def run(batch: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return torch.sigmoid(network(torch.from_numpy(batch))).numpy()

        return Network(config, sha256(folder / NETWORK), "torch", run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write_folder", write_folder)
        patch.setattr(train, "load_network", load_network)
        patch.setattr(fold, "load", load)
        yield


def write_study(folder: Path, seed: int, lesion: bool = True) -> None:
    rng = np.random.default_rng(seed)
    suv = rng.uniform(0.5, 2.0, SIZE).astype(np.float32)
    mask = np.zeros(SIZE, np.uint8)
    if lesion:
        mask[6:12, 8:14, 9:15] = 1
    suv[mask > 0] += 8
    write_volume(Volume(suv, GRID), folder / "SUV.nii.gz", compress=False)
    write_volume(Volume(rng.uniform(-200, 200, SIZE).astype(np.float32), GRID), folder / "CTres.nii.gz", compress=False)
    write_volume(Volume(mask, GRID), folder / "SEG.nii.gz", compress=False)


def write_data(root: Path) -> None:
    """Six patients, the first with two studies; the fourth has no lesion."""
    for seed, name in enumerate(("p1/first", "p1/second", "p2/only2", "p3/only3", "p5/only5", "p6/only6")):
        write_study(root / name, seed)
    write_study(root / "p4" / "only4", 9, lesion=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    return tmp_path / "data"


def write_bodies(root: Path) -> None:
    for seed in (20, 21):
        write_study(root / f"body_{seed}", seed)


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    write_bodies(tmp_path / "bodies")
    return tmp_path / "bodies"


@dataclass(frozen=True)
class Whole:
    """A cross-validation that nothing stopped; `root` holds data, bodies, cache and out."""

    method: str
    root: Path
    table: dict[str, dict[str, Row]]

    @property
    def setup(self) -> Setup:
        return SETUPS[self.method]

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def last(self) -> str:
        """The network of a fold's last training."""
        return list(self.setup.plan.recipes)[-1]

    def again(self, out: Path, only: list[int] | None = None) -> dict[str, dict[str, Row]]:
        return crossval([self.root / "data"], out, self.setup, self.root / "cache", [self.root / "bodies"], only=only)

    def begun(self, out: Path, number: int) -> Path:
        """A copy of its results in which the last training of a fold, and its tests, are still to be done."""
        shutil.copytree(self.out, out)
        for name in (f"weights/{self.last}", f"runs/weights_{self.last}", "cases"):
            shutil.rmtree(out / f"fold_{number}" / name)
        return out


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """Each method's, made once."""

    @cache
    def make(method: str) -> Whole:
        root = tmp_path_factory.mktemp("whole")
        write_data(root / "data")
        write_bodies(root / "bodies")
        begun = Whole(method, root, {})
        return replace(begun, table=begun.again(begun.out))

    return make


@pytest.fixture(params=SETUPS)
def whole(request: pytest.FixtureRequest, wholes: Callable[[str], Whole]) -> Whole:
    return wholes(request.param)


class FakeCase(CachedCase):
    """A case that is only a name and whether it has a lesion."""

    @property
    def lesions(self) -> np.ndarray:  # type: ignore[override]
        return np.array([self.cue_name == "lesion"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folds_keep_patients_together_and_spread_lesions(seed: int) -> None:
    """Twenty patients, ten with lesions; every fourth has two studies. Four folds."""
    cases, patients = [], {}
    for number in range(20):
        for study in range(2 if number % 4 == 0 else 1):
            case = FakeCase(Path(f"s{number}_{study}"), "lesion" if number % 2 else "none")
            cases.append(case)
            patients[case.name] = f"p{number}"
    parts = split(cases, patients, 4, seed)
    assert sorted(case.name for part in parts for case in part) == sorted(patients)
    where = {name: {i for i, part in enumerate(parts) if any(patients[c.name] == name for c in part)} for name in
             set(patients.values())}  # fmt: skip
    assert all(len(folds) == 1 for folds in where.values())
    for part in parts:
        assert sum(case.cue_name == "lesion" for case in part) in (2, 3)
    assert split(cases, patients, 4, seed) == parts
    assert split(cases, patients, 4, seed + 1) != parts


def test_too_few_patients_are_refused() -> None:
    cases = [FakeCase(Path(name), "lesion") for name in "ab"]
    with pytest.raises(InputError, match="1 patients cannot be shared among 2 folds"):
        split(cases, {"a": "one", "b": "one"}, 2, 0)
    cases = [FakeCase(Path(name), "lesion" if name < "c" else "none") for name in "abcd"]
    with pytest.raises(InputError, match="cannot be spread evenly over 3 folds"):
        split(cases, {name: name for name in "abcd"}, 3, 0)


def test_the_patient_is_the_first_folder(data: Path, bodies: Path) -> None:
    found = patients_of([data, bodies])
    assert found["first"] == found["second"] == "p1"
    assert found["only4"] == "p4"
    assert found["body_20"] == "body_20"
    assert patients_among(["second", "p4", "elsewhere"], found) == {"p1", "p4", "elsewhere"}
    assert with_patients(["second", "body_20"], found) == ["body_20", "p1", "second"]


EVERYTHING = {"first", "second", "only2", "only3", "only4", "only5", "only6"}


def trained_on(whole: Whole, number: int) -> set[str]:
    """What a fold may train on, by names of studies and patients."""
    tests = json.loads((whole.out / "folds.json").read_text())
    assert sorted(name for names in tests for name in names) == sorted(EVERYTHING)
    cases = (EVERYTHING - set(tests[number])) | {"body_20", "body_21"}
    return set(with_patients(cases, patients_of([whole.root / "data", whole.root / "bodies"])))


@pytest.mark.parametrize("number", [0, 1])
def test_no_step_sees_its_test_cases(whole: Whole, number: int) -> None:
    kept, folder = trained_on(whole, number), whole.out / f"fold_{number}"
    for name, role in whole.setup.plan.tested:
        config = read_config(folder / name / role)
        assert set(config.trained["cases"]) == kept
        assert config.seen_cases == kept
    for path in folder.rglob(CONFIG):
        assert read_config(path.parent).seen_cases <= kept
    assert not list(folder.rglob("checkpoint.safetensors"))


def test_the_rows_are_of_every_case(whole: Whole) -> None:
    assert list(whole.table) == ["SUV > 2", *ROWS[whole.method]]
    assert all(set(rows) == EVERYTHING for rows in whole.table.values())
    hot = whole.table["SUV > 2"]
    assert all(hot[name]["dice"] == 1 for name in EVERYTHING - {"only4"})
    assert np.isnan(hot["only4"]["dice"])


@pytest.mark.parametrize("whole", ["l2snet"], indirect=True)
@pytest.mark.parametrize("number", [0, 1])
def test_cues_are_out_of_fold(whole: Whole, number: int) -> None:
    kept, folder = trained_on(whole, number), whole.out / f"fold_{number}"
    assert read_config(folder / "without_cue/segmenter").trained["recipe"]["cue_weight"] == 0
    cues = read_config(folder / "weights/segmenter").trained["cues"]
    assert cues["cases_their_localizer_was_trained_on"] == []
    inner = [set(read_config(folder / f"inner_{i}/localizer").trained["cases"]) for i in range(2)]
    assert inner[0] | inner[1] == kept
    assert not inner[0] & inner[1]
    assert not list((whole.root / "cache").rglob("cue-*.npy"))


@pytest.mark.parametrize(
    ("whole", "holder", "name", "call"),
    [
        pytest.param("l2snet", WindowDataset, "__getitem__", 3, id="in an epoch of the second segmenter"),
        pytest.param("l2snet", fold, "export_run", 1, id="before its weights are there"),
        pytest.param("l2snet", Records, "put", 2, id="between two test cases"),
        pytest.param("l2snet", Path, "unlink", 3, id="while the first fold is tidied up"),
        pytest.param("step-by-step", CropDataset, "__getitem__", 3, id="Step-by-Step, in an epoch"),
        pytest.param("step-by-step", fold, "export_run", 1, id="Step-by-Step, before its weights are there"),
        pytest.param("step-by-step", Records, "put", 2, id="Step-by-Step, between two test cases"),
    ],
    indirect=["whole"],
)
def test_a_stopped_cross_validation_goes_on_to_the_same_result(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, holder: object, name: str, call: int
) -> None:
    """Stopped in the n-th call of something, and started again: the same weights, to the bit, and the same table."""
    out = whole.begun(tmp_path / "out", 0)
    step: Callable[..., object] = getattr(holder, name)
    calls = []

    def stopped(*args: object, **kwargs: object) -> object:
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(holder, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        whole.again(out)
    monkeypatch.undo()
    assert len(calls) == call
    np.testing.assert_equal(whole.again(out), whole.table)
    networks = sorted(path.relative_to(whole.out) for path in whole.out.rglob("SHA256SUMS"))
    assert len(networks) == 2 * {"l2snet": 5, "step-by-step": 1}[whole.method]
    for path in networks:
        assert (out / path).read_text() == (whole.out / path).read_text()
    assert not list((whole.root / "cache").rglob("cue-*.npy"))


def test_a_fold_alone(tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines run a fold each in one folder; a finished one trains and tests nothing again."""
    out = whole.begun(tmp_path / "out", 1)
    tests = json.loads((out / "folds.json").read_text())
    assert all(set(rows) == set(tests[0]) for rows in whole.again(out, [0]).values())
    np.testing.assert_equal(whole.again(out, [1]), whole.table)
    for holder, name in ((fold, "export_run"), (plans, "train_localizer"), (plans, "train_segmenter"),
                         (plans, "train_step_by_step"), (plans, "predictions")):  # fmt: skip
        monkeypatch.setattr(holder, name, None)
    np.testing.assert_equal(whole.again(out), whole.table)


def test_the_folds_are_the_same_whatever_the_method(tmp_path: Path, data: Path) -> None:
    """So that tables of two methods can be set beside each other; folders in another order than names."""
    (data / "p2").rename(data / "z2")
    for method, setup in SETUPS.items():
        crossval([data], tmp_path / method, setup, tmp_path / "cache", only=[])
    first, second = (json.loads((tmp_path / method / "folds.json").read_text()) for method in SETUPS)
    assert first == second


def test_settings_are_written_as_ever(tmp_path: Path, data: Path) -> None:
    """A folder is known by this text: its order is part of it."""
    crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", only=[])
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    expected = ["localizer", "segmenter", "folds", "inner_folds", "seed", "pretrained", "resample_ct", "cases"]
    assert list(settings) == expected


def test_every_method_has_a_plan() -> None:
    """Made of its recipes of one name; options that are None stay at their defaults."""
    for method, kind in METHODS.items():
        plan = make_plan(method, lambda named: named["small"], inner_folds=None)
        assert list(plan.recipes) == list(kind.roles)
        assert all(recipe.name == "small" for recipe in plan.recipes.values())
    assert make_plan("l2snet", lambda named: named["paper"], inner_folds=3).options == {"inner_folds": 3}
    with pytest.raises(InputError, match="inner_folds is 1; expected at least 2"):
        make_plan("l2snet", lambda named: named["paper"], inner_folds=1)
    with pytest.raises(InputError, match="--inner-folds has no part in --method step-by-step; leave it out"):
        make_plan("step-by-step", lambda named: named["paper"], inner_folds=3)
    assert make_plan("l2snet", lambda named: named["paper"]).recipes["localizer"] == LOCALIZERS["paper"]
    assert make_plan("step-by-step", lambda named: named["paper"]).recipes["step_by_step"] == STEP_BY_STEPS["paper"]


def test_a_fold_that_is_not_there_is_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match="fold 2 was asked for; there are folds 0 to 1"):
        crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", only=[2])


def test_a_patient_is_not_tested_and_always_trained_on(tmp_path: Path, data: Path) -> None:
    write_study(tmp_path / "more" / "p1" / "third", 5)
    with pytest.raises(InputError, match="p1 would be tested and always trained on"):
        crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", [tmp_path / "more"])
    (tmp_path / "more" / "p1").rename(tmp_path / "more" / "body")
    write_donors(["only2"], tmp_path / "more" / "body" / "third")  # a synthetic body with a tumour of p2
    with pytest.raises(InputError, match="p2 would be tested and always trained on"):
        crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", [tmp_path / "more"])
    assert not (tmp_path / "out").exists()


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, data: Path, bodies: Path) -> None:
    crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", only=[])
    with pytest.raises(InputError, match="another run"):
        crossval([data], tmp_path / "out", replace(SETUP, seed=1), tmp_path / "cache", only=[])
    with pytest.raises(InputError, match="another run"):
        crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", [bodies], only=[])


def test_weights_that_saw_a_test_case_are_refused(tmp_path: Path, whole: Whole) -> None:
    """Weights from other patients may be started from; weights from the data may not."""
    weights, cache = whole.out / "fold_0" / "weights", tmp_path / "cache"
    setup = replace(whole.setup, pretrained=weights)
    with pytest.raises(InputError, match="which would be tested"):
        crossval([whole.root / "data"], tmp_path / "more", setup, cache, only=[])
    # Another study of a patient whom the weights know by the name of one.
    before = read_config(weights / whole.last).seen_cases
    seen = min(before - {"body_20", "body_21"})
    write_study(tmp_path / "again" / seen / "later", 40)
    with pytest.raises(InputError, match=f"was trained on {seen}, which would be tested"):
        crossval([tmp_path / "again"], tmp_path / "more", setup, cache, only=[])
    for seed in range(30, 36):
        write_study(tmp_path / "others" / f"other_{seed}", seed)
    crossval([tmp_path / "others"], tmp_path / "third", setup, cache, only=[0])
    for role in setup.plan.recipes:
        assert read_config(tmp_path / "third" / "fold_0" / "weights" / role).seen_cases > before
