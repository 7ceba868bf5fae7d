"""A cohort: what is a case, going on after a stop, bad cases, pseudonyms, and the same on a cluster.

The networks answer with the PET over 10 (see test_cli), so that a case's mask is its voxels of SUV 8.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from dicom_files import CT_UID, PET_UID, STUDY, write_pet
from test_cli import Ended, run, weights  # noqa: F401  # fixtures
from test_dicom_predict import CUBE_ML, write_phantom

from l2snet.case import Case
from l2snet.cohort.cases import KEY, CohortCase, anonymise, find_cases
from l2snet.cohort.cluster import RETRIES, Cluster, _do
from l2snet.cohort.plan import Plan, made_by
from l2snet.cohort.run import PAGE, TABLE, in_this_process, run_cohort
from l2snet.errors import InputError, L2SNetError, OutputError
from l2snet.pipeline import Method, Segmentation
from l2snet.predict import REPORT
from l2snet.report.cohort import COHORT
from l2snet.results import Measuring
from l2snet.sources.inputs import Reading
from l2snet.sources.result_writer import Format
from l2snet.volume import read_volume, write_volume

Run = Callable[..., Ended]
WAITS_S = 120.0


class Threshold:
    """A method whose probability is SUV / 10 and whose mask is SUV 8; it counts what it is given."""

    settings: dict[str, object] = {"method": "threshold", "engine": "numpy"}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[str] = []

    def segment(self, case: Case) -> Segmentation:
        self.seen.append(case.name)
        suv = case.suv
        return Segmentation(
            case.name, suv.with_array((suv.array == 8).astype(np.uint8)), suv.with_array(suv.array / 10), None
        )


def write_study(folder: Path, case: Case) -> Path:
    assert case.ct is not None
    write_volume(case.suv, folder / "SUV.nii.gz", compress=True)
    write_volume(case.ct, folder / "CTres.nii.gz", compress=True)
    return folder


@pytest.fixture
def root(tmp_path: Path, phantom: Callable[..., Case], write_case: Callable[[Path, Case], Path]) -> Path:
    """Four cases, one of each kind and one that is damaged."""
    write_study(tmp_path / "in" / "A nifti", phantom())
    (tmp_path / "in" / "B broken").mkdir()
    (tmp_path / "in" / "B broken" / "SUV.nii.gz").write_bytes(b"cut off")
    write_case(tmp_path / "in" / "C container", phantom())
    write_phantom(tmp_path / "in" / "D dicom", phantom())
    return tmp_path / "in"


def plan_of(out: Path, method: Method | None = None, **changes: Any) -> Plan:
    used = method or Threshold()
    plan = replace(Plan(out, lambda: used, ""), **changes)
    return replace(plan, made_by=made_by(used, "exact", plan))


def table(out: Path) -> list[dict[str, str]]:
    with (out / TABLE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- what is a case ---


def test_cases_are_found_at_any_depth_and_none_is_passed_over(root: Path, phantom: Callable[..., Case]):
    write_study(root / "E patient" / "first", phantom())
    write_study(root / "E patient" / "second", phantom())
    write_pet(root / "F patient" / "one" / "PET", StudyInstanceUID="1.2.5")
    write_pet(root / "F patient" / "two" / "PET", StudyInstanceUID="1.2.6")
    (root / "G empty").mkdir()
    (root / ".hidden").mkdir()
    (root / "notes.txt").write_text("a file", "utf-8")
    assert [case.name for case in find_cases(root)] == [
        *("A nifti", "B broken", "C container", "D dicom", "E patient/first", "E patient/second"),
        *("F patient/one/PET", "F patient/two/PET", "G empty"),
    ]
    assert [case.name for case in find_cases(root / "A nifti")] == ["A nifti"]  # a study given as the root


def test_a_study_beside_others_is_never_passed_over(
    tmp_path: Path, phantom: Callable[..., Case], caplog: pytest.LogCaptureFixture
):
    root, out = tmp_path / "in", tmp_path / "out"
    write_study(root / "P1" / "S1", phantom())
    write_study(root / "P1" / "S2", phantom())
    (root / "P1" / "S2" / "SUV.nii.gz").unlink()
    write_phantom(root / "P1" / "S3", phantom())
    write_phantom(root / "P2" / "S1", phantom())
    for broken in ("P2/S2", "P3/A/S2"):
        (root / broken).mkdir(parents=True)
        (root / broken / "1.dcm").touch()
    write_study(root / "P3" / "A" / "S1", phantom())
    (root / "P3" / "empty").mkdir()
    names = ["P1/S1", "P1/S2", "P1/S3", "P2/S1", "P2/S2", "P3/A/S1", "P3/A/S2"]
    assert [case.name for case in find_cases(root, out)] == names
    with pytest.raises(L2SNetError, match="3 of 7 cases failed"):
        run_cohort(find_cases(root, out), plan_of(out), in_this_process)
    assert [row["case"] for row in table(out) if row["status"] == "failed"] == ["P1/S2", "P2/S2", "P3/A/S2"]
    assert all(row["error"] for row in table(out) if row["status"] == "failed")
    assert "S2 holds no case; expected" in caplog.text


def test_a_broken_study_beside_several_is_a_case(tmp_path: Path):
    for n in (1, 2):
        write_pet(tmp_path / "P" / f"S{n}", StudyInstanceUID=f"1.2.{n}")
    (cut,) = write_pet(tmp_path / "P" / "S3", np.zeros((1, 4, 4), np.int16))
    cut.write_bytes(cut.read_bytes()[:152])
    assert [case.name for case in find_cases(tmp_path)] == ["P/S1", "P/S2", "P/S3"]


def test_studies_whose_series_are_links_are_cases(tmp_path: Path):
    for n in (1, 2):
        write_pet(tmp_path / "store" / f"PET {n}", StudyInstanceUID=f"1.2.{n}")
        place = tmp_path / "in" / "P" / f"S{n}"
        place.mkdir(parents=True)
        (place / "PET").symlink_to(tmp_path / "store" / f"PET {n}")
    assert [case.name for case in find_cases(tmp_path / "in")] == ["P/S1/PET", "P/S2/PET"]


def test_what_belongs_to_a_study_or_is_no_image_is_no_case(tmp_path: Path, phantom: Callable[..., Case]):
    root = tmp_path / "in"
    for study in ("CD", "series"):
        write_phantom(root / study, phantom())
    (root / "CD" / "DICOM").mkdir()
    for series in ("series 1", "series 2"):
        (root / "CD" / series).rename(root / "CD" / "DICOM" / series)
    (root / "CD" / "VIEWER").mkdir()
    (root / "CD" / "VIEWER" / "Viewer.EXE").write_bytes(b"MZ")
    (root / "CD" / ".index").mkdir()
    (root / "CD" / ".index" / "1").touch()
    (root / "series" / "series 3").mkdir()
    (root / "series" / "series 3" / "1.dcm").touch()
    write_study(root / "nifti", phantom())
    write_pet(root / "nifti" / "source")
    write_study(root / "two" / "S1", phantom())
    out = root / "two" / "results"
    names = ["CD", "nifti", "series", "two/S1"]
    assert [case.name for case in find_cases(root, out)] == names
    run_cohort(find_cases(root, out), plan_of(out), in_this_process)
    assert [case.name for case in find_cases(root, out)] == names


def test_a_dicom_study_given_as_the_root_is_one_case(tmp_path: Path, phantom: Callable[..., Case]):
    study = write_phantom(tmp_path / "patient 1", phantom())
    for root in (study, study / "series 1"):
        (case,) = find_cases(root, study / "out")
        assert (case.name, case.folder) == (root.name, root)
    assert [case.name for case in find_cases(tmp_path)] == ["patient 1"]
    write_pet(tmp_path / "patient 2" / "PET", StudyInstanceUID="1.2.5")
    assert [case.name for case in find_cases(tmp_path)] == ["patient 1", "patient 2"]
    run_cohort(find_cases(study, study / "out"), plan_of(study / "out"), in_this_process)
    assert [row["case"] for row in table(study / "out")] == ["patient 1"]
    (again,) = find_cases(study, study / "out")
    assert again.name == "patient 1"


def test_results_are_no_cases_and_do_not_go_into_a_case(root: Path):
    names = [case.name for case in find_cases(root)]
    for out in (root / "out", root / "results" / "of all"):
        with pytest.raises(L2SNetError, match="1 of 4"):
            run_cohort(find_cases(root, out), plan_of(out), in_this_process)
        assert [case.name for case in find_cases(root, out)] == names
        shutil.rmtree(root / out.relative_to(root).parts[0])
    with pytest.raises(InputError, match=r"results of .*A nifti would go into that folder"):
        find_cases(root, root)
    with pytest.raises(InputError, match=r"results of .*A nifti would go into that folder"):
        find_cases(root / "A nifti", root)


def test_a_bad_dicom_folder_fails_alone(tmp_path: Path, phantom: Callable[..., Case]):
    root = tmp_path / "in"
    write_phantom(root / "good", phantom())
    (cut,) = write_pet(root / "cut", np.zeros((1, 4, 4), np.int16))
    cut.write_bytes(cut.read_bytes()[:152])
    (root / "index").mkdir()
    (root / "index" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 8)
    for n, study in enumerate(("1.2.5", "1.2.6", "1.2.5", "1.2.6")):
        write_pet(root / "two" / f"series {n}", StudyInstanceUID=study, SeriesInstanceUID=f"{study}.{n}")
    with pytest.raises(L2SNetError, match="3 of 4 cases failed"):
        run_cohort(find_cases(root), plan_of(tmp_path / "out"), in_this_process)
    errors = {row["case"]: row["error"] for row in table(tmp_path / "out")}
    assert errors["good"] == ""
    assert "no DICOM file was found" in errors["cut"]
    assert "no DICOM file was found" in errors["index"]
    assert "holds 2 DICOM studies" in errors["two"]


def test_a_root_without_cases_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no folder; expected a study a folder"):
        find_cases(tmp_path)


# --- one process ---


def test_a_bad_case_is_listed_and_the_rest_done(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    with pytest.raises(L2SNetError, match=r"1 of 4 cases failed; .*cohort\.csv says why"):
        run_cohort(find_cases(root), plan_of(tmp_path / "out"), in_this_process)
    rows = table(tmp_path / "out")
    assert [(row["case"], row["status"]) for row in rows] == [
        *(("A nifti", "done"), ("B broken", "failed"), ("C container", "done"), ("D dicom", "done")),
    ]
    assert "SUV.nii.gz cannot be read" in rows[1]["error"]
    assert [row["study_uid"] for row in rows] == ["", "", "", STUDY]
    for row in (rows[0], rows[2], rows[3]):
        assert (row["lesions"], row["error"]) == ("1", "")
        assert float(row["tmtv_ml"]) == pytest.approx(CUBE_ML, rel=1e-5)
        mask = tmp_path / "out" / row["case"] / "images/automated-petct-lesion-segmentation" / f"{row['case']}.mha"
        assert read_volume(mask, "mask").array.sum() == 64
    assert "4 cases: 0 done before, 4 to do" in caplog.text
    assert "2/4 B broken: PET: SUV.nii.gz cannot be read" in caplog.text
    assert "1 lesions, 0.8 ml; 0 min left" in caplog.text
    assert "PET WB" not in caplog.text  # a header's words
    assert logging.getLogger("l2snet").level == logging.NOTSET


def test_every_case_gets_a_report_and_a_page_leads_to_them(
    run: Run,  # noqa: F811
    weights: Path,  # noqa: F811
    root: Path,
    tmp_path: Path,
):
    arguments = ("cohort", root, tmp_path / "out", "--weights", weights, "--device", "cpu", "--report", "--no-viewer")
    assert run(*arguments).code == 1  # one is damaged
    done = [row["case"] for row in table(tmp_path / "out") if row["status"] == "done"]
    assert len(done) == 3
    page = (tmp_path / "out" / COHORT).read_text("utf-8")
    for name in done:
        assert name in (tmp_path / "out" / name / REPORT).read_text("utf-8")
        assert quote(f"{name}/{REPORT}") in page
    made = (tmp_path / "out" / done[0] / REPORT).stat().st_mtime_ns
    run(*arguments)
    assert (tmp_path / "out" / done[0] / REPORT).stat().st_mtime_ns == made
    run(*arguments[:-1])  # with the viewer: another report
    assert (tmp_path / "out" / done[0] / REPORT).stat().st_mtime_ns > made


def test_what_is_done_is_kept_and_the_rest_goes_on(root: Path, tmp_path: Path):
    method, cases, out = Threshold(), find_cases(root), tmp_path / "out"

    class Interrupted(Threshold):
        def segment(self, case: Case) -> Segmentation:
            if case.name == "D dicom":
                raise KeyboardInterrupt
            return super().segment(case)

    with pytest.raises(KeyboardInterrupt):
        run_cohort(cases, plan_of(out, Interrupted()), in_this_process)
    assert [row["case"] for row in table(out)] == ["A nifti", "B broken"]  # C was still being written
    with pytest.raises(L2SNetError, match="1 of 4"):
        run_cohort(cases, plan_of(out, method), in_this_process)
    assert method.seen == ["D dicom"]
    interrupted = table(out)
    with pytest.raises(L2SNetError, match="1 of 4"):
        run_cohort(cases, plan_of(tmp_path / "fresh"), in_this_process)
    assert table(tmp_path / "fresh") == interrupted


def test_a_mended_case_is_done_and_a_damaged_result_done_again(
    root: Path, tmp_path: Path, phantom: Callable[..., Case]
):
    out = tmp_path / "out"
    with pytest.raises(L2SNetError):
        run_cohort(find_cases(root), plan_of(out), in_this_process)
    write_study(root / "B broken", phantom())
    next((out / "A nifti").rglob("*.mha")).unlink()
    method = Threshold()
    run_cohort(find_cases(root), plan_of(out, method), in_this_process)
    assert method.seen == ["A nifti", "B broken"]
    assert {row["status"] for row in table(out)} == {"done"}


@pytest.mark.parametrize(
    "lost",
    [
        "lesions_seg.dcm",
        "lesions_sr.dcm",
        "mask.nii.gz",
        "lesions.nii.gz",
        "probability.mha",
        "lesions.csv",
        "patient.csv",
    ],
)
def test_a_result_without_one_of_its_files_is_made_again(tmp_path: Path, phantom: Callable[..., Case], lost: str):
    write_phantom(tmp_path / "in" / "A", phantom())
    cases, out = find_cases(tmp_path / "in"), tmp_path / "out"
    method, measuring = Threshold(), Measuring(frozenset({Format.sr, Format.nifti}))
    plan = plan_of(out, method, measuring=measuring, probability=True)
    for seen in (1, 1):  # the second time it is kept
        run_cohort(cases, plan, in_this_process)
        assert len(method.seen) == seen
    (out / "A" / lost).unlink()
    run_cohort(cases, plan, in_this_process)
    assert len(method.seen) == 2
    assert (out / "A" / lost).is_file()


def test_what_has_no_dicom_for_its_formats_is_not_segmented(tmp_path: Path, phantom: Callable[..., Case]):
    write_study(tmp_path / "in" / "A", phantom())
    write_phantom(tmp_path / "in" / "B", phantom())
    method = Threshold()
    with pytest.raises(L2SNetError, match="1 of 2"):
        run_cohort(
            find_cases(tmp_path / "in"),
            plan_of(tmp_path / "out", method, measuring=Measuring(frozenset({Format.seg}))),
            in_this_process,
        )
    assert method.seen == ["B"]
    assert "--format seg needs DICOM input" in table(tmp_path / "out")[0]["error"]


def test_results_of_no_case_are_named(tmp_path: Path, phantom: Callable[..., Case], caplog: pytest.LogCaptureFixture):
    root, out = tmp_path / "in", tmp_path / "out"
    write_phantom(root / "P1" / "S1", phantom())
    run_cohort(find_cases(root), plan_of(out), in_this_process)
    assert "of no case" not in caplog.text
    write_study(root / "P1" / "S2", phantom())
    (out / "notes").mkdir()
    (out / "notes" / "manifest.json").write_text("[]", "utf-8")  # another program's
    run_cohort(find_cases(root), plan_of(out), in_this_process)
    assert [row["case"] for row in table(out)] == ["P1/S1", "P1/S2"]
    assert f"{out} holds results of no case of this run: P1; remove" in caplog.text
    caplog.clear()
    run_cohort(anonymise(find_cases(root), out), plan_of(out), in_this_process)
    assert "no case of this run: [name], [name], [name]; remove" in caplog.text


@pytest.mark.parametrize("anonymous", [False, True])
def test_a_series_that_no_study_has_is_warned_of(
    tmp_path: Path, phantom: Callable[..., Case], caplog: pytest.LogCaptureFixture, anonymous: bool
):
    write_phantom(tmp_path / "in" / "A", phantom())
    write_study(tmp_path / "in" / "B", phantom())
    (tmp_path / "in" / "C").mkdir()
    cases, out = find_cases(tmp_path / "in" / "A"), tmp_path / "out"
    used = anonymise(cases, out) if anonymous else cases
    run_cohort(used, plan_of(out, reading=Reading(series=(CT_UID, PET_UID))), in_this_process)
    assert "--series" not in caplog.text
    run_cohort(used, plan_of(out, reading=Reading(series=(CT_UID, "1.2.3.44"))), in_this_process)
    uid = "1 of the UIDs" if anonymous else "1.2.3.44"
    assert f"--series: no study that can be read has {uid}; compare" in caplog.text
    assert CT_UID not in caplog.text


@pytest.mark.parametrize("change", ["weights", "options"])
def test_a_result_of_other_weights_or_options_is_made_again(tmp_path: Path, phantom: Callable[..., Case], change: str):
    write_study(tmp_path / "in" / "A", phantom())
    cases, out = find_cases(tmp_path / "in"), tmp_path / "out"
    run_cohort(cases, plan_of(out, probability=True), in_this_process)
    assert (out / "A" / "probability.mha").is_file()
    method = Threshold()
    if change == "weights":
        method.settings = {**method.settings, "weights_sha256": "other"}
        plan = plan_of(out, method, probability=True)
    else:
        plan = plan_of(out, method, reading=Reading(pet_only=True))
    run_cohort(cases, plan, in_this_process)
    assert method.seen == ["A"]
    assert (out / "A" / "probability.mha").is_file() == (change == "weights")  # nothing is left of the earlier run
    manifest = json.loads((out / "A" / "manifest.json").read_text("utf-8"))
    assert manifest["made_by"] == plan.made_by
    other_engine = Threshold()
    other_engine.settings = {**method.settings, "engine": "a GPU"}
    run_cohort(cases, plan_of(out, other_engine, reading=plan.reading, probability=plan.probability), in_this_process)
    assert other_engine.seen == []


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_case_that_fails_keeps_no_result_of_other_weights(
    tmp_path: Path, phantom: Callable[..., Case], one_by_one: bool
):
    study, out = write_study(tmp_path / "in" / "A", phantom()), tmp_path / "out"
    cases, method = find_cases(tmp_path / "in"), Threshold()
    run_cohort(cases, plan_of(out, measuring=Measuring(frozenset({Format.nifti}))), in_this_process)
    assert (out / "A" / "mask.nii.gz").is_file()
    (study / "SUV.nii.gz").write_bytes(b"cut off")
    method.settings = {**method.settings, "weights_sha256": "other"}
    plan = plan_of(out, method)
    if one_by_one:  # as a worker of a cluster
        assert "cannot be read" in plan.do(cases[0], method).error
    else:
        with pytest.raises(L2SNetError, match="1 of 1"):
            run_cohort(cases, plan, in_this_process)
    assert [path for path in (out / "A").rglob("*") if path.is_file()] == []


def test_the_page_lists_the_cases_of_the_table_alone(tmp_path: Path, phantom: Callable[..., Case]):
    pytest.importorskip("jinja2", reason="the extra report is not installed")
    from l2snet.report.casepage import Options

    for name in ("A", "B", "C"):
        write_study(tmp_path / "in" / name, phantom())
    out, options = tmp_path / "out", Options(viewer=False)
    run_cohort(find_cases(tmp_path / "in"), plan_of(out, report=options), in_this_process)
    assert quote(f"C/{REPORT}") in (out / PAGE).read_text("utf-8")
    (tmp_path / "in" / "B" / "SUV.nii.gz").write_bytes(b"cut off")
    next((out / "B").rglob("*.mha")).unlink()
    (out / "A" / REPORT).unlink()  # is made again
    (tmp_path / "in" / "C").rename(tmp_path / "C")
    with pytest.raises(L2SNetError, match="1 of 2"):
        run_cohort(find_cases(tmp_path / "in"), plan_of(out, report=options), in_this_process)
    page = (out / PAGE).read_text("utf-8")
    assert (out / "C" / REPORT).is_file()
    assert [quote(f"{name}/{REPORT}") in page for name in "ABC"] == [True, False, False]
    assert "Failed, so not listed: B" in page
    run_cohort(find_cases(tmp_path / "in" / "A"), plan_of(out), in_this_process)  # without reports
    assert not (out / PAGE).exists()
    assert PAGE == COHORT


def test_reading_segmenting_and_writing_overlap(tmp_path: Path, phantom: Callable[..., Case]):
    """With a method of 0.3 s and reading of 0.3 s, four cases take about five steps and not eight."""
    for name in "ABCD":
        write_study(tmp_path / "in" / name, phantom())
    moments: list[tuple[str, str]] = []

    class Slow(Threshold):
        def segment(self, case: Case) -> Segmentation:
            time.sleep(0.3)
            moments.append(("segmented", case.name))
            return super().segment(case)

    @dataclass(frozen=True)
    class Watched(Plan):
        def read(self, case: CohortCase) -> Any:
            moments.append(("reading", case.name))
            return super().read(case)

    method = Slow()
    plan = Watched(tmp_path / "out", lambda: method, "0")
    list(in_this_process(plan, find_cases(tmp_path / "in")))
    for here, following in zip("ABC", "BCD", strict=True):  # the next is being read while one is segmented
        assert moments.index(("reading", following)) < moments.index(("segmented", here))
    # and no more than the next: at most three cases are in memory
    assert moments.index(("segmented", "A")) < moments.index(("reading", "C"))


# --- names ---


def test_anonymous_results_hold_no_name_and_keep_their_pseudonyms(
    run: Run,  # noqa: F811
    weights: Path,  # noqa: F811
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level("INFO")
    write_pet(root / "E dicom" / "Doe^Jane" / "PET", StudyInstanceUID="1.2.777.8.9", RadionuclideTotalDose="0")
    (root / "E dicom" / "Doe^Jane" / "PET" / "1-003.dcm").unlink()
    arguments = ("cohort", root, tmp_path / "out", "--anonymous", "--weights", weights, "--device", "cpu")
    ended = run(*arguments, "--format", "nifti")
    assert ended.code == 1
    rows = table(tmp_path / "out")
    names = [row["case"] for row in rows]
    assert all(name.startswith("case-") for name in names)
    assert sum(row["status"] == "done" for row in rows) == 3
    texts = [path.read_text("utf-8") for path in (tmp_path / "out").rglob("*") if path.suffix in (".csv", ".json")]
    paths = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")]
    for word in (
        "nifti\n",
        "A nifti",
        "B broken",
        "broken",
        "D dicom",
        "Doe",
        STUDY + ".",
        "1.2.777",
        "PET WB",
        "1-00",
    ):
        for text in (*texts, *paths, ended.err, caplog.text):
            assert word not in text, (word, text)
    assert not any("study_uid" in row for row in rows)
    run(*arguments, "--format", "nifti")  # the key lasts: the same names, and nothing new
    assert [row["case"] for row in table(tmp_path / "out")] == names
    assert (tmp_path / "out" / KEY).stat().st_mode & 0o077 == 0


def test_pseudonyms_of_two_folders_tell_nothing_of_each_other(tmp_path: Path):
    cases = [CohortCase("A", tmp_path / "A"), CohortCase("B", tmp_path / "B")]
    one, two = (anonymise(cases, tmp_path / name) for name in ("x", "y"))
    assert {case.folder for case in one} == {case.folder for case in cases}
    assert not {case.name for case in one} & {case.name for case in two}
    (tmp_path / "x" / KEY).write_bytes(b"short")
    with pytest.raises(OutputError, match="is cut off"):
        anonymise(cases, tmp_path / "x")


def test_a_told_sentence_names_nobody():
    case = CohortCase("case-1", Path("/data/DOE JANE/scan 2"), anonymous=True)
    sentence = (
        "DOE JANE: the PET 'Doe study' (5 slices, 1.2.3.4.5) of 1.2.840.99 in /data/DOE JANE/x/1.dcm is 20200131, "
        "3 h after 2020-01-31 11:50:00; file Doe_001.dcm, scan 2"
    )
    told = case.told(sentence)
    for word in ("DOE", "Doe", "1.2.840", "2020", "scan 2", ".dcm"):
        assert word not in told
    assert "3 h after" in told
    told = replace(case, name="scan 2", anonymous=False, root=Path("/data/DOE JANE")).told(sentence)
    for word in ("study", "1.2.", "2020", "/", ".dcm"):
        assert word not in told.removeprefix("DOE JANE")
    assert told.endswith("3 h after [date]; file [file], scan 2")


def test_logs_and_table_hold_nothing_of_the_headers_of_a_bad_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, phantom: Callable[..., Case]
):
    caplog.set_level("INFO")
    root, out = tmp_path / "in", tmp_path / "out"
    for n in (1, 2):
        name = {"SeriesDescription": f"Doe's {n}", "SeriesInstanceUID": f"1.2.777.{n}", "StudyInstanceUID": "1.2.777"}
        write_pet(root / "P1" / f"Doe {n}", **name)
    write_phantom(root / "P2", phantom(), SeriesTime="095959")  # before the injection
    write_study(root / "P3", phantom())
    (root / "P3" / "CTres.nii.gz").unlink()
    with pytest.raises(L2SNetError, match="l2snet predict on the folder of one says more"):
        run_cohort(find_cases(root), plan_of(out), in_this_process)
    one, _, three = (row["error"] for row in table(out))
    assert one.startswith(
        "there is more than one attenuation-corrected PET: a series, a series; name one with --series"
    )
    assert "CTres.nii.gz" in three
    for text in (one, three, caplog.text.replace(str(out), "")):
        for word in ("Doe", "1.2.777", str(tmp_path), "PET WB"):
            assert word not in text


def test_names_of_several_words_are_told_to_nobody(tmp_path: Path):
    root = tmp_path / "study of Ann Lee"
    folder = root / "Doe Mary Jane" / "second visit" / "images of May"
    (folder / "Old Mary" / "IM Jane 1").mkdir(parents=True)
    (folder / "MaryJane0001").write_text("a file without ending")
    series = [f"{text!r} (3 slices, 1.2)" for text in ("Mary's scan", 'Mary\'s "M"', "M. Jane")]
    sentence = (
        f"there is no file {folder}/CTres.nii.gz, nor {folder.parent}/x y/z.dcm of Doe Mary Jane, second visit; it has "
        f"2 studies (Old Mary/IM Jane 1, Old Mary); {root} is read; MaryJane0001 lacks Rows; "
        f"the PET's series are {', '.join(series)}"
    )
    told = CohortCase("case-1", folder, True, root).told(sentence)
    for word in ("Doe", "Mary", "Jane", "visit", "May", "scan", "Ann"):
        assert word not in told, (word, told)
    assert "there is no file " in told
    assert "2 studies" in told
    assert "the PET's series are a series, a series, a series" in told


@pytest.mark.parametrize("relative", [False, True])
def test_errors_in_finding_cases_name_nobody_either(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    relative: bool,
):
    monkeypatch.chdir(tmp_path)
    root = (Path() if relative else tmp_path) / "Doe Mary Jane"
    root.mkdir()
    for place, sentence in ((root, "holds no folder; expected"), (root / "Mary Ann", "there is no folder")):
        ended = run("cohort", place, tmp_path / "out", "--anonymous")
        assert ended.code == 1
        assert sentence in ended.err
        for word in ("Doe", "Mary", "Jane", "Ann"):
            assert word not in ended.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--anonymous", "--format", "seg"), "--anonymous and --format seg exclude each other"),
        (("--format", "mha"), "--format 'mha' is not known"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    run: Run,  # noqa: F811
    root: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    sentence: str,
):
    ended = run("cohort", root, tmp_path / "out", *arguments)
    assert ended.code == 1
    assert sentence in ended.err.rstrip("\n").rpartition("\n")[2]


# --- a cluster ---


def test_a_worker_says_nothing_of_headers(
    tmp_path: Path, phantom: Callable[..., Case], caplog: pytest.LogCaptureFixture
):
    write_study(tmp_path / "in" / "A", phantom())

    class Talking(Threshold):
        def segment(self, case: Case) -> Segmentation:
            warnings.warn("Doe", RuntimeWarning, stacklevel=1)
            logging.getLogger("l2snet.sources").info("Doe")
            return super().segment(case)

    caplog.set_level("INFO")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome = _do(plan_of(tmp_path / "out", Talking()), find_cases(tmp_path / "in")[0])
    assert (outcome.error, warned, "Doe" in caplog.text) == ("", [], False)


@dataclass(frozen=True)
class Fatal:
    """The method of a cluster's worker; in the case named B, the first time, it `ends` in mid-case."""

    marks: Path
    ends: str
    settings: Any = None

    def segment(self, case: Case) -> Segmentation:
        mark = self.marks / f"{case.name}.{time.time_ns()}"
        first = not list(self.marks.glob("B.*"))
        mark.write_text(f"{os.getppid()} {os.getpid()}", "utf-8")  # the node's process, whose child the worker is
        if case.name == "B" and (first or self.ends == "always"):
            if self.ends == "waits":
                time.sleep(WAITS_S)  # until its machine is killed
            os.kill(os.getpid(), signal.SIGKILL)
        return Threshold().segment(case)


def load_fatal(marks: Path, ends: str) -> Fatal:
    return Fatal(marks, ends, {"method": "threshold"})


@pytest.fixture(scope="module")
def nodes_of_ray() -> Iterator[Any]:
    """A Ray cluster on this machine: the node that leads, of one CPU, to which tests add others."""
    pytest.importorskip("ray", reason="Ray (extra: cluster) is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # or workers would hardly begin on a busy machine
    import ray
    from ray.cluster_utils import Cluster as Nodes

    for module in ("test_cohort", "test_cli", "test_dicom_predict", "dicom_files"):
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])  # workers know no tests
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield nodes
    finally:
        nodes.shutdown()


@pytest.fixture
def three(tmp_path: Path, phantom: Callable[..., Case]) -> list[CohortCase]:
    for name in "ABC":
        write_study(tmp_path / "in" / name, phantom())
    return find_cases(tmp_path / "in")


def cluster_plan(tmp_path: Path, ends: str) -> Plan:
    (tmp_path / "marks").mkdir()
    load = partial(load_fatal, tmp_path / "marks", ends)
    plan = Plan(tmp_path / "out", load, "")
    return replace(plan, made_by=made_by(load(), "exact", plan))


def test_a_killed_worker_costs_its_case_one_retry(nodes_of_ray: Any, three: list[CohortCase], tmp_path: Path):
    run_cohort(three, cluster_plan(tmp_path, "once"), Cluster(nodes_of_ray.address))
    assert len(list((tmp_path / "marks").glob("B.*"))) == 2
    run_cohort(three, plan_of(tmp_path / "alone"), in_this_process)
    assert table(tmp_path / "out") == table(tmp_path / "alone")
    for case in three:
        one, other = (next((tmp_path / out / case.name).rglob("*.mha")) for out in ("out", "alone"))
        np.testing.assert_array_equal(read_volume(one, "mask").array, read_volume(other, "mask").array)


def test_a_case_whose_worker_dies_twice_fails_and_the_rest_is_done(
    nodes_of_ray: Any, three: list[CohortCase], tmp_path: Path
):
    with pytest.raises(L2SNetError, match="1 of 3 cases failed"):
        run_cohort(three, cluster_plan(tmp_path, "always"), Cluster(nodes_of_ray.address))
    assert [row["status"] for row in table(tmp_path / "out")] == ["done", "failed", "done"]
    assert "its worker died 2 times" in table(tmp_path / "out")[1]["error"]
    assert os.environ["RAY_task_oom_retries"] == str(RETRIES)  # noqa: SIM112  # or for memory it would die for ever
    assert len(list((tmp_path / "marks").glob("B.*"))) == 2


def test_a_killed_machine_costs_its_case_one_retry(nodes_of_ray: Any, three: list[CohortCase], tmp_path: Path):
    """A case asks for two CPUs, which the head has not; the node that does B is killed, and the other takes B over."""
    marks = tmp_path / "marks"
    nodes: list[Any] = []

    def kill() -> None:
        while not (found := [mark for mark in marks.glob("B.*") if mark.read_text("utf-8")]):
            time.sleep(0.1)
        for process in found[0].read_text("utf-8").split():  # all of a machine dies at once
            os.kill(int(process), signal.SIGKILL)

    killer = Thread(target=kill, daemon=True)
    plan = cluster_plan(tmp_path, "waits")
    killer.start()
    try:
        nodes += [nodes_of_ray.add_node(num_cpus=2) for _ in range(2)]
        began = time.monotonic()
        run_cohort(three, plan, Cluster(nodes_of_ray.address, cpus=2))
        assert time.monotonic() - began < WAITS_S  # B did not end by itself
    finally:  # other tests count the machines
        for node in nodes:
            nodes_of_ray.remove_node(node, allow_graceful=False)
    assert {row["status"] for row in table(tmp_path / "out")} == {"done"}
    nodes_of_b = {mark.read_text("utf-8").split()[0] for mark in marks.glob("B.*")}
    assert len(nodes_of_b) == 2  # one node, then the other


@pytest.mark.parametrize(("cpus", "gpus"), [(64.0, 0.0), (1.0, 0.5)])
def test_what_no_machine_of_a_cluster_has_is_refused(
    nodes_of_ray: Any, three: list[CohortCase], tmp_path: Path, cpus: float, gpus: float
):
    with pytest.raises(InputError, match=rf"a case takes {cpus:g} CPUs and {gpus:g} GPUs, and no machine .* 1 and 0"):
        run_cohort(three, cluster_plan(tmp_path, "once"), Cluster(nodes_of_ray.address, cpus, gpus))


def test_no_cluster_is_one_sentence(run: Run, root: Path, weights: Path, tmp_path: Path):  # noqa: F811
    pytest.importorskip("ray", reason="Ray (extra: cluster) is not installed")
    arguments = ("--weights", weights, "--device", "cpu", "--ray", "127.0.0.1:1")
    ended = run("cohort", root, tmp_path / "out", *arguments)
    assert ended.code == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in ended.err.rstrip("\n").rpartition("\n")[2]
