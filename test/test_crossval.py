"""Cross-validation: folds keep patients together, no step sees its test cases, and a stopped one goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from l2snet import export
from l2snet.backend import Network
from l2snet.errors import InputError
from l2snet.evaluation.summary import Row
from l2snet.networks import build
from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.sources.autopet import patients_among, patients_of, with_patients, write_donors
from l2snet.training import crossval as module
from l2snet.training import train
from l2snet.training.cache import CachedCase
from l2snet.training.crossval import WITHOUT_CUE, Setup, crossval, split
from l2snet.training.datasets import WindowDataset
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe
from l2snet.volume import Geometry, Volume, write_volume
from l2snet.weights import CONFIG, NETWORK, NetworkConfig, read_config, sha256, write_sums

SIZE = (20, 24, 24)
GRID = Geometry(SIZE, WORKING_SPACING_MM)
SETUP = Setup(
    LocalizerRecipe(epochs=1, steps_per_epoch=2, batch=2, crop=(32, 32), widths=(4, 4, 4, 4, 4), encoder_weights=None),
    SegmenterRecipe(
        epochs=1, steps_per_epoch=2, crop=(16, 16, 16), window=(16, 16, 16), widths=(2, 3), norm="channels"
    ),
    folds=2,
)


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

    def write_folder(network: nn.Module, config: NetworkConfig, folder: Path) -> None:
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
        patch.setattr(module, "load", load)
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


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    for seed in (20, 21):
        write_study(tmp_path / "bodies" / f"body_{seed}", seed)
    return tmp_path / "bodies"


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


def test_no_step_sees_its_test_cases(tmp_path: Path, data: Path, bodies: Path) -> None:
    out = tmp_path / "out"
    table = crossval([data], out, SETUP, tmp_path / "cache", [bodies])
    tests = json.loads((out / "folds.json").read_text())
    everything = {"first", "second", "only2", "only3", "only4", "only5", "only6"}
    assert sorted(name for names in tests for name in names) == sorted(everything)
    for number, names in enumerate(tests):
        fold = out / f"fold_{number}"
        cases = (everything - set(names)) | {"body_20", "body_21"}
        patients = patients_of([data, bodies])
        kept = {*cases, *(patients[case] for case in cases)}
        for folder in ("weights/localizer", "weights/segmenter", "without_cue/segmenter"):
            config = read_config(fold / folder)
            assert set(config.trained["cases"]) == kept
            assert config.seen_cases == kept
        assert read_config(fold / "without_cue/segmenter").trained["recipe"]["cue_weight"] == 0
        cues = read_config(fold / "weights/segmenter").trained["cues"]
        assert cues["cases_their_localizer_was_trained_on"] == []  # cues are out-of-fold
        inner = [set(read_config(fold / f"inner_{i}/localizer").trained["cases"]) for i in range(2)]
        assert inner[0] | inner[1] == kept
        assert not inner[0] & inner[1]  # no patient is in both
        assert not list(fold.rglob("checkpoint.safetensors"))
    assert not list((tmp_path / "cache").rglob("cue-*.npy"))
    assert list(table) == [
        "SUV > 2", "2D alone", "3D alone", "L2SNet, off-cue 0.5", "L2SNet, off-cue 0.9", "L2SNet, components",
        WITHOUT_CUE,
    ]  # fmt: skip
    assert all(set(rows) == everything for rows in table.values())
    hot = table["SUV > 2"]
    assert all(hot[name]["dice"] == 1 for name in everything - {"only4"})
    assert np.isnan(hot["only4"]["dice"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Row]]]:
    """A cross-validation that nothing stopped; its folder holds data, cache and out."""
    root = tmp_path_factory.mktemp("whole")
    write_data(root / "data")
    return root, crossval([root / "data"], root / "out", SETUP, root / "cache")


@pytest.mark.parametrize(
    ("holder", "name", "call"),
    [
        pytest.param(WindowDataset, "__getitem__", 7, id="in an epoch of the second segmenter"),
        pytest.param(module, "export_run", 8, id="before the second fold's weights"),
        pytest.param(module, "predictions", 3, id="between two test cases"),
        pytest.param(Path, "unlink", 7, id="while the first fold is tidied up"),
    ],
)
def test_a_stopped_cross_validation_goes_on_to_the_same_result(
    tmp_path: Path,
    whole: tuple[Path, dict[str, dict[str, Row]]],
    monkeypatch: pytest.MonkeyPatch,
    holder: object,
    name: str,
    call: int,
) -> None:
    """Stopped in the n-th call of something, and started again: the same weights, to the bit, and the same table."""
    root, table = whole
    step: Callable[..., object] = getattr(holder, name)
    calls = []

    def stopped(*args: object, **kwargs: object) -> object:
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(holder, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        crossval([root / "data"], tmp_path / "out", SETUP, root / "cache")
    monkeypatch.undo()
    assert len(calls) == call
    again = crossval([root / "data"], tmp_path / "out", SETUP, root / "cache")
    np.testing.assert_equal(again, table)
    networks = sorted(path.relative_to(root / "out") for path in (root / "out").rglob("SHA256SUMS"))
    assert len(networks) == 2 * (SETUP.inner_folds + 3)
    for path in networks:
        assert (tmp_path / "out" / path).read_text() == (root / "out" / path).read_text()
    assert not list((root / "cache").rglob("cue-*.npy"))


def test_a_fold_alone(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines run a fold each in one folder; a finished one trains nothing again."""
    first = crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", only=[0])
    tests = json.loads((tmp_path / "out" / "folds.json").read_text())
    assert set(first["3D alone"]) == set(tests[0])
    both = crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", only=[1])
    assert set(both["3D alone"]) == {*tests[0], *tests[1]}
    monkeypatch.setattr(module, "train_localizer", None)
    monkeypatch.setattr(module, "predictions", None)
    np.testing.assert_equal(crossval([data], tmp_path / "out", SETUP, tmp_path / "cache"), both)


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


def test_weights_that_saw_a_test_case_are_refused(tmp_path: Path, data: Path, bodies: Path) -> None:
    """Weights from bodies may be started from; weights from the data may not."""
    crossval([data], tmp_path / "out", SETUP, tmp_path / "cache", only=[0])
    weights = tmp_path / "out" / "fold_0" / "weights"
    setup = replace(SETUP, pretrained=weights)
    with pytest.raises(InputError, match="which would be tested"):
        crossval([data], tmp_path / "more", setup, tmp_path / "cache", only=[])
    # Another study of a patient.
    seen = max(read_config(weights / "localizer").seen_cases)
    assert seen in {"p5", "p6"}
    write_study(tmp_path / "again" / seen / "later", 40)
    with pytest.raises(InputError, match=f"was trained on {seen}, which would be tested"):
        crossval([tmp_path / "again"], tmp_path / "more", setup, tmp_path / "cache", only=[])
    for seed in range(30, 36):
        write_study(tmp_path / "others" / f"other_{seed}", seed)
    crossval([tmp_path / "others"], tmp_path / "third", setup, tmp_path / "cache", only=[0])
    started = read_config(tmp_path / "third" / "fold_0" / "weights" / "localizer")
    assert started.seen_cases > read_config(weights / "localizer").seen_cases
