"""`l2snet predict` from DICOM and with the lesion table: one command, files to files.

The networks answer with the PET over 10 (see test_cli), so that the mask is every voxel of SUV 8.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import CT_UID, PET_UID, STUDY, write_ct, write_pet
from matplotlib.path import Path as Polygon
from pydicom import Dataset, dcmread
from test_cli import Ended, files, run, weights  # noqa: F401  # fixtures

from l2snet.case import Case
from l2snet.pipeline import L2SNet
from l2snet.sources.dicom_seg import read_segmentation
from l2snet.volume import Geometry, Volume, read_volume, write_volume

Run = Callable[..., Ended]
CUBE_ML = 64 * 3 * 2.036**2 / 1000  # of 4 x 4 x 4 voxels
MASK = Path("images/automated-petct-lesion-segmentation/patient 1.mha")


def write_phantom(folder: Path, case: Case, **changes: object) -> Path:
    """The case as a DICOM study: PET in SUV (GML), CT on a grid of its own, a voxel larger all round."""
    grid, suv = case.geometry, case.suv.array
    places = tuple([float(v) for v in grid.world(np.array([z, 0, 0]))] for z in range(grid.size[0]))
    fields = {"PixelSpacing": [grid.spacing_mm[1], grid.spacing_mm[2]], "ImagePositionPatient": places}
    stored = np.rint(suv * 1000).astype(np.int16)
    sizes = {"PatientSize": "1.75", "PatientSex": "M"}
    pet = {**fields, "Units": "GML", "RescaleSlope": 0.001, **sizes, **changes}
    write_pet(folder / "series 1", stored, **pet)  # type: ignore[arg-type]
    wide = np.pad(case.ct.array if case.ct else suv, 1, constant_values=-1000) + 1024
    outer = tuple([float(v) for v in grid.world(np.array([z - 1, -1, -1]))] for z in range(grid.size[0] + 2))
    write_ct(folder / "series 2", wide.astype(np.int16), **{**fields, "ImagePositionPatient": outer})  # type: ignore[arg-type]
    return folder


@pytest.fixture
def study(tmp_path: Path, phantom: Callable[..., Case]) -> Path:
    return write_phantom(tmp_path / "patient 1", phantom())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_dicom_in_everything_out(
    run: Run,  # noqa: F811
    study: Path,
    weights: Path,  # noqa: F811
    tmp_path: Path,
    phantom: Callable[..., Case],
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level("INFO")
    out = tmp_path / "out"
    ended = run(
        *("predict", study, out, "--weights", weights, "--device", "cpu"),
        *("--format", "seg,fractional,rtstruct,sr,nifti,nrrd"),
    )
    assert ended.code == 0, ended.err
    names = {path.name for path in files(out)}
    assert names == {
        *("patient 1.mha", "manifest.json", "lesions.csv", "patient.csv", "measurements.json"),
        *("lesions_seg.dcm", "probability_seg.dcm", "lesions_rtstruct.dcm", "lesions_sr.dcm"),
        *("mask.nii.gz", "lesions.nii.gz", "mask.nrrd", "lesions.nrrd"),
    }
    expected = phantom().suv.array == 8
    for name in (MASK, Path("mask.nii.gz"), Path("mask.nrrd"), Path("lesions.nii.gz")):
        found = read_volume(out / name, "mask")
        np.testing.assert_array_equal(found.array, expected)
        assert found.geometry.matches(phantom().geometry)
    np.testing.assert_array_equal(read_segmentation(out / "lesions_seg.dcm", phantom().geometry).mask.array, expected)
    (patient,) = rows(out / "patient.csv")
    assert (patient["case"], patient["study_uid"], patient["lesions"]) == ("patient 1", STUDY, "1")
    assert float(patient["tmtv_ml"]) == pytest.approx(CUBE_ML, rel=1e-5)
    assert float(patient["sdmax_per_m"]) == 0.0  # height and weight are known
    (lesion,) = rows(out / "lesions.csv")
    assert (float(lesion["suv_max"]), float(lesion["probability"])) == pytest.approx((8.0, 0.8), rel=1e-4)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["dicom"]["pet_series"] == PET_UID
    assert manifest["dicom"]["ct_series"] == CT_UID
    assert manifest["dicom"]["suv_rule"] == "units GML: SUV (BW) already"
    assert "PET: 24 slices, attenuation corrected; SUV by units GML" in caplog.text
    assert "CT: 26 slices, covers 100% of the PET, in the PET's frame of reference; resampled" in caplog.text
    for word in ("PET WB", "CT WB", PET_UID, CT_UID):  # nothing of the headers' texts and UIDs
        assert word not in caplog.text + ended.err


def by_way_of_nifti(run: Run, study: Path, out: Path, *options: object) -> None:  # noqa: F811
    """Prepare a DICOM study as NIfTI, and segment that."""
    data = out / "data"
    assert run("prepare", "autopet", study, data, "--mask-optional", "--time-convention", "qiba").code == 0
    (folder,) = (path.parent for path in data.rglob("SUV.nii.gz"))
    ended = run("predict", folder, out / "nifti", *options)
    assert ended.code == 0, ended.err


def mask_of(folder: Path) -> Volume:
    (path,) = (folder / "images").rglob("*.mha")
    return read_volume(path, "mask")


def test_dicom_and_the_nifti_made_of_it_give_the_same_mask(run: Run, study: Path, weights: Path, tmp_path: Path):  # noqa: F811
    options = ("--weights", weights, "--device", "cpu", "--probability")
    ended = run("predict", study, tmp_path / "dicom", *options)
    assert ended.code == 0, ended.err
    by_way_of_nifti(run, study, tmp_path, *options)
    one, two = (mask_of(tmp_path / out) for out in ("dicom", "nifti"))
    np.testing.assert_array_equal(one.array, two.array)
    assert one.array.sum() == 64
    one, two = (read_volume(tmp_path / out / "probability.mha", "probability") for out in ("dicom", "nifti"))
    np.testing.assert_allclose(one.array, two.array, atol=1e-6)


def test_the_table_of_images_and_its_rules(run: Run, weights: Path, tmp_path: Path, phantom: Callable[..., Case]):  # noqa: F811
    """Two lesions: the cube of SUV 8 in the body's middle, and a voxel of SUV 6 (found by its probability, 0.6)."""
    case = phantom()
    assert case.ct is not None
    suv = case.suv.array.copy()
    suv[5, 14, 16] = 6.0
    write_volume(case.suv.with_array(suv), tmp_path / "SUV.nii.gz", compress=True)
    write_volume(case.ct, tmp_path / "CTres.nii.gz", compress=True)
    options = ("predict", tmp_path, "--weights", weights, "--device", "cpu")

    def found(name: str, *more: object) -> list[float]:
        out = tmp_path / name
        ended = run(*options[:2], out, *options[2:], *more)
        assert ended.code == 0, ended.err
        voxels = read_volume(next((out / "images").rglob("*.mha")), "mask").array.sum()
        volumes = [float(row["volume_ml"]) for row in rows(out / "lesions.csv")]
        assert sum(volumes) == pytest.approx(voxels * CUBE_ML / 64, rel=1e-4)
        return [round(volume / CUBE_ML * 64) for volume in volumes]

    assert found("a", "--lesions") == [64, 1]
    assert found("b", "--smallest-ml", "0.1") == [64]
    assert found("c", "--suv-floor", "7", "--format", "nifti") == [64]
    assert found("d", "--suv-floor", "9") == []


def test_nothing_of_an_earlier_result_stays_beside_a_new_one(
    run: Run,  # noqa: F811
    study: Path,
    weights: Path,  # noqa: F811
    tmp_path: Path,
    phantom: Callable[..., Case],
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mask.nii.gz").write_text("the user's own")
    options = ("--weights", weights, "--device", "cpu")
    assert run("predict", study, out, *options).code == 0
    assert (out / "mask.nii.gz").read_text() == "the user's own"  # there was no result before
    more = ("--format", "seg,rtstruct,sr,nifti,nrrd", "--probability", "--cue")
    assert run("predict", study, out, *options, *more).code == 0
    case = phantom()
    assert case.ct is not None
    images = tmp_path / "images" / "patient 1"
    write_volume(case.suv, images / "SUV.nii.gz", compress=True)
    write_volume(case.ct, images / "CTres.nii.gz", compress=True)
    assert run("predict", images, out, *options).code == 0
    assert {path.name for path in files(out)} == {"patient 1.mha", "manifest.json"}


def test_a_mistyped_series_is_refused(run: Run, study: Path, weights: Path, tmp_path: Path):  # noqa: F811
    ended = run("predict", study, tmp_path / "out", "--weights", weights, "--device", "cpu", "--series", "1.2.3.11")
    assert ended.code == 1
    last = ended.err.rstrip("\n").rpartition("\n")[2]
    assert "there is no series 1.2.3.11 in the study; expected one of 'PET WB' (24 slices, 1.2.3.1)" in last


def test_suv_by_lean_mass_and_surface(run: Run, study: Path, weights: Path, tmp_path: Path):  # noqa: F811
    for kind, scale in (("lbm", 55.852 / 70), ("bsa", 18481 / 70000)):
        out = tmp_path / kind
        assert run("predict", study, out, "--weights", weights, "--device", "cpu", "--suv", kind).code == 0
        (lesion,), (patient,) = rows(out / "lesions.csv"), rows(out / "patient.csv")
        assert float(lesion["suv_max"]) == pytest.approx(8 * scale, rel=1e-4)
        assert patient["suv_type"] == kind
        assert read_volume(out / MASK, "mask").array.sum() == 64  # the networks see body weight


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--format", "seg"), "--format seg needs DICOM input"),
        (("--format", "dcm"), "--format 'dcm' is not known; expected some of seg"),
        (("--suv", "lbm"), "PatientWeight is missing"),
    ],
)
def test_what_images_cannot_give_is_refused(
    run: Run,  # noqa: F811
    weights: Path,  # noqa: F811
    tmp_path: Path,
    phantom: Callable[..., Case],
    write_case: Callable[[Path, Case], Path],
    arguments: tuple[str, ...],
    sentence: str,
):
    folder = write_case(tmp_path / "input", phantom())
    ended = run("predict", folder, tmp_path / "out", "--weights", weights, "--device", "cpu", *arguments)
    assert ended.code == 1
    assert sentence in ended.err.rstrip("\n").rpartition("\n")[2]
    assert files(tmp_path / "out" / "images") == []


def test_an_open_choice_lists_the_candidates_and_the_flag(run: Run, study: Path, weights: Path, tmp_path: Path):  # noqa: F811
    for path in sorted((study / "series 1").iterdir()):
        dataset = dcmread(path)
        dataset.SeriesInstanceUID = "1.2.3.77"
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.7"
        (study / "series 3").mkdir(exist_ok=True)
        dataset.save_as(study / "series 3" / path.name)
    arguments = ("--weights", weights, "--device", "cpu")
    ended = run("predict", study, tmp_path / "out", *arguments)
    assert ended.code == 1
    assert "more than one attenuation-corrected PET" in ended.err
    assert "--series UID" in ended.err
    assert run("predict", study, tmp_path / "out", *arguments, "--series", "1.2.3.77").code == 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["dicom"]["pet_series"] == "1.2.3.77"


def test_a_choice_by_the_flag_is_logged_as_such(
    run: Run,  # noqa: F811
    study: Path,
    weights: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level("INFO")
    named = ("--series", PET_UID, "--series", CT_UID)
    assert run("predict", study, tmp_path / "out", "--weights", weights, "--device", "cpu", *named).code == 0
    assert "PET: 24 slices, attenuation corrected, named by --series; SUV by" in caplog.text
    assert "CT: 26 slices, covers 100% of the PET, named by --series; resampled" in caplog.text


def test_what_the_header_tells_of_missing_slices_is_in_the_manifest(
    run: Run,  # noqa: F811
    weights: Path,  # noqa: F811
    tmp_path: Path,
    phantom: Callable[..., Case],
    caplog: pytest.LogCaptureFixture,
):
    study = write_phantom(tmp_path / "patient 1", phantom(), NumberOfSlices=30)
    ended = run("predict", study, tmp_path / "out", "--weights", weights, "--device", "cpu")
    assert ended.code == 0, ended.err
    sentence = "the PET has 24 slices, and its NumberOfSlices is 30: is the copy complete?"
    assert sentence in json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["notes"]
    assert sentence in caplog.text


@pytest.mark.parametrize("form", ["seg", "fractional", "rtstruct", "sr"])
def test_dicom_without_a_frame_of_reference_is_refused_before_it_is_segmented(
    run: Run,  # noqa: F811
    weights: Path,  # noqa: F811
    tmp_path: Path,
    phantom: Callable[..., Case],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
):
    study = write_phantom(tmp_path / "patient 1", phantom(), FrameOfReferenceUID="")
    options = ("--weights", weights, "--device", "cpu", "--series", CT_UID, "--format", form)
    monkeypatch.setattr(L2SNet, "segment", None)
    ended = run("predict", study, tmp_path / "out", *options)
    assert ended.code == 1
    assert f"--format {form} needs the PET's FrameOfReferenceUID, which is missing" in ended.err
    assert files(tmp_path / "out") == []


SHARED = Path(__file__).parents[2] / "shared" / "data" / "dicom" / "STS_002"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real DICOM sample, ../shared/data/dicom, is not here")
def test_the_real_study_in_every_format(run: Run, weights: Path, tmp_path: Path):  # noqa: F811
    """SEG, RTSTRUCT and SR; and the same mask by way of NIfTI."""
    options = ("--weights", weights, "--device", "cpu")
    ended = run("predict", SHARED, tmp_path, *options, "--format", "seg,rtstruct,sr")
    assert ended.code == 0, ended.err
    mask = read_volume(tmp_path / "images/automated-petct-lesion-segmentation/STS_002.mha", "mask")
    seg = dcmread(tmp_path / "lesions_seg.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID.endswith("475429996794833172294137667411")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "lesions_seg.dcm", mask.geometry).mask.array, mask.array)
    (patient,) = rows(tmp_path / "patient.csv")
    assert float(patient["tmtv_ml"]) == pytest.approx(mask.array.sum() * mask.geometry.voxel_ml, rel=1e-5)
    assert mask.array.any()
    np.testing.assert_array_equal(filled(dcmread(tmp_path / "lesions_rtstruct.dcm"), mask.geometry), mask.array)
    report = dcmread(tmp_path / "lesions_sr.dcm")
    (measurements,) = (i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    assert len(measurements.ContentSequence) == int(patient["lesions"]) + 1  # and the patient's
    assert seg.SOPInstanceUID in report.to_json()
    by_way_of_nifti(run, SHARED, tmp_path / "by", *options)
    np.testing.assert_array_equal(mask_of(tmp_path / "by" / "nifti").array, mask.array)
    if shutil.which("dciodvfy"):  # Debian: dicom3tools
        for name in ("lesions_seg.dcm", "lesions_rtstruct.dcm", "lesions_sr.dcm"):
            checked = subprocess.run(["dciodvfy", tmp_path / name], capture_output=True, text=True, check=False)
            assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


def filled(structures: Dataset, grid: Geometry) -> np.ndarray:
    """The mask of a structure set: centres of pixels within an odd number of a region's outlines."""
    mask = np.zeros(grid.size, np.uint8)
    for region in structures.ROIContourSequence:
        inside = np.zeros(grid.size, bool)
        for contour in region.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            index = (points - grid.origin_mm) @ np.linalg.inv(grid.affine[:3, :3]).T
            z = round(float(index[0, 0]))
            (y, x), (below, right) = np.floor(index[:, 1:].min(0)).astype(int), np.ceil(index[:, 1:].max(0)).astype(int)
            centres = np.stack(np.mgrid[y : below + 1, x : right + 1], -1)
            odd = Polygon(index[:, 1:]).contains_points(centres.reshape(-1, 2)).reshape(centres.shape[:2])
            inside[z, y : below + 1, x : right + 1] ^= odd
        mask |= inside
    return mask


def test_a_study_without_lesions_is_a_result(run: Run, weights: Path, tmp_path: Path, phantom: Callable[..., Case]):  # noqa: F811
    case = phantom()
    cold = Volume(np.minimum(case.suv.array, 1.0), case.geometry)
    study = write_phantom(tmp_path / "patient 1", Case("cold", cold, case.ct))
    out = tmp_path / "out"
    ended = run("predict", study, out, "--weights", weights, "--device", "cpu", "--format", "seg,rtstruct,sr")
    assert ended.code == 0, ended.err
    assert rows(out / "lesions.csv") == []
    (patient,) = rows(out / "patient.csv")
    assert (patient["lesions"], patient["tmtv_ml"], patient["suv_max"]) == ("0", "0", "")
