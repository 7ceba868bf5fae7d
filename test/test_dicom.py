"""DICOM in: stacks by position, per-slice rescale, the choice of series, SEG frames on the PET's grid, refusals."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import (
    CHALLENGE_FACTOR,
    CT_SHAPE,
    CT_UID,
    PET_ORIGIN,
    PET_SHAPE,
    PET_SPACING,
    PET_UID,
    QIBA_FACTOR,
    SEG_UID,
    STUDY,
    activity,
    hounsfield,
    lesion,
    write_ct,
    write_pet,
    write_seg,
    write_study,
)
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from l2snet.errors import InputError
from l2snet.sources.dicom import (
    choose_ct,
    choose_pet,
    choose_segmentation,
    find_dicom_studies,
    passed_over,
    read_series,
)
from l2snet.sources.dicom_file import read_header, read_whole
from l2snet.sources.dicom_seg import read_segmentation
from l2snet.sources.dicom_series import Series, read_ct, read_pet, stack
from l2snet.sources.folders import walk
from l2snet.sources.suv import TimeConvention
from l2snet.volume import Geometry, read_volume

SHARED = Path(__file__).parents[2] / "shared" / "data"
OTHER = "1.2.3.77"
GRID = Geometry(PET_SHAPE, PET_SPACING, PET_ORIGIN)


def series_of(folder: Path) -> list[Series]:
    (study,) = find_dicom_studies(folder)
    return read_series(study)


def edit(path: Path, **changes: Any) -> None:
    dataset = dcmread(path)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


# --- voxels and their grid ---


def test_a_pet_is_stacked_by_position_and_scaled_slice_by_slice(tmp_path: Path):
    write_pet(tmp_path)
    (series,) = series_of(tmp_path)
    pet, suv, factors = read_pet(series, TimeConvention.qiba)
    assert pet.geometry.matches(GRID)
    np.testing.assert_array_equal(pet.array, activity() * np.arange(1, 6)[:, None, None])
    assert suv.array[2, 3, 4] == pytest.approx(7000 * 3 * QIBA_FACTOR)  # 10.5
    np.testing.assert_allclose(suv.array, pet.array * QIBA_FACTOR, rtol=1e-6)
    assert factors.rule == "SeriesTime"
    assert read_pet(series, TimeConvention.challenge)[1].array[0, 0, 0] == pytest.approx(1000 * CHALLENGE_FACTOR)


@pytest.mark.parametrize("implicit", [False, True], ids=["private text", "private bytes"])
def test_philips_private_factor_is_found_in_any_block(tmp_path: Path, implicit: bool):
    for path in write_pet(tmp_path, Units="CNTS"):
        dataset = dcmread(path)
        dataset.private_block(0x7053, "Somebody else", create=True).add_new(0x00, "DS", "9")
        block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)  # the second: (7053,1100)
        block.add_new(0x00, "UN" if implicit else "DS", b"0.25" if implicit else "0.25")
        dataset.save_as(path)
    pet, suv, _ = read_pet(series_of(tmp_path)[0], TimeConvention.qiba)
    np.testing.assert_array_equal(suv.array, 0.25 * pet.array)


@pytest.mark.parametrize("named", [False, True])
def test_a_private_field_is_its_maker_s_unless_another_is_named(tmp_path: Path, named: bool):
    for path in write_pet(tmp_path, Units="CNTS"):
        dataset = dcmread(path)
        dataset.private_block(0x7053, "Somebody else", create=True).add_new(0x00, "DS", "0.25")  # (7053,1000)
        if not named:
            del dataset[0x7053, 0x0010]
        dataset.save_as(path)
    (series,) = series_of(tmp_path)
    if named:
        with pytest.raises(InputError, match=r"neither Philips' SUV factor \(7053,1000\)"):
            read_pet(series, TimeConvention.qiba)
    else:
        assert read_pet(series, TimeConvention.qiba)[2].values == (0.25,) * 5


@pytest.mark.parametrize(
    ("creator", "factor", "rule"),
    [
        ("GEMS_PETD_01", 5e-4, "GE scan time (0009,100D)"),
        # Somebody's field of that number: the earliest AcquisitionTime, 12:01, a tenth of a half-life later.
        ("Somebody else", 5e-4 * 2**0.1, "earliest AcquisitionTime"),
    ],
)
def test_ge_s_scan_time_is_read_from_its_private_field(tmp_path: Path, creator: str, factor: float, rule: str):
    for path in write_pet(tmp_path, SeriesTime="130000"):  # made after the acquisition, so QIBA asks GE's field
        dataset = dcmread(path)
        dataset.private_block(0x0009, creator, create=True).add_new(0x0D, "DT", "20200101115000.00")
        dataset.save_as(path)
    factors = read_pet(series_of(tmp_path)[0], TimeConvention.qiba)[2]
    assert factors.values == pytest.approx([factor] * 5)
    assert factors.rule == rule


def test_names_and_numbers_of_files_play_no_part(tmp_path: Path):
    paths = write_pet(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for n, path in enumerate(paths):
        shutil.copy(path, tmp_path / "b" / f"{(n * 3) % 5}")
    expected = read_pet(series_of(tmp_path / "a")[0], TimeConvention.qiba)[1]
    found = read_pet(series_of(tmp_path / "b")[0], TimeConvention.qiba)[1]
    assert found.geometry == expected.geometry
    np.testing.assert_array_equal(found.array, expected.array)


def test_a_coronal_series_keeps_its_axes(tmp_path: Path):
    # Rows run to the left, columns to the feet, so slices run to the front: L, P, S = x, -y, -z of the array.
    write_ct(tmp_path, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    for n, path in enumerate(sorted(tmp_path.iterdir())):
        edit(path, ImagePositionPatient=[-9.0, 40.0 + 2.5 * n, 100.0])
    ct = read_ct(series_of(tmp_path)[0])
    np.testing.assert_array_equal(np.array(ct.geometry.direction).T, [[0, 1, 0], [0, 0, -1], [1, 0, 0]])
    assert ct.geometry.origin_mm == (-9.0, 40.0, 100.0)
    np.testing.assert_array_equal(ct.array, np.maximum(hounsfield() - 1024.0, -1024.0))


def test_pixel_spacing_is_row_then_column(tmp_path: Path):
    write_ct(tmp_path, PixelSpacing=[3.0, 2.0])
    assert stack(series_of(tmp_path)[0], "CT").geometry.spacing_mm == (2.5, 3.0, 2.0)


def test_padding_of_a_ct_becomes_air(tmp_path: Path):
    write_ct(tmp_path)
    assert read_ct(series_of(tmp_path)[0]).array[0, 0, 0] == -1024


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ImagePositionPatient": [-9.0, -9.0, -590.0]}, r"gap of 5\.00 mm"),
        ({"ImagePositionPatient": [-9.0, -9.0, -601.0]}, r"at one place, the first at -601\.00 mm"),
        ({"ImagePositionPatient": [-9.0, -8.0, -593.5]}, "sheared.*tilted gantry"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.8, 0.6]}, "different ImageOrientationPatient"),
        ({"PixelSpacing": [2.0, 2.5]}, "different PixelSpacing"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing in 1-004.dcm"),
        ({"NumberOfFrames": 7}, "multi-frame"),
        ({"Columns": 5}, "several sizes"),
        ({"Rows": None}, "Rows is missing in 1-004.dcm"),
        ({"PixelSpacing": [2.0, "inf"]}, r"PixelSpacing is 2\.0, inf in 1-004\.dcm; expected numbers"),
    ],
)
def test_what_makes_no_stack_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str):
    write_ct(tmp_path)
    edit(tmp_path / "1-004.dcm", **change)
    with pytest.raises(InputError, match=sentence):
        stack(series_of(tmp_path)[0], "CT")


def test_a_missing_slice_is_refused_and_a_bed_join_is_not(tmp_path: Path):
    write_ct(tmp_path)
    for n in (4, 5, 6, 7):
        edit(tmp_path / f"1-00{n}.dcm", ImagePositionPatient=[-9.0, -9.0, -601.0 + 2.5 * (n - 1) + 0.1])
    assert stack(series_of(tmp_path)[0], "CT").geometry.spacing_mm[0] == pytest.approx(2.5 + 0.1 / 6)
    (tmp_path / "1-003.dcm").unlink()
    with pytest.raises(InputError, match=r"gap of 5\.10 mm after its slice at -598\.50 mm"):
        stack(series_of(tmp_path)[0], "CT")


@pytest.mark.parametrize(("wide", "accepted"), [(4, True), (6, False)])
def test_small_uneven_gaps_that_add_up_are_refused(tmp_path: Path, wide: int, accepted: bool):
    """So many gaps of 2.75 mm, then of 2.25 mm: the middle slice is 1 or 1.5 mm off; half a slice is 1.25 mm."""
    places = np.cumsum([0.0] + [2.75] * wide + [2.25] * wide)
    write_ct(
        tmp_path,
        np.zeros((len(places), *CT_SHAPE[1:]), np.int16),
        ImagePositionPatient=tuple([-9.0, -9.0, float(z)] for z in places),
    )
    if accepted:
        assert stack(series_of(tmp_path)[0], "CT").geometry.spacing_mm[0] == pytest.approx(2.5)
    else:
        sentence = r"changing distances: its slice at 16\.50 mm is \+1\.50 mm off even steps of 2\.50 mm"
        with pytest.raises(InputError, match=sentence):
            stack(series_of(tmp_path)[0], "CT")


def test_missing_pixels_and_rescale_are_refused(tmp_path: Path):
    write_ct(tmp_path)
    edit(tmp_path / "1-002.dcm", PixelData=b"\0\0")
    with pytest.raises(InputError, match=r"CT 1-002\.dcm .* cannot be read"):
        read_ct(series_of(tmp_path)[0])
    edit(tmp_path / "1-001.dcm", RescaleSlope=None)
    with pytest.raises(InputError, match=r"RescaleSlope is missing in 1-001\.dcm"):
        read_ct(series_of(tmp_path)[0])


def test_a_number_with_a_comma_is_refused(tmp_path: Path):
    for keyword, sentence in (
        ("RescaleSlope", r"PET 1-001\.dcm: RescaleSlope is 1,2345 in 1-001\.dcm; expected numbers"),
        ("PatientWeight", r"PatientWeight is '1,2345'; expected a number"),
    ):
        path = write_pet(tmp_path / keyword, **{keyword: "1.2345"})[0]
        edit(path, **{keyword: "1.2345"})
        path.write_bytes(path.read_bytes().replace(b"1.2345", b"1,2345"))
        with pytest.raises(InputError, match=sentence):
            read_pet(series_of(tmp_path / keyword)[0], TimeConvention.qiba)


def test_a_field_of_bytes_too_few_is_refused(tmp_path: Path):
    write_ct(tmp_path)
    path = tmp_path / "1-002.dcm"
    rows = b"\x28\0\x10\0US"
    path.write_bytes(path.read_bytes().replace(rows + b"\2\0\n\0", rows + b"\1\0\n"))
    with pytest.raises(InputError, match=r"Rows cannot be read in 1-002\.dcm"):
        stack(series_of(tmp_path)[0], "CT")


def test_a_file_without_a_transfer_syntax_is_refused(tmp_path: Path):
    write_ct(tmp_path)
    dataset = dcmread(tmp_path / "1-002.dcm")
    del dataset.file_meta.TransferSyntaxUID
    dcmwrite(tmp_path / "1-002.dcm", dataset, implicit_vr=False, little_endian=True)
    with pytest.raises(InputError, match=r"CT 1-002\.dcm \(no TransferSyntaxUID\) cannot be read"):
        read_ct(series_of(tmp_path)[0])


# --- studies and series ---


def test_studies_are_found_by_their_uid_and_named_by_their_folders(tmp_path: Path):
    write_study(tmp_path / "PETCT_1" / "01-01-2020 whole body")
    write_pet(tmp_path / "PETCT_2" / "first" / "PET", StudyInstanceUID="1.2.4", PatientID="PETCT_2")
    write_pet(tmp_path / "alone", StudyInstanceUID="1.2.5", PatientID="A/B")
    (tmp_path / "LICENSE").write_text("terms", "utf-8")
    found = {study.uid: (study.patient, study.name, len(study.folders)) for study in find_dicom_studies(tmp_path)}
    assert found == {
        STUDY: ("PETCT_1", "01-01-2020 whole body", 3),
        "1.2.4": ("first", "PET", 1),
        "1.2.5": ("alone", "alone", 1),
    }
    shutil.rmtree(tmp_path / "PETCT_2")
    (study,) = find_dicom_studies(tmp_path / "PETCT_1" / "01-01-2020 whole body")
    assert (study.patient, study.name) == ("01-01-2020 whole body", STUDY)


def test_a_patient_under_two_names_is_refused(tmp_path: Path):
    write_pet(tmp_path / "A" / "one")
    write_pet(tmp_path / "A" / "two", StudyInstanceUID="1.2.4")
    assert [study.patient for study in find_dicom_studies(tmp_path)] == ["A", "A"]
    paths = write_pet(tmp_path / "B" / "three", StudyInstanceUID="1.2.5")
    with pytest.raises(InputError, match="one PatientID is in the folders A and B; expected") as raised:
        find_dicom_studies(tmp_path)
    assert "PETCT_1" not in str(raised.value)
    for path in paths:
        edit(path, PatientID="")  # an ID that is not there says nothing
    assert [study.patient for study in find_dicom_studies(tmp_path)] == ["A", "A", "B"]


def test_series_behind_links_are_found_once_and_links_back_are_left(tmp_path: Path):
    root, store = tmp_path / "patients" / "P" / "S", tmp_path / "store"
    write_pet(store / "PET")
    write_ct(store / "CT")
    (root / "own").mkdir(parents=True)
    for link, to in (
        *((root / name, store / name) for name in ("PET", "CT")),
        (root / "own" / "again", store / "PET"),
        (root / "own" / "root", root),
        (root / "own" / "patients", tmp_path / "patients"),
        (store / "PET" / "store", store),
        (store / "PET" / "CT", store / "CT"),
        (store / "CT" / "all", tmp_path),
        (store / "CT" / "circle", store / "CT" / "circle"),
    ):
        link.symlink_to(to)
    series = series_of(root)
    assert [(s.uid, len(s.headers)) for s in series] == [(PET_UID, 5), (CT_UID, 7)]
    assert len(list(walk(root))) == 4


def test_a_folder_without_dicom_and_one_of_two_studies_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no DICOM file"):
        find_dicom_studies(tmp_path)
    paths = write_pet(tmp_path / "mixed")
    edit(paths[-1], StudyInstanceUID="1.2.4")
    with pytest.raises(InputError, match="more than one study"):
        series_of(tmp_path)


@pytest.mark.parametrize("length", [0, 131, 142, 152, 200, 845])
def test_a_file_cut_off_in_its_header_is_no_image(tmp_path: Path, length: int):
    paths = write_pet(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:length])
    assert len(series_of(tmp_path)[0].headers) == 4
    for path in paths[:2] + paths[3:]:
        path.unlink()
    with pytest.raises(InputError, match="no DICOM file"):
        series_of(tmp_path)


def test_files_that_should_be_images_and_are_none_are_found_and_litter_is_not(tmp_path: Path):
    paths = write_pet(tmp_path)
    for path, change in ((paths[0], b""), (paths[2], paths[2].read_bytes()[:400]), (paths[4], bytes(3000))):
        path.write_bytes(change)
    paths[2].rename(tmp_path / "IM3")  # as on a disc: no ending, and known by its first bytes
    for name, content in (("DICOMDIR", bytes(128) + b"DICM"), (".DS_Store", b""), ("Thumbs.db", b"\xd0\xcf\x11\xe0")):
        (tmp_path / name).write_bytes(content)
    (study,) = find_dicom_studies(tmp_path)
    assert [path.name for path in passed_over(study, read_series(study))] == ["1-001.dcm", "1-005.dcm", "IM3"]


def test_the_attenuation_corrected_pet_is_chosen(tmp_path: Path):
    write_pet(tmp_path / "AC")
    write_pet(tmp_path / "NAC", SeriesInstanceUID=OTHER, CorrectedImage=["DECY"])
    assert choose_pet(series_of(tmp_path), ()).uid == PET_UID
    shutil.rmtree(tmp_path / "AC")
    with pytest.raises(InputError, match=r"no PET is attenuation corrected .*; found: 5 slices\)"):
        choose_pet(series_of(tmp_path), ())


def test_a_series_tells_its_description_and_uid_to_who_must_choose_alone(tmp_path: Path):
    write_pet(tmp_path)
    (series,) = series_of(tmp_path)
    assert (str(series), series.candidate) == ("5 slices", f"'PET WB' (5 slices, {PET_UID})")


def test_two_pets_are_listed_and_one_can_be_named(tmp_path: Path):
    write_pet(tmp_path / "a")
    write_pet(tmp_path / "b", SeriesInstanceUID=OTHER)
    with pytest.raises(InputError, match=r"1\.2\.3\.1\).*1\.2\.3\.77.*--series UID"):
        choose_pet(series_of(tmp_path), ())
    assert choose_pet(series_of(tmp_path), {OTHER}).uid == OTHER


def choose(folder: Path, *wanted: str) -> tuple[str, float]:
    series = series_of(folder)
    chosen, share = choose_ct(series, choose_pet(series, ()), GRID, wanted)
    return chosen.uid, share


def test_the_ct_that_covers_the_pet_is_chosen(tmp_path: Path):
    write_pet(tmp_path / "PET")  # -601.5 to -586.5 mm
    write_ct(tmp_path / "whole")  # -602.25 to -584.75 mm
    write_ct(tmp_path / "part", origin=(-9.0, -9.0, -591.0), SeriesInstanceUID=OTHER)  # -592.25 to -574.75 mm
    write_ct(tmp_path / "scout", SeriesInstanceUID="1.2.3.78", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert choose(tmp_path) == (CT_UID, 1.0)
    shutil.rmtree(tmp_path / "whole")
    with pytest.raises(InputError, match="covers 38% of the PET's slices"):  # 5.75 of 15 mm
        choose(tmp_path)


def test_a_ct_that_makes_no_stack_is_passed_over_where_another_does(tmp_path: Path):
    """Four images of one place, as they are made while a contrast bolus is waited for."""
    write_pet(tmp_path / "PET")
    places = tuple([-9.0, -9.0, -590.0] for _ in range(4))
    bolus = np.zeros((4, *CT_SHAPE[1:]), np.int16)
    write_ct(tmp_path / "bolus", bolus, SeriesInstanceUID=OTHER, ImagePositionPatient=places)
    with pytest.raises(InputError, match="slices at one place"):
        choose(tmp_path)
    write_ct(tmp_path / "whole")
    assert choose(tmp_path) == (CT_UID, 1.0)
    with pytest.raises(InputError, match="slices at one place"):
        choose(tmp_path, OTHER)


def test_two_cts_alike_are_listed_and_one_can_be_named(tmp_path: Path):
    write_pet(tmp_path / "PET")
    write_ct(tmp_path / "soft")
    write_ct(tmp_path / "lung", SeriesInstanceUID=OTHER)
    with pytest.raises(InputError, match="more than one CT that covers the PET"):
        choose(tmp_path)
    assert choose(tmp_path, OTHER) == (OTHER, 1.0)


def test_a_ct_of_another_frame_of_reference_must_be_named(tmp_path: Path):
    write_pet(tmp_path / "PET")
    write_ct(tmp_path / "CT", FrameOfReferenceUID=OTHER)
    with pytest.raises(InputError, match="no CT is in the PET's frame of reference"):
        choose(tmp_path)
    assert choose(tmp_path, CT_UID) == (CT_UID, 1.0)


@pytest.mark.parametrize("frame", ["", "1.2.3.9"])
def test_a_ct_for_a_pet_without_a_frame_of_reference_must_be_named(tmp_path: Path, frame: str):
    write_pet(tmp_path / "PET", FrameOfReferenceUID="")
    write_ct(tmp_path / "CT", FrameOfReferenceUID=frame)
    with pytest.raises(InputError, match=r"the PET has no FrameOfReferenceUID .*1\.2\.3\.2\).*--series UID"):
        choose(tmp_path)
    assert choose(tmp_path, CT_UID) == (CT_UID, 1.0)


def test_the_segmentation_of_the_pet_is_chosen(tmp_path: Path):
    write_study(tmp_path)
    other = Dataset()
    other.SeriesInstanceUID = "1.2.3.99"
    write_seg(tmp_path / "other", SeriesInstanceUID=OTHER, ReferencedSeriesSequence=[other])
    series = series_of(tmp_path)
    pet = choose_pet(series, ())
    found = choose_segmentation(series, pet, ())
    assert found is not None
    assert found.uid == SEG_UID
    edit(
        tmp_path / "other" / "1-1.dcm", ReferencedSeriesSequence=dcmread(found.first.filename).ReferencedSeriesSequence
    )
    with pytest.raises(InputError, match="more than one DICOM SEG"):
        choose_segmentation(series_of(tmp_path), pet, ())
    shutil.rmtree(tmp_path / "other")
    shutil.rmtree(tmp_path / "3-SEG")
    assert choose_segmentation(series_of(tmp_path), pet, ()) is None


def test_a_segmentation_of_another_series_must_be_named(tmp_path: Path):
    write_study(tmp_path)
    pet = choose_pet(series_of(tmp_path), ())
    other = Dataset()
    other.SeriesInstanceUID = CT_UID
    edit(tmp_path / "3-SEG" / "1-1.dcm", ReferencedSeriesSequence=[other])
    with pytest.raises(InputError, match=r"no DICOM SEG refers to the PET \(5 slices\): .*1\.2\.3\.3\).*--series UID"):
        choose_segmentation(series_of(tmp_path), pet, ())
    named = choose_segmentation(series_of(tmp_path), pet, {SEG_UID})
    edit(tmp_path / "3-SEG" / "1-1.dcm", ReferencedSeriesSequence=[])  # it says not what it is of
    alone = choose_segmentation(series_of(tmp_path), pet, ())
    assert named is not None
    assert alone is not None
    assert named.uid == alone.uid == SEG_UID


# --- SEG ---


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("spacing", [PET_SPACING, (5.0, 4.0, 3.0)], ids=["square", "4 x 3 mm"])
def test_a_segmentation_lies_where_its_frames_say(tmp_path: Path, reverse: bool, spacing: tuple[float, float, float]):
    path = write_seg(tmp_path, reverse=reverse, spacing=spacing)
    found = read_segmentation(path, Geometry(PET_SHAPE, spacing, PET_ORIGIN))
    np.testing.assert_array_equal(found.mask.array, lesion())
    assert found.labels == ("Lesion",)


def test_segments_are_joined_and_an_empty_one_is_empty(tmp_path: Path):
    node = np.zeros(PET_SHAPE, np.uint8)
    node[2, 3, 4] = node[2, 5, 7] = node[4, 0, 1] = 1  # one voxel in common, one in a slice of both, one alone
    found = read_segmentation(write_seg(tmp_path, lesion(), node), GRID)
    assert found.labels == ("Lesion", "Lesion 2")
    np.testing.assert_array_equal(found.mask.array, lesion() | node)
    empty = write_seg(tmp_path, np.zeros(PET_SHAPE, np.uint8))
    assert read_segmentation(empty, GRID).mask.array.sum() == 0


def test_a_fractional_segmentation_is_lesion_from_a_half_on(tmp_path: Path):
    path = write_seg(tmp_path, lesion(), SegmentationType="FRACTIONAL", MaximumFractionalValue=200)
    dataset = dcmread(path)
    frames = np.zeros((3, *PET_SHAPE[1:]), np.uint8)  # slices 3, 2, 1
    frames[0, 0, 0], frames[0, 0, 1] = 100, 99
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelData = 7, frames.tobytes()
    dataset.save_as(path)
    assert np.argwhere(read_segmentation(path, GRID).mask.array).tolist() == [[3, 0, 0]]


@pytest.mark.parametrize(
    "grid",
    [
        Geometry(PET_SHAPE, PET_SPACING, (PET_ORIGIN[0] + 1.0, *PET_ORIGIN[1:])),  # a quarter of a voxel aside
        Geometry((5, 12, 16), (3.0, 2.0, 2.0), PET_ORIGIN),  # every second voxel would stay empty
        Geometry((2, 6, 8), PET_SPACING, PET_ORIGIN),  # too short
    ],
    ids=["shifted", "finer", "short"],
)
def test_a_segmentation_of_another_grid_is_refused(tmp_path: Path, grid: Geometry):
    with pytest.raises(InputError, match="is not on the PET's grid"):
        read_segmentation(write_seg(tmp_path), grid)


def test_a_damaged_segmentation_is_refused(tmp_path: Path):
    path = write_seg(tmp_path)
    edit(path, SharedFunctionalGroupsSequence=[Dataset()])
    with pytest.raises(InputError, match="PlaneOrientationSequence is missing"):
        read_segmentation(path, GRID)


# --- real scans ---


@pytest.mark.skipif(not (SHARED / "dicom").is_dir(), reason="the real DICOM sample, ../shared/data/dicom, is not here")
def test_the_real_sample_agrees_with_its_nifti():
    series = series_of(SHARED / "dicom")
    pet_series = choose_pet(series, ())
    _, suv, factors = read_pet(pet_series, TimeConvention.qiba)
    assert set(factors.values) == {1.0}
    ct, share = choose_ct(series, pet_series, suv.geometry, ())
    assert share > 0.99
    expected = read_volume(SHARED / "sts" / "STS_002" / "SUV.nii.gz", "PET")
    np.testing.assert_allclose(suv.to_grid(expected.geometry, outside=0).array, expected.array, atol=2e-3)
    assert read_ct(ct).array.min() == -1000


@pytest.mark.parametrize("length", ["right", "wrong", "none"])
def test_a_deflated_file_is_read_whatever_its_meta_information_says_of_its_length(tmp_path: Path, length: str):
    path = write_pet(tmp_path)[0]
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()  # preamble and mark, 132 bytes; the length, 12; the rest
    lengths = {"right": whole[132:144], "wrong": whole[132:140] + bytes([9, 0, 0, 0]), "none": b""}
    path.write_bytes(whole[:132] + lengths[length] + whole[144:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the length
        assert read_header(path).SOPInstanceUID == dataset.SOPInstanceUID
        assert read_whole(path).PixelData == dataset.PixelData


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir.dcm", "LOCKFILE", "notes.txt", ".hidden.dcm"])
def test_litter_beside_images_is_not_told_of(tmp_path: Path, name: str):
    write_pet(tmp_path)
    (tmp_path / name).write_bytes(b"")
    (study,) = find_dicom_studies(tmp_path)
    assert passed_over(study, read_series(study)) == []
