"""Folders of masks against the truth: which files are paired, what is written, and what happens when a case fails."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from l2snet.cli import main
from l2snet.errors import InputError, L2SNetError
from l2snet.evaluation import evaluate as module
from l2snet.evaluation.evaluate import Evaluation, Settings, evaluate
from l2snet.evaluation.pairs import find_mask, find_truths, mask_in, read_mask, read_named_masks
from l2snet.volume import Geometry, Volume, write_volume

GRID = Geometry((4, 5, 6), (10.0, 10.0, 10.0))  # a voxel of 1 ml
VOXEL, OTHER = (0, 0, 0), (3, 4, 5)


def write_mask(path: Path, *voxels: tuple[int, int, int], grid: Geometry = GRID) -> Path:
    array = np.zeros(grid.size, np.uint8)
    for voxel in voxels:
        array[voxel] = 1
    write_volume(Volume(array, grid), path, compress=True)
    return path


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Truth with a lesion in `a`, two in `b` and none in `c`; predictions that are right, and that say OTHER always."""
    truth, right, other = (tmp_path / name for name in ("truth", "right", "other"))
    for name, voxels in (("a", (VOXEL,)), ("b", (VOXEL, OTHER)), ("c", ())):
        write_mask(truth / f"{name}.nii.gz", *voxels)
        write_mask(right / f"{name}.mha", *voxels)
        write_mask(other / name / "mask.nrrd", OTHER)
    return truth, right, other


def test_flat_and_nested_folders_of_any_format_are_compared(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    truth, right, other = folders
    result = evaluate(truth, [right, other], tmp_path / "out", Settings(surface_mm=1.0), workers=1)
    result.check()
    found = {(line["case"], line["prediction"]): line for line in lines(tmp_path / "out" / "cases.csv")}
    assert list(found) == [(case, row) for case in "abc" for row in ("right", "other")]
    assert next(iter(found.values())).keys() >= {"case", "dice", "fpv_ml", "fnv_ml"}
    assert list(next(iter(found.values())))[:4] == ["case", "dice", "fpv_ml", "fnv_ml"]

    def numbers(case: str, row: str) -> list[str]:
        return [found[case, row][column] for column in ("dice", "fpv_ml", "fnv_ml", "sensitivity", "surface_dice")]

    assert numbers("a", "right") == ["1", "0", "0", "1", "1"]
    assert numbers("a", "other") == ["0", "1", "1", "0", "0"]
    assert numbers("b", "other") == ["0.666667", "0", "1", "0.5", "0.666667"]  # 2 x 1 / (2 + 1)
    assert numbers("c", "right") == ["", "0", "", "", ""]  # undefined without a lesion
    assert numbers("c", "other") == ["", "1", "", "", ""]

    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["bootstrap"]["seed"], summary["bootstrap"]["resamples"]) == (0, 5000)
    assert summary["rows"]["other"]["conventions"]["challenge2024"]["dice"]["mean"] == pytest.approx(1 / 3)
    assert summary["rows"]["other"]["conventions"]["challenge2022"]["dice"]["mean"] == pytest.approx(2 / 9)
    assert summary["rows"]["other"]["lesion_free"]["fpv_ml"]["median"] == 1
    assert summary["failures"] == {}
    assert (tmp_path / "out" / "table.md").read_text() == result.text
    assert "challenge2022" in result.text
    assert imread(tmp_path / "out" / "cases.png").std() > 0.05


def test_several_processes_give_the_same(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    texts = []
    for workers in (1, 2):
        evaluate(folders[0], folders[1:], tmp_path / str(workers), workers=workers).check()
        texts.append([(tmp_path / str(workers) / name).read_text() for name in ("cases.csv", "table.md")])
    assert texts[0] == texts[1]


FAILURES = {
    "missing": (lambda path: path.unlink(), r"b, right: nothing was found in .*right; expected one mask, b\.nii\.gz"),
    "moved": (
        lambda path: write_mask(path, VOXEL, grid=Geometry(GRID.size, GRID.spacing_mm, (0.0, 0.0, 3.0))),
        r"b, right: the prediction \(6 x 5 x 4 voxels.*is not on the truth's grid \(6 x 5 x 4",
    ),
    "other size": (lambda path: write_mask(path, grid=Geometry((4, 5, 7))), "not on the truth's grid"),
    "damaged": (lambda path: path.write_text("no image"), r"b, right: prediction: b\.mha cannot be read"),
    "labels": (
        lambda path: write_volume(Volume(np.full(GRID.size, 2, np.uint8), GRID), path, compress=True),
        r"holds the value 2; expected a mask of 0 and 1",
    ),
    "doubled": (
        lambda path: write_mask(path.with_suffix(".nrrd")),
        r"b\.mha, b\.nrrd was found in .*expected one mask",
    ),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_case_that_fails_is_reported_and_the_others_are_done(
    folders: tuple[Path, Path, Path], tmp_path: Path, what: str
) -> None:
    damage, sentence = FAILURES[what]
    damage(folders[1] / "b.mha")
    result = evaluate(folders[0], folders[1:], tmp_path / "out", workers=1)
    with pytest.raises(L2SNetError, match=sentence) as error:
        result.check()
    assert str(error.value).startswith("1 of 6 comparisons failed, the others are done: ")
    done = [(line["case"], line["prediction"]) for line in lines(tmp_path / "out" / "cases.csv")]
    assert done == [("a", "right"), ("a", "other"), ("b", "other"), ("c", "right"), ("c", "other")]
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["failures"]) == ["b, right"]


def test_a_truth_that_fails_fails_all_its_rows(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (folders[0] / "a.nii.gz").write_text("no image")
    result = evaluate(folders[0], folders[1:], tmp_path / "out", workers=1)
    assert list(result.failures) == ["a, right", "a, other"]
    assert all("truth: a.nii.gz cannot be read" in sentence for sentence in result.failures.values())


def test_nothing_to_show_when_every_case_failed(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = evaluate(folders[0], [tmp_path / "empty"], tmp_path / "out", workers=1)
    assert (len(result.failures), result.text) == (3, "No case was scored.\n")
    assert not (tmp_path / "out" / "cases.png").exists()


def test_many_failures_are_counted_in_one_sentence() -> None:
    with pytest.raises(L2SNetError, match=r"5 of 9 comparisons failed.*a: x; b: x; c: x \(and 2 more\)$"):
        Evaluation(9, "", dict.fromkeys("abcde", "x")).check()


def test_what_is_done_is_not_done_again(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, right, other = folders
    read: list[str] = []

    def reader(path: Path, what: str) -> tuple[np.ndarray, Geometry]:
        read.append(f"{what} {path.parent.name}/{path.name}")
        if stop in read:
            raise KeyboardInterrupt
        return read_mask(path, what)

    monkeypatch.setattr(module, "read_mask", reader)
    stop = "prediction right/b.mha"
    with pytest.raises(KeyboardInterrupt):
        evaluate(truth, [right], tmp_path / "out", workers=1)
    assert [line["case"] for line in lines(tmp_path / "out" / "cases.csv")] == ["a"]
    stop, read[:] = "", []
    first = evaluate(truth, [right], tmp_path / "out", workers=1)
    assert read == ["truth truth/b.nii.gz", "prediction right/b.mha", "truth truth/c.nii.gz", "prediction right/c.mha"]
    del read[:]
    assert evaluate(truth, [right], tmp_path / "out", workers=1) == first
    assert read == []
    evaluate(truth, [right, other], tmp_path / "out", workers=1)  # a row more: the first is kept
    assert [name for name in read if "right" in name] == []
    del read[:]
    write_mask(right / "c.mha", VOXEL)
    assert evaluate(truth, [right], tmp_path / "out", workers=1) != first  # a prediction has changed
    assert read == ["truth truth/c.nii.gz", "prediction right/c.mha"]
    del read[:]
    evaluate(truth, [right], tmp_path / "out", Settings(least_overlap=0.5), workers=1)  # a setting has changed
    assert len(read) == 6


def test_which_files_are_cases(tmp_path: Path) -> None:
    """STS_1 is a study folder; P1 a patient of two studies, P2 of one; `out` an output folder of the container."""
    for place in ("STS_1/SEG", "P1/first/SEG", "P1/second/SEG", "P2/only/SEG", "STS_1/SUV"):
        write_mask(tmp_path / f"{place}.nii.gz")
    write_mask(tmp_path / "out" / "images" / "automated-petct-lesion-segmentation" / "uuid.mha")
    write_mask(tmp_path / "out" / "probability.mha")
    (tmp_path / ".hidden").mkdir()
    truths = find_truths(tmp_path)
    assert list(truths) == ["P1/first", "P1/second", "P2", "STS_1", "out"]
    found = {case: mask_in(path).relative_to(tmp_path).as_posix() for case, path in truths.items()}
    assert found == {
        "P1/first": "P1/first/SEG.nii.gz",
        "P1/second": "P1/second/SEG.nii.gz",
        "P2": "P2/only/SEG.nii.gz",
        "STS_1": "STS_1/SEG.nii.gz",
        "out": "out/images/automated-petct-lesion-segmentation/uuid.mha",
    }
    assert {case: find_mask(tmp_path, case).relative_to(tmp_path).as_posix() for case in truths} == found


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "holds no mask"),
        (("a/x.mha", "a/y.mha"), r"holds 2 images \(x\.mha, y\.mha\); expected one mask, or one named SEG\.nii\.gz"),
        (("a/1/SEG.nii.gz", "a/2/SEG.nii.gz"), r"holds 2 images \(1/SEG\.nii\.gz, 2/SEG\.nii\.gz\)"),
    ],
)
def test_a_folder_without_one_mask_is_refused(tmp_path: Path, files: tuple[str, ...], sentence: str) -> None:
    (tmp_path / "a").mkdir()
    for file in files:
        write_mask(tmp_path / file)
    with pytest.raises(InputError, match=sentence):
        mask_in(tmp_path / "a")


def test_folders_that_cannot_be_evaluated(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for truth, predictions, sentence in (
        (tmp_path / "empty", [folders[1]], "no mask was found in .*empty"),
        (tmp_path / "nowhere", [folders[1]], "no mask was found in .*nowhere"),
        (folders[0], [tmp_path / "nowhere"], "there is no folder .*nowhere"),
        (folders[0], [folders[1], folders[1]], "given twice"),
    ):
        with pytest.raises(InputError, match=sentence):
            evaluate(truth, predictions, tmp_path / "out", workers=1)
    write_mask(folders[0] / "a.mha")
    with pytest.raises(InputError, match="one name with different endings"):
        find_truths(folders[0])
    for settings in ({"surface_mm": -1.0}, {"surface_mm": float("nan")}, {"least_overlap": 1.1}):
        with pytest.raises(InputError, match="was given; expected"):
            Settings(**settings)


def test_rows_of_one_name_go_by_their_path(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[1], tmp_path / "second" / "right")
    result = evaluate(folders[0], [folders[1], tmp_path / "second" / "right"], tmp_path / "out", workers=1)
    assert str(tmp_path / "second" / "right") in result.text


def test_predictions_without_a_truth_are_said(
    folders: tuple[Path, Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_mask(folders[1] / "stray.mha")
    evaluate(folders[0], folders[1:], tmp_path / "out", workers=1).check()
    assert "have no truth and are left out: stray" in caplog.text


def test_masks_by_name(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "a=b.mha", VOXEL)
    masks = read_named_masks([f"2D={path}", f"3D={path}"], GRID)
    assert list(masks) == ["2D", "3D"]
    assert masks["2D"][VOXEL]
    for texts, grid, sentence in (
        ([str(tmp_path)], GRID, "expected NAME=FILE"),
        ([f"2D={path}", f"2D={path}"], GRID, "each name once"),
        ([f"2D={path}"], Geometry((4, 5, 7)), "not on the PET's grid"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_named_masks(texts, grid)


def test_the_command(folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*map(str, folders), "--output", str(tmp_path / "out"), "--workers", "1", "--surface-mm", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "out" / "table.md").read_text().strip()
    (folders[1] / "a.mha").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    shown = capsys.readouterr()
    assert ended.value.code == 1
    assert "Lesion-free cases" in shown.out  # the others are done
    assert shown.err.strip().splitlines()[-1].startswith("error: 1 of 6 comparisons failed")


def test_what_is_not_installed_is_said_before_anything_is_done(
    folders: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("l2snet.cli.extras.find_spec", lambda name: None if name == "cc3d" else object())
    with pytest.raises(SystemExit):
        main(["evaluate", *map(str, folders), "--output", str(tmp_path / "out")])
    assert "pip install 'l2snet[evaluate]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
