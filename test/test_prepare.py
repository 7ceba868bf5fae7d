"""Preparation: the layouts that are written, resuming, one bad study among good ones, the record, the commands."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import (
    CHALLENGE_FACTOR,
    CT_UID,
    PET_ORIGIN,
    PET_SHAPE,
    PET_SPACING,
    PET_UID,
    QIBA_FACTOR,
    SEG_UID,
    STUDY,
    activity,
    lesion,
    write_pet,
    write_seg,
    write_study,
)

from l2snet.case import Case
from l2snet.cli import main
from l2snet.errors import InputError, L2SNetError
from l2snet.prepare.autopet import prepare_autopet
from l2snet.prepare.mha import prepare_mha
from l2snet.prepare.nifti import Patterns, find_cases, prepare_nifti
from l2snet.prepare.run import Job, Prepared, Status, prepare_all
from l2snet.sources import challenge
from l2snet.sources.autopet import find_studies, patients_of, read_study
from l2snet.sources.suv import TimeConvention
from l2snet.volume import Geometry, Volume, read_volume, write_volume

SHARED = Path(__file__).parents[2] / "shared" / "data"
GRID = Geometry(PET_SHAPE, PET_SPACING, PET_ORIGIN)
CHALLENGE, QIBA = TimeConvention.challenge, TimeConvention.qiba
FILES = ["CT.nii.gz", "CTres.nii.gz", "PET.nii.gz", "SEG.nii.gz", "SUV.nii.gz", "prepare.json"]


@pytest.fixture
def download(tmp_path: Path) -> Path:
    write_study(tmp_path / "dicom" / "PETCT_1" / "study one")
    return tmp_path / "dicom"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "prepare.csv").open(newline="", encoding="utf-8") as file:
        return {row["study"]: row for row in csv.DictReader(file)}


# --- DICOM ---


def test_a_study_becomes_a_study_folder_that_training_reads(download: Path, tmp_path: Path):
    (outcome,) = prepare_autopet(download, tmp_path / "out", QIBA)
    folder = tmp_path / "out" / "PETCT_1" / "study one"
    assert outcome.status is Status.prepared
    assert names(folder) == FILES
    assert find_studies(tmp_path / "out") == [folder]
    case = read_study(folder)
    assert case.geometry.matches(GRID)
    becquerel = activity() * np.arange(1, 6)[:, None, None]
    np.testing.assert_allclose(case.suv.array, becquerel * QIBA_FACTOR, rtol=1e-6)
    np.testing.assert_array_equal(read_volume(folder / "PET.nii.gz", "PET").array, becquerel)
    assert case.lesions is not None
    np.testing.assert_array_equal(case.lesions.array, lesion())


def test_study_folders_are_found_through_links_once(tmp_path: Path):
    """As DICOM is: links to folders that lie elsewhere, to one of them twice, into the root and around in a circle."""
    root, disk = tmp_path / "data", tmp_path / "disk"
    for folder in (root / "p1" / "a", disk / "p2" / "b", disk / "p3" / "c"):
        folder.mkdir(parents=True)
        (folder / "SUV.nii.gz").touch()
    for link, to in (
        (root / "p2", disk / "p2"),
        (root / "p3", disk / "p3"),
        (root / "p4", disk / "p3"),
        (root / "p5", root / "p1"),
        (root / "p1" / "up", root),
    ):
        link.symlink_to(to)
    assert find_studies(root)[:2] == [root / "p1" / "a", root / "p2" / "b"]
    assert [folder.name for folder in find_studies(root)] == ["a", "b", "c"]
    assert patients_of([root])["b"] == "p2"


def test_the_ct_lies_on_the_pet_s_grid_with_air_outside(download: Path, tmp_path: Path):
    prepare_autopet(download, tmp_path / "out", QIBA)
    (folder,) = find_studies(tmp_path / "out")
    ct = read_study(folder).ct
    assert ct is not None
    # The PET's columns lie at x = -14, -10, ..., 14 mm, the CT's at -9, -7, ..., 9 mm; rows alike, from -10 and -9 mm.
    assert ct.array[:, :, 0].max() == ct.array[:, :, -1].max() == -1024
    assert ct.array[2, 3, 2:6].tolist() == [0, 0, 0, 0]  # water
    # At (6, 6) mm one of four neighbours is air of -1000; at (-6, -6) mm one is padding of -3024, which became -1024.
    assert (ct.array[2, 4, 5], ct.array[2, 1, 2]) == (-250, -256)
    own = read_volume(folder / "CT.nii.gz", "CT")
    assert own.geometry.spacing_mm == pytest.approx((2.5, 2.0, 2.0))
    assert own.array.min() == -1024  # the padding of -3024 is air


def test_the_record_says_what_was_made_from_what(download: Path, tmp_path: Path):
    prepare_autopet(download, tmp_path / "out", CHALLENGE)
    (folder,) = find_studies(tmp_path / "out")
    record = json.loads((folder / "prepare.json").read_text("utf-8"))
    assert record["settings"] == {
        "source": "dicom",
        "study": STUDY,
        "time_convention": "challenge",
        "series": [],
        "mask": True,
    }
    assert record["suv_factor"] == pytest.approx([CHALLENGE_FACTOR] * 2)
    assert record["suv_rule"] == "AcquisitionTime of the first file"
    assert (record["pet"]["uid"], record["ct"]["uid"]) == (PET_UID, CT_UID)
    assert record["seg"]["labels"] == ["Lesion"]
    assert record["seg"]["lesion_ml"] == pytest.approx(3 * 0.048)  # three voxels of 4 x 4 x 3 mm
    row = table(tmp_path / "out")["PETCT_1/study one"]
    assert (row["status"], row["pet_uid"], row["error"]) == ("prepared", PET_UID, "")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_study_is_reported_and_the_others_are_done(download: Path, tmp_path: Path, workers: int):
    write_study(download / "PETCT_0" / "bad", "1.2.4", "PETCT_0", PatientWeight=None)
    with pytest.raises(L2SNetError, match=r"1 of 2 studies could not be prepared; .*prepare\.csv says why"):
        prepare_autopet(download, tmp_path / "out", QIBA, workers=workers)
    assert [path.name for path in find_studies(tmp_path / "out")] == ["study one"]
    rows = table(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "PETCT_0/bad": "failed",
        "PETCT_1/study one": "prepared",
    }
    assert "PatientWeight is missing" in rows["PETCT_0/bad"]["error"]


def test_a_study_without_seg_is_refused_unless_masks_are_optional(download: Path, tmp_path: Path):
    shutil.rmtree(download / "PETCT_1" / "study one" / "3-SEG")
    with pytest.raises(L2SNetError, match="1 of 1"):
        prepare_autopet(download, tmp_path / "out", QIBA)
    prepare_autopet(download, tmp_path / "out", QIBA, mask_optional=True)
    (folder,) = find_studies(tmp_path / "out")
    assert "SEG.nii.gz" not in names(folder)


@pytest.mark.parametrize("mask_optional", [False, True])
def test_files_that_cannot_be_read_are_a_warning_and_a_note(
    download: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, mask_optional: bool
):
    series = download / "PETCT_1" / "study one" / "1-PET"
    for name in ("c.dcm", "d.dcm", "e.dcm", "f.dcm"):
        (series / name).touch()
    prepare_autopet(download, tmp_path / "out", QIBA, mask_optional)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    note = "passed over 4 file(s) among the DICOM images that cannot be read{}: is the copy complete?"
    assert warnings == ["warning: PETCT_1/study one: " + note.format(" (c.dcm, d.dcm, e.dcm, ...)")]
    record = json.loads((tmp_path / "out" / "PETCT_1" / "study one" / "prepare.json").read_text("utf-8"))
    assert record["notes"] == [note.format("")]
    assert table(tmp_path / "out")["PETCT_1/study one"]["notes"] == note.format("")


def test_a_download_that_is_whole_has_no_warning(download: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    prepare_autopet(download, tmp_path / "out", QIBA)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    assert table(tmp_path / "out")["PETCT_1/study one"]["notes"] == ""


def test_a_study_that_kills_its_worker_does_not_end_the_run(tmp_path: Path):
    folders = {name: tmp_path / name for name in ("good", "deadly", "fine")}
    makes = {name: partial(os._exit, 9) if name == "deadly" else partial(one_voxel, folders[name]) for name in folders}
    jobs = [Job(name, folder, folder / "a.mha", dict, makes[name]) for name, folder in folders.items()]
    with pytest.raises(L2SNetError, match="1 of 3"):
        prepare_all(jobs, tmp_path, workers=2)
    assert {name: row["status"] for name, row in table(tmp_path).items()} == {
        "good": "prepared",
        "deadly": "failed",
        "fine": "prepared",
    }


def one_voxel(folder: Path) -> Prepared:
    return Prepared({folder / "a.mha": Volume(np.zeros((1, 1, 1), np.uint8), Geometry((1, 1, 1)))}, {})


# --- resuming ---


def test_a_study_that_is_whole_is_kept_and_one_cut_off_is_done_again(download: Path, tmp_path: Path):
    prepare_autopet(download, tmp_path / "out", QIBA)
    (folder,) = find_studies(tmp_path / "out")
    before = (folder / "SUV.nii.gz").stat().st_mtime_ns
    shutil.move(download / "PETCT_1" / "study one" / "2-CT", tmp_path / "CT")  # a kept study is not read again
    (outcome,) = prepare_autopet(download, tmp_path / "out", QIBA)
    assert outcome.status is Status.kept
    assert (folder / "SUV.nii.gz").stat().st_mtime_ns == before
    assert table(tmp_path / "out")["PETCT_1/study one"]["pet_uid"] == PET_UID
    shutil.move(tmp_path / "CT", download / "PETCT_1" / "study one" / "2-CT")
    (folder / "SUV.nii.gz").unlink()  # the last to be written
    (outcome,) = prepare_autopet(download, tmp_path / "out", QIBA)
    assert outcome.status is Status.prepared
    assert names(folder) == FILES


def test_an_interrupted_study_is_not_taken_for_one(download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(volume: Volume, path: Path, compress: bool) -> None:
        if path.name == "SUV.nii.gz":
            raise KeyboardInterrupt
        write_volume(volume, path, compress)

    monkeypatch.setattr("l2snet.prepare.run.write_volume", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_autopet(download, tmp_path / "out", QIBA)
    with pytest.raises(InputError, match="no study was found"):
        find_studies(tmp_path / "out")
    monkeypatch.undo()
    assert prepare_autopet(download, tmp_path / "out", QIBA)[0].status is Status.prepared


def test_another_convention_in_the_same_folder_is_refused(download: Path, tmp_path: Path):
    prepare_autopet(download, tmp_path / "out", QIBA)
    with pytest.raises(L2SNetError, match="1 of 1"):
        prepare_autopet(download, tmp_path / "out", CHALLENGE)
    error = table(tmp_path / "out")["PETCT_1/study one"]["error"]
    assert "was prepared with time_convention 'qiba', not with time_convention 'challenge'; remove it" in error


def prepare_again(download: Path, out: Path, **options: Any) -> str:
    """The status of PETCT_1/study one, or why it was refused."""
    with suppress(L2SNetError):
        prepare_autopet(download, out, QIBA, **options)
    row = table(out)["PETCT_1/study one"]
    return row["error"] or row["status"]


def test_another_study_of_the_same_name_is_refused(download: Path, tmp_path: Path):
    prepare_autopet(download, tmp_path / "out", QIBA)
    write_study(tmp_path / "second" / "PETCT_1" / "study one", "1.2.4")
    assert "study '1.2.3', not with study '1.2.4'" in prepare_again(tmp_path / "second", tmp_path / "out")
    shutil.copytree(download, tmp_path / "copy")
    assert prepare_again(tmp_path / "copy", tmp_path / "out") == "kept"


def test_a_series_that_is_wanted_later_is_not_passed_over(download: Path, tmp_path: Path):
    prepare_autopet(download, tmp_path / "out", QIBA)
    write_pet(download / "PETCT_1" / "study one" / "4-PET", SeriesInstanceUID="1.2.3.77")
    assert prepare_again(download, tmp_path / "out", wanted=["1.2.9.9"]) == "kept"  # of another study
    refusal = prepare_again(download, tmp_path / "out", wanted=["1.2.3.77"])
    assert "prepared with series [], not with series ['1.2.3.77']" in refusal
    shutil.rmtree(tmp_path / "out")
    assert prepare_again(download, tmp_path / "out", wanted=["1.2.3.77", CT_UID, SEG_UID]) == "prepared"
    assert prepare_again(download, tmp_path / "out", wanted=[SEG_UID, CT_UID, "1.2.3.77"]) == "kept"


def test_a_mask_that_came_later_is_not_passed_over(download: Path, tmp_path: Path):
    prepare_autopet(download, tmp_path / "with mask", QIBA)
    assert prepare_again(download, tmp_path / "with mask", mask_optional=True) == "kept"
    study = download / "PETCT_1" / "study one"
    shutil.rmtree(study / "3-SEG")
    assert prepare_again(download, tmp_path / "out", mask_optional=True) == "prepared"
    assert prepare_again(download, tmp_path / "out", mask_optional=True) == "kept"
    assert "mask False, not with mask True" in prepare_again(download, tmp_path / "out")
    shutil.move(write_seg(tmp_path / "aside"), study / "1-PET" / "seg.dcm")  # in any folder of the study
    assert "mask False, not with mask True" in prepare_again(download, tmp_path / "out", mask_optional=True)


def test_a_study_of_someone_else_s_is_left_alone(download: Path, tmp_path: Path):
    theirs = tmp_path / "out" / "PETCT_1" / "study one" / "SUV.nii.gz"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(L2SNetError, match="1 of 1"):
        prepare_autopet(download, tmp_path / "out", QIBA)
    assert theirs.read_bytes() == b"theirs"


# --- NIfTI ---


@pytest.fixture
def images(tmp_path: Path, phantom: Callable[..., Case]) -> Callable[..., Path]:
    """Write PET, CT on a finer grid and mask of the phantom by patterns; returns the root."""

    def write(patterns: Patterns, case: str = "a") -> Path:
        made = phantom()
        assert made.ct is not None
        root = tmp_path / "nifti"
        fine = Geometry((30, 36, 40), (2.0, 1.5, 1.5), (-30.0, 20.0, -700.0))
        hot = made.suv.with_array((made.suv.array > 4).astype(np.float32) * 3)
        for pattern, volume in (
            (patterns.pet, made.suv),
            (patterns.ct, made.ct.to_grid(fine, outside=-3000)),
            (patterns.mask, hot),
        ):
            write_volume(volume, root / pattern.replace("{case}", case), compress=True)
        return root

    return write


@pytest.mark.parametrize(
    "patterns",
    [
        Patterns(),
        Patterns("pet/{case}.nii.gz", "ct/{case}.nii.gz", "mask/{case}.nii.gz"),
        Patterns("imagesTr/{case}_0001.nii.gz", "imagesTr/{case}_0000.nii.gz", "labelsTr/{case}.nii.gz"),
    ],
    ids=["study folders", "folder an image", "nnU-Net"],
)
def test_nifti_of_any_layout_becomes_study_folders(images: Any, tmp_path: Path, patterns: Patterns):
    root = images(patterns, "p1/first")
    images(patterns, "p2")
    assert find_cases(root, patterns.pet) == ["p1/first", "p2"]
    prepare_nifti(root, tmp_path / "out", patterns)
    folder = tmp_path / "out" / "p1" / "first"
    assert names(folder) == [name for name in FILES if name != "PET.nii.gz"]
    case = read_study(folder)
    assert case.ct is not None
    assert case.lesions is not None
    assert case.ct.array.min() == -1024
    np.testing.assert_array_equal(case.lesions.array, case.suv.array > 4)  # the label was 3


def test_a_ct_on_the_pet_s_grid_is_not_changed(images: Any, tmp_path: Path, phantom: Callable[..., Case]):
    root = images(Patterns())
    made = phantom()
    assert made.ct is not None
    write_volume(made.ct, root / "a" / "CT.nii.gz", compress=True)
    prepare_nifti(root, tmp_path / "out", Patterns())
    assert names(tmp_path / "out" / "a") == ["CTres.nii.gz", "SEG.nii.gz", "SUV.nii.gz", "prepare.json"]
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / "a" / "CTres.nii.gz", "CT").array, made.ct.array)


def test_a_mask_on_another_grid_needs_the_flag(images: Any, tmp_path: Path):
    root = images(Patterns())
    mask = read_volume(root / "a" / "SEG.nii.gz", "mask")
    fine = Geometry((48, 28, 32), (1.5, *mask.geometry.spacing_mm[1:]), (-30.0, 20.0, -700.75))
    write_volume(mask.to_grid(fine, outside=0, nearest=True), root / "a" / "SEG.nii.gz", compress=True)
    with pytest.raises(L2SNetError, match="1 of 1"):
        prepare_nifti(root, tmp_path / "out", Patterns())
    assert "--resample-mask" in table(tmp_path / "out")["a"]["error"]
    prepare_nifti(root, tmp_path / "out", Patterns(), resample_mask=True)
    case = read_study(tmp_path / "out" / "a")
    assert case.lesions is not None
    assert case.lesions.array.sum() == 64  # the cube of four voxels


def test_what_nifti_refuses(images: Any, tmp_path: Path):
    root = images(Patterns())
    with pytest.raises(InputError, match=r"--pet is 'SUV.nii.gz'; expected a path with \{case\}"):
        Patterns(pet="SUV.nii.gz")
    with pytest.raises(InputError, match="no PET was found"):
        find_cases(root, "{case}/PT.nii.gz")
    with pytest.raises(InputError, match="over itself"):
        prepare_nifti(root, root, Patterns())
    (root / "a" / "SEG.nii.gz").unlink()
    with pytest.raises(L2SNetError, match="1 of 1"):
        prepare_nifti(root, tmp_path / "out", Patterns())
    prepare_nifti(root, tmp_path / "out", Patterns(), mask_optional=True)


def test_a_case_of_another_root_or_with_a_later_mask_is_refused(images: Any, tmp_path: Path):
    root, out = images(Patterns()), tmp_path / "out"

    def again(root: Path, **options: bool) -> str:
        with suppress(L2SNetError):
            prepare_nifti(root, out, Patterns(), **options)
        return table(out)["a"]["error"] or table(out)["a"]["status"]

    shutil.copytree(root, tmp_path / "second")
    (root / "a" / "SEG.nii.gz").rename(tmp_path / "SEG.nii.gz")
    assert again(root, mask_optional=True) == "prepared"
    assert again(root, mask_optional=True) == "kept"
    (tmp_path / "SEG.nii.gz").rename(root / "a" / "SEG.nii.gz")
    assert "prepared with mask False, not with mask True" in again(root, mask_optional=True)
    shutil.rmtree(out)
    assert again(root) == "prepared"
    assert again(root, mask_optional=True) == "kept"
    assert f"root '{root}', not with root '{tmp_path / 'second'}'" in again(tmp_path / "second")


# --- the container's input ---


def test_study_folders_become_the_container_s_input(images: Any, tmp_path: Path):
    images(Patterns(), "p1/scan 1")
    prepare_nifti(tmp_path / "nifti", tmp_path / "studies", Patterns())
    prepare_mha(tmp_path / "studies", tmp_path / "input", tmp_path / "truth")
    case = challenge.read(tmp_path / "input" / "scan_1")
    expected = read_study(tmp_path / "studies" / "p1" / "scan 1")
    assert case.name == "scan_1"
    assert case.ct is not None
    assert expected.ct is not None
    np.testing.assert_array_equal(case.suv.array, expected.suv.array)
    np.testing.assert_array_equal(case.ct.array, expected.ct.array)
    assert case.geometry.matches(expected.geometry)
    assert read_volume(tmp_path / "truth" / "scan_1.mha", "truth").array.sum() == 64
    assert prepare_mha(tmp_path / "studies", tmp_path / "input", tmp_path / "truth")[0].status is Status.kept


def test_container_input_of_another_source_or_truth_is_refused(images: Any, tmp_path: Path):
    data, out = images(Patterns()), tmp_path / "input"
    shutil.copytree(data, tmp_path / "second")
    prepare_mha(data, out, tmp_path / "truth")

    def again(data: Path, truth: Path | None) -> str:
        with pytest.raises(L2SNetError, match="1 of 1"):
            prepare_mha(data, out, truth)
        return table(out)["a"]["error"]

    assert f"truth '{tmp_path / 'truth'}', not with truth '{tmp_path / 'other'}'" in again(data, tmp_path / "other")
    assert "not with truth None" in again(data, None)
    assert f"study '{data / 'a'}', not with" in again(tmp_path / "second", tmp_path / "truth")


def test_studies_of_one_name_are_told_apart_by_their_patient(images: Any, tmp_path: Path):
    for case in ("p1/scan", "p2/scan"):
        images(Patterns(), case)
    prepare_mha(tmp_path / "nifti", tmp_path / "input")  # CT.nii.gz comes onto the PET's grid
    assert names(tmp_path / "input") == ["p1_scan", "p2_scan", "prepare.csv"]


# --- the commands ---


def test_the_commands_end_with_a_sentence_and_a_code(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["prepare", *map(str, arguments)])
        return int(str(ended.value.code))

    studies = tmp_path / "studies"
    assert run("autopet", download, studies, "--time-convention", "qiba") == 0
    assert run("autopet", download, studies) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: 1 of 1 studies could not be prepared")
    assert run("nifti", studies, tmp_path / "again", "--pet", "{case}/SUV.nii.gz") == 0
    assert run("mha", studies, tmp_path / "input", "--truth", tmp_path / "truth") == 0
    assert challenge.read(tmp_path / "input" / "study_one").name == "study_one"


def test_without_pydicom_the_extra_is_named(
    download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(__import__("sys").modules, "l2snet.prepare.autopet", None)
    with pytest.raises(SystemExit):
        main(["prepare", "autopet", str(download), str(tmp_path / "out")])
    assert "l2snet[dicom]" in capsys.readouterr().err


# --- real scans ---


@pytest.mark.skipif(not (SHARED / "sts").is_dir(), reason="the real sarcomas, ../shared/data/sts, are not here")
def test_a_real_sarcoma_is_prepared(tmp_path: Path):
    shutil.copytree(SHARED / "sts" / "STS_002", tmp_path / "sts" / "STS_002")
    prepare_nifti(tmp_path / "sts", tmp_path / "out", Patterns())
    expected = read_study(SHARED / "sts" / "STS_002", resample_ct=True)
    found = read_study(tmp_path / "out" / "STS_002")
    assert found.ct is not None
    assert expected.ct is not None
    assert found.lesions is not None
    assert expected.lesions is not None
    np.testing.assert_allclose(found.ct.array, np.maximum(expected.ct.array, -1024), atol=1e-3)
    np.testing.assert_array_equal(found.lesions.array, expected.lesions.array)
