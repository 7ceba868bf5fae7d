"""What measures and shows 3D networks: ablations and their table, the storage's figures, the picture of channels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_step_by_step_store import make_case
from test_step_by_step_training import TINY

from l2snet.cli import main
from l2snet.errors import InputError
from l2snet.sources.autopet import patients_of, write_donors
from l2snet.training import ablation, named
from l2snet.training.ablation import AS_IT_IS, MASK_ALONE, Ablation, named_studies, table
from l2snet.training.recipes import SegmenterRecipe
from l2snet.training.step_by_step import stored_cases
from l2snet.volume import write_volume

Row = dict[str, float]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Studies `a`, `bb` and `ccc`, with a lesion but the last."""
    for name in ("a", "bb", "ccc"):
        case = make_case(name, lesion=name != "ccc", size=(20, 22, 24))
        assert case.ct is not None
        assert case.lesions is not None
        for volume, file in ((case.suv, "SUV"), (case.ct, "CTres"), (case.lesions, "SEG")):
            write_volume(volume, tmp_path / "data" / name / f"{file}.nii.gz", compress=True)
    return tmp_path / "data"


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_an_ablation_trains_pairs_and_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed, two trainings of one epoch; the same command trains nothing again and gives the same table."""
    monkeypatch.setitem(named.STEP_BY_STEPS, "tiny", replace(TINY, epochs=1, cosine_epochs=1))
    line = ["ablation", data, tmp_path / "out", "--hold-out", "bb,ccc", "--recipe", "tiny", "--seeds", "4"]
    line += ["--cache", tmp_path / "cache", "--device", "cpu", "--workers", "0"]
    texts = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in line])
        assert ended.value.code == 0
        texts.append((tmp_path / "out" / "table.md").read_text("utf-8"))
        monkeypatch.setattr(ablation, "train_step_by_step", None)
        monkeypatch.setattr(ablation.StepByStep, "segment", None)
    assert texts[0] == texts[1]
    for arm, channels in (("as-it-is", 8), ("channels-1", 1)):
        folder = tmp_path / "out" / f"{arm}_seed_4"
        config = json.loads((folder / "weights" / "step_by_step" / "config.json").read_text("utf-8"))
        assert config["architecture"]["out_channels"] == channels
        assert config["trained"]["recipe"]["seed"] == 4
        assert config["trained"]["cases"] == ["a"]
        assert {file.stem for file in (folder / "cases").iterdir()} == {"bb", "ccc"}
    cells = re.findall(r"^\| (.+?) \| (\S+) \| 2 \|", texts[0], re.MULTILINE)
    assert cells == [(arm, seed) for arm in (AS_IT_IS, MASK_ALONE) for seed in ("4", "all")]


@pytest.mark.usefixtures("one_thread")
def test_an_ablation_of_the_segmenter(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two norms, trained once and tested with CT and without: the runs are those of the first command."""
    tiny = SegmenterRecipe(
        name="tiny", epochs=4, steps_per_epoch=1, batch=1, crop=(8, 8, 8), widths=(2, 4), norm="batch"
    )
    monkeypatch.setitem(named.SEGMENTERS, "tiny", tiny)
    line = ["ablation", data, tmp_path / "out", "--network", "segmenter", "--recipe", "tiny", "--hold-out", "bb,ccc"]
    line += ["--arm", "norm=channels ct_dropout=0.5", "--set", "epochs=1", "--seeds", "4"]
    line += ["--cache", tmp_path / "cache", "--device", "cpu", "--workers", "0"]
    for more in ([], ["--pet-only"]):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in [*line, *more]])
        assert ended.value.code == 0
        monkeypatch.setattr(ablation, "train_segmenter", None)
    for arm, norm in (("as-it-is", "batch"), ("norm-channels-ct_dropout-0-5", "channels")):
        folder = tmp_path / "out" / f"{arm}_seed_4"
        config = json.loads((folder / "weights" / "segmenter" / "config.json").read_text("utf-8"))
        assert config["architecture"]["norm"] == norm
        assert config["trained"]["recipe"]["epochs"] == 1
        for records in ("cases", "cases_pet_only"):
            assert {file.stem for file in (folder / records).iterdir()} == {"bb", "ccc"}
    for name in ("table.md", "table_pet_only.md"):
        assert "| norm=channels ct_dropout=0.5 | 4 | 2 |" in (tmp_path / "out" / name).read_text("utf-8")


@pytest.mark.parametrize("change", ["seed=3", "cue_weight=1", "name=x"])
def test_an_ablation_keeps_seeds_and_cues(data: Path, tmp_path: Path, change: str) -> None:
    cases = stored_cases([data], tmp_path / "stores", {"bb"}, False)
    with pytest.raises(InputError, match="no setting"):
        Ablation(TINY, [change], [0], tmp_path / "out").run(cases, [data / "bb"], patients_of([data]))


def test_an_ablation_never_tests_on_what_it_trained_on(data: Path, tmp_path: Path) -> None:
    cases = stored_cases([data], tmp_path / "cache")
    with pytest.raises(InputError, match="a would be trained on and tested"):
        Ablation(TINY, [MASK_ALONE], [0], tmp_path / "out").run(
            cases, named_studies([data], {"a"}), patients_of([data])
        )
    with pytest.raises(InputError, match="--hold-out names x"):
        named_studies([data], {"a", "x"})


def test_an_ablation_never_tests_on_a_patient_it_learnt_from(data: Path, tmp_path: Path) -> None:
    """Neither by another study of the patient, nor by a synthetic body with tumours of one."""
    (data / "p1").mkdir()
    for name in ("a", "ccc"):
        (data / name).rename(data / "p1" / name)
    shutil.copytree(data / "bb", tmp_path / "bodies" / "body")
    write_donors(["bb"], tmp_path / "bodies" / "body")
    trial, patients = Ablation(TINY, [MASK_ALONE], [0], tmp_path / "out"), patients_of([data])
    cases = stored_cases([data], tmp_path / "cache", {"a"})
    with pytest.raises(InputError, match="p1 would be trained on and tested"):
        trial.run(cases, named_studies([data], {"a"}), patients)
    cases = stored_cases([tmp_path / "bodies"], tmp_path / "cache")
    with pytest.raises(InputError, match="bb would be trained on and tested"):
        trial.run(cases, named_studies([data], {"bb"}), patients)
    assert not (tmp_path / "out").exists()


def test_table_by_hand() -> None:
    """Means over cases that have the number; over seeds: Dice 0.5 and 0.7, so 0.6 and sqrt(2 x 0.01) = 0.141."""

    def rows(dice: float) -> dict[str, Row]:
        return {"a": {"dice": dice, "fpv_ml": 1.0}, "b": {"dice": float("nan"), "fpv_ml": 3.0}}

    assert table({"with": {0: rows(0.5), 1: rows(0.7)}}) == (
        "|  | seed | cases | Dice | FPV ml |\n"
        "|---|---|---|---|---|\n"
        "| with | 0 | 2 | 0.500 | 2.000 |\n"
        "| with | 1 | 2 | 0.700 | 2.000 |\n"
        "| with | all | 2 | **0.600** ± 0.141 | **2.000** ± 0.000 |\n"
    )


def test_storage_is_measured(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["benchmark-storage", data, "--crop", "8,8,8", "--reads", "3", "--cache", tmp_path / "cache"]
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in line])
    assert ended.value.code == 0
    rows = [row.split("|") for row in capsys.readouterr().out.splitlines() if row.startswith("| ")]
    assert [row[1].strip() for row in rows[1:]] == ["NIfTI (gzip), whole volumes", "plain arrays (cache)", "LMDB store"]
    assert all(float(row[column]) > 0 for row in rows[1:] for column in (4, 5, 6))


@pytest.mark.parametrize("text", ["8,8", "8,0,8", "a,b,c"])
def test_a_bad_crop_is_refused(data: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["benchmark-storage", str(data), "--crop", text])
    assert ended.value.code == 1
    assert "expected three numbers of voxels" in capsys.readouterr().err


def run_channels(study: Path, picture: Path) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["channels", str(study), str(picture), "--crop", "8,12,12"])
    return ended.value.code


def test_the_channels_are_drawn(data: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    assert run_channels(data / "a", tmp_path / "channels.png") == 0
    assert np.ptp(imread(tmp_path / "channels.png")[..., :3]) > 0.9


def test_channels_need_a_lesion(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_channels(data / "ccc", tmp_path / "channels.png") == 1
    assert "has no lesion" in capsys.readouterr().err
