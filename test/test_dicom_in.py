"""DICOM as archives hold it: compressed, big-endian, multi-frame; every form gives the voxels of the plain files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import highdicom.legacy
import numpy as np
import pytest
from dicom_files import (
    CT_UID,
    PET_ORIGIN,
    PET_SHAPE,
    PET_SPACING,
    PET_UID,
    QIBA_FACTOR,
    activity,
    lesion,
    new_file,
    save,
    set_pixels,
    write_ct,
    write_pet,
    write_study,
)
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from l2snet.errors import InputError
from l2snet.measure.patient import measure
from l2snet.pipeline import Segmentation
from l2snet.sources.dicom import choose_ct, choose_pet, find_dicom_studies, read_series
from l2snet.sources.dicom_case import read_dicom_case
from l2snet.sources.dicom_enhanced import frames
from l2snet.sources.dicom_seg import read_segmentation
from l2snet.sources.dicom_series import Series, read_ct, read_pet, stack
from l2snet.sources.dicom_write import Author, Reference
from l2snet.sources.inputs import Kind, Reading, kind_of, read_input
from l2snet.sources.result_writer import FILES, Format, write_formats
from l2snet.sources.suv import TimeConvention
from l2snet.volume import Geometry, Volume, write_volume

GRID = Geometry(PET_SHAPE, PET_SPACING, PET_ORIGIN)
EXPECTED = activity() * np.arange(1, 6, dtype=np.float32)[:, None, None]  # Bq/ml


def pet_of(folder: Path) -> Series:
    (study,) = find_dicom_studies(folder)
    return choose_pet(read_series(study), ())


def assert_pet(folder: Path, convention: TimeConvention = TimeConvention.qiba, factor: float = QIBA_FACTOR) -> None:
    pet, suv, factors = read_pet(pet_of(folder), convention)
    assert pet.geometry.matches(GRID)
    np.testing.assert_allclose(pet.array, EXPECTED, rtol=1e-6)
    assert factors.values == pytest.approx([factor] * 5)
    np.testing.assert_allclose(suv.array, EXPECTED * factor, rtol=1e-6)


# --- transfer syntaxes ---


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_compressed_slices_are_read(tmp_path: Path, syntax: Any):
    stored = np.random.default_rng(0).integers(0, 8000, (3, 64, 48)).astype(np.int16)  # encoders refuse tiny images
    for path in write_pet(tmp_path, stored):
        dataset = dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
        assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    pet, _, _ = read_pet(pet_of(tmp_path), TimeConvention.qiba)
    np.testing.assert_array_equal(pet.array, stored * np.array([1, 2, 3], np.float32)[:, None, None])


def test_slices_in_jpeg_lossless_are_read(tmp_path: Path):
    """The syntax of most archives, which GDCM writes and reads."""
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm (extra: dicom) is not installed")
    for path in write_pet(tmp_path):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    assert_pet(tmp_path)


def test_big_endian_slices_are_read(tmp_path: Path):
    for path, pixels in zip(write_pet(tmp_path), activity(), strict=True):
        dataset = dcmread(path)
        dataset.PixelData = pixels.astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dcmwrite(path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
        assert dcmread(path).file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    assert_pet(tmp_path)


def test_compressed_pixels_that_are_damaged_are_refused(tmp_path: Path):
    path = write_pet(tmp_path)[2]
    dataset = dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.PixelData = dataset.PixelData[:40]
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"PET 1-003\.dcm \(RLE Lossless\) cannot be read"):
        read_pet(pet_of(tmp_path), TimeConvention.qiba)


# --- multi-frame ---


def convert(paths: list[Path], kind: type, path: Path) -> Path:
    """Classic files as one of legacy-converted frames, by highdicom."""
    datasets = []
    for n, source in enumerate(paths):
        dataset = dcmread(source)
        for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
            setattr(dataset, keyword, "")
        dataset.StudyDate, dataset.StudyTime, dataset.SliceThickness = "20200101", "100000", "3"
        dataset.ImageType = ["ORIGINAL", "PRIMARY"] if dataset.Modality == "PT" else ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.PositionReferenceIndicator, dataset.SeriesNumber = "", 1
        dataset.InstanceNumber = n + 1
        dataset.Manufacturer = dataset.ReferringPhysicianName = ""
        datasets.append(dataset)
    first = datasets[0]
    converted = kind(datasets, first.SeriesInstanceUID, 1, f"{first.SeriesInstanceUID}.77", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    converted.save_as(path)
    return path


def test_a_converted_multi_frame_pet_is_the_pet_it_was_made_of(tmp_path: Path):
    paths = write_pet(tmp_path / "classic")
    shuffled = [paths[n] for n in (3, 0, 4, 1, 2)]
    convert(shuffled, highdicom.legacy.LegacyConvertedEnhancedPETImage, tmp_path / "enhanced" / "PET.dcm")
    assert_pet(tmp_path / "enhanced")
    assert_pet(tmp_path / "enhanced", TimeConvention.challenge, QIBA_FACTOR * 2**0.1)


def test_a_converted_multi_frame_ct_is_the_ct_it_was_made_of(tmp_path: Path):
    write_pet(tmp_path / "study" / "PET")
    write_ct(tmp_path / "classic")
    paths = sorted((tmp_path / "classic").iterdir())
    convert(paths, highdicom.legacy.LegacyConvertedEnhancedCTImage, tmp_path / "study" / "CT" / "1.dcm")
    (study,) = find_dicom_studies(tmp_path / "study")
    series = read_series(study)
    ct_series, covered = choose_ct(series, choose_pet(series, ()), GRID, ())
    (classic,) = find_dicom_studies(tmp_path / "classic")
    expected, found = read_ct(read_series(classic)[0]), read_ct(ct_series)
    assert (ct_series.uid, covered) == (CT_UID, 1.0)
    assert found.geometry.matches(expected.geometry)
    np.testing.assert_array_equal(found.array, expected.array)


def write_enhanced_pet(path: Path, **changes: Any) -> Path:
    """As a scanner makes it: corrections by YES, units by code, decay corrected to 11:50:00; frames from the head."""
    dataset = new_file(path, EnhancedPETImageStorage, PET_UID + ".1")
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesDescription = "PT", PET_UID, "PET WB"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "WHOLE_BODY", "NONE"]
    dataset.AttenuationCorrected = dataset.DecayCorrected = dataset.ScatterCorrected = "YES"
    dataset.DecayCorrectionDateTime = "20200101115000.00"
    dataset.SeriesDate, dataset.SeriesTime = "20200101", "130000"
    dataset.PatientWeight = "70"
    injection = Dataset()
    injection.RadionuclideTotalDose, injection.RadionuclideHalfLife = "280", "6600"  # MBq, DICOM PS3.3 C.8.22.4
    injection.RadiopharmaceuticalStartDateTime = "20200101100000"
    dataset.RadiopharmaceuticalInformationSequence = [injection]
    order = range(PET_SHAPE[0] - 1, -1, -1)
    dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [PET_SPACING[1], PET_SPACING[2]], PET_SPACING[0]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    items = []
    for z in order:
        item, position, content, values, world, unit = (Dataset() for _ in range(6))
        position.ImagePositionPatient = [PET_ORIGIN[0], PET_ORIGIN[1], PET_ORIGIN[2] + z * PET_SPACING[0]]
        content.FrameAcquisitionDateTime, content.FrameAcquisitionDuration = "20200101120100", 120000.0
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, 0, "US"
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "Bq/ml", "UCUM", "Bq/ml"
        world.RealWorldValueSlope, world.RealWorldValueIntercept = float(z + 1), 0.0
        world.MeasurementUnitsCodeSequence = [unit]
        item.PlanePositionSequence, item.FrameContentSequence = [position], [content]
        item.PixelValueTransformationSequence, item.RealWorldValueMappingSequence = [values], [world]
        items.append(item)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(items)
    set_pixels(dataset, activity()[list(order)])
    dataset.NumberOfFrames = len(items)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    save(dataset, path)
    return path


def test_an_enhanced_pet_says_when_its_decay_is_corrected_to(tmp_path: Path):
    write_enhanced_pet(tmp_path / "PET.dcm")
    for convention in TimeConvention:  # the file leaves nothing to convention
        assert_pet(tmp_path, convention)


def set_dose(path: Path, dose: str | None) -> None:
    dataset = dcmread(path)
    dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = dose
    dataset.save_as(path)


def test_the_dose_of_an_enhanced_pet_may_be_in_bq_all_the_same(tmp_path: Path):
    set_dose(write_enhanced_pet(tmp_path / "PET.dcm"), "280000000")
    assert_pet(tmp_path)


def test_the_dose_of_an_enhanced_pet_is_turned_into_bq_in_a_copy(tmp_path: Path):
    write_enhanced_pet(tmp_path / "PET.dcm")
    header = dcmread(tmp_path / "PET.dcm", stop_before_pixels=True)
    for _ in range(2):
        found = [frame.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose for frame in frames(header)]
        assert found == [280e6] * 5
    assert header.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose == 280


@pytest.mark.parametrize(
    ("dose", "sentence"), [(None, "TotalDose is missing"), ("0", "TotalDose is 0; expected a positive number")]
)
def test_an_enhanced_pet_without_a_dose_is_refused(tmp_path: Path, dose: str | None, sentence: str):
    set_dose(write_enhanced_pet(tmp_path / "PET.dcm"), dose)
    with pytest.raises(InputError, match=sentence):
        read_pet(pet_of(tmp_path), TimeConvention.qiba)


def test_the_dose_of_a_converted_pet_is_in_bq(tmp_path: Path):
    paths = write_pet(tmp_path / "classic")
    for path in paths:
        set_dose(path, "280")
    convert(paths, highdicom.legacy.LegacyConvertedEnhancedPETImage, tmp_path / "enhanced" / "PET.dcm")
    with pytest.raises(InputError, match="RadionuclideTotalDose is 280; expected Bq"):
        read_pet(pet_of(tmp_path / "enhanced"), TimeConvention.qiba)


def test_an_enhanced_pet_without_attenuation_correction_is_refused(tmp_path: Path):
    write_enhanced_pet(tmp_path / "PET.dcm", AttenuationCorrected="NO")
    with pytest.raises(InputError, match="no PET is attenuation corrected"):
        pet_of(tmp_path)


def test_an_enhanced_pet_without_decay_correction_decays_frame_by_frame(tmp_path: Path):
    path = write_enhanced_pet(tmp_path / "PET.dcm", DecayCorrected="NO")
    dataset = dcmread(path)
    for n, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):  # from the head: slice 4 - n
        item.FrameContentSequence[0].FrameAcquisitionDateTime = f"202001011201{n:02}"
    dataset.save_as(path)
    pet, suv, _ = read_pet(pet_of(tmp_path), TimeConvention.qiba)
    # 12:01:00, a second more each frame, and the mean of 120 s: 59.937 s
    expected = [2.5e-4 * 2 ** ((7260 + 4 - z + 59.937) / 6600) for z in range(5)]
    np.testing.assert_allclose(suv.array / pet.array, np.broadcast_to(np.c_[expected][..., None], PET_SHAPE), rtol=2e-6)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "both"])
def test_real_world_values_stand_in_for_the_rescale_of_every_frame(tmp_path: Path, own: bool):
    """A frame's own mapping goes before the shared one."""
    path = write_enhanced_pet(tmp_path / "PET.dcm")
    dataset = dcmread(path)
    items = dataset.PerFrameFunctionalGroupsSequence
    world = copy.deepcopy(items[0].RealWorldValueMappingSequence[0])
    world.RealWorldValueSlope = 7.0
    dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = [world]
    for item in items:
        if not own:
            del item.RealWorldValueMappingSequence
    dataset.save_as(path)
    if own:
        assert_pet(tmp_path)
    else:
        np.testing.assert_array_equal(read_pet(pet_of(tmp_path), TimeConvention.qiba)[0].array, activity() * 7.0)


@pytest.mark.parametrize("of_header", ["+0100", "-0500", None])
def test_decay_correction_and_injection_may_be_of_different_offsets(tmp_path: Path, of_header: str | None):
    """Both become the header's time; without one, the decay correction's. The scan is 110 minutes later."""
    changes = {} if of_header is None else {"TimezoneOffsetFromUTC": of_header}
    path = write_enhanced_pet(tmp_path / "PET.dcm", DecayCorrectionDateTime="20200101105000.00+0000", **changes)
    dataset = dcmread(path)
    dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = "20200101100000+0100"
    dataset.save_as(path)
    assert_pet(tmp_path)


def test_an_enhanced_file_without_frames_is_refused(tmp_path: Path):
    path = write_enhanced_pet(tmp_path / "PET.dcm")
    dataset = dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"PerFrameFunctionalGroupsSequence is missing in PET\.dcm"):
        pet_of(tmp_path)


def test_more_frames_than_pixels_are_refused(tmp_path: Path):
    path = write_enhanced_pet(tmp_path / "PET.dcm")
    dataset = dcmread(path)
    dataset.NumberOfFrames, dataset.PixelData = 4, dataset.PixelData[: 4 * 2 * 6 * 8]
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"PET PET\.dcm cannot be read: \(4, 6, 8\), .* frame 5 promised"):
        read_pet(pet_of(tmp_path), TimeConvention.qiba)


def test_frames_of_one_place_are_refused(tmp_path: Path):
    path = write_enhanced_pet(tmp_path / "PET.dcm")
    dataset = dcmread(path)
    items = dataset.PerFrameFunctionalGroupsSequence
    items[1].PlanePositionSequence = items[0].PlanePositionSequence
    dataset.save_as(path)
    with pytest.raises(InputError, match="slices at one place"):
        stack(pet_of(tmp_path), "PET")


def test_results_of_a_multi_frame_pet_lie_on_its_frames(tmp_path: Path):
    """Frames run from the head, the array from the feet."""
    write_enhanced_pet(tmp_path / "PET.dcm")
    stacked = stack(pet_of(tmp_path), "PET")
    suv = Volume(EXPECTED * np.float32(QIBA_FACTOR), stacked.geometry)
    probability = suv.with_array(lesion().astype(np.float32))
    table = measure(Segmentation("case", suv.with_array(lesion()), probability, None), suv)
    out = tmp_path / "out"
    write_formats(
        {Format.seg, Format.rtstruct, Format.sr}, table, probability, out, Reference.of(stacked), Author("l2snet", "0")
    )
    found = read_segmentation(out / FILES[Format.seg], stacked.geometry)
    np.testing.assert_array_equal(found.mask.array, lesion())
    structures = dcmread(out / FILES[Format.rtstruct])
    places = {
        (float(contour.ContourData[2]), int(contour.ContourImageSequence[0].ReferencedFrameNumber))
        for item in structures.ROIContourSequence
        for contour in item.ContourSequence
    }
    # slices 1, 2 and 3 from the feet are frames 4, 3 and 2
    assert places == {(-597.0, 4), (-594.0, 3), (-591.0, 2)}


# --- a study as a case ---


def test_a_study_becomes_a_case(tmp_path: Path):
    folder = write_study(tmp_path / "patient 1", PatientSize="1.75", PatientSex="F")
    (folder / "notes.txt").write_text("nothing of DICOM", "utf-8")
    found = read_dicom_case(folder)
    np.testing.assert_allclose(found.case.suv.array, EXPECTED * QIBA_FACTOR, rtol=1e-6)
    assert found.case.name == "patient 1"
    assert found.case.ct is not None
    assert found.case.ct.array[2, 3, 4] == pytest.approx(0.0)
    assert (found.subject.weight_kg, found.subject.height_m, found.subject.sex) == (70.0, 1.75, "F")
    assert found.record["pet_series"] == PET_UID
    assert found.record["suv_rule"] == "SeriesTime"
    assert found.record["ct_series"] == CT_UID
    assert read_dicom_case(folder, TimeConvention.challenge).record["suv_rule"] == "AcquisitionTime of the first file"
    assert read_dicom_case(folder, pet_only=True).case.ct is None


def test_a_series_that_the_study_has_not_is_refused(tmp_path: Path):
    write_study(tmp_path)
    for wanted in ((PET_UID, CT_UID), ()):
        assert read_dicom_case(tmp_path, wanted=wanted).record["ct_series"] == CT_UID
    with pytest.raises(InputError, match=r"no series 1\.2\.3\.11 in the study; .*1\.2\.3\.1\), .*1\.2\.3\.2\)"):
        read_dicom_case(tmp_path, wanted=("1.2.3.11", CT_UID))
    assert read_dicom_case(tmp_path, wanted=("1.2.3.11",), strict=False).record["pet_series"] == PET_UID


@pytest.mark.parametrize(("told", "doubted"), [(7, True), (5, False), (4, False), (None, False)])
def test_fewer_slices_than_the_header_tells_are_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, told: int | None, doubted: bool
):
    """It is the most that there can be, so that fewer are no error."""
    write_study(tmp_path, NumberOfSlices=told)
    found = read_dicom_case(tmp_path)
    sentence = "the PET has 5 slices, and its NumberOfSlices is 7: is the copy complete?"
    assert found.notes == ((sentence,) if doubted else ())
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == list(found.notes)


def test_two_studies_in_a_folder_are_listed(tmp_path: Path):
    write_pet(tmp_path / "a" / "PET")
    write_pet(tmp_path / "b" / "PET", StudyInstanceUID="1.2.4")
    with pytest.raises(InputError, match=r"holds 2 DICOM studies \(a/PET, b/PET, \.\.\.\); give the folder of one"):
        read_dicom_case(tmp_path)


def test_what_a_folder_holds_is_told_from_its_files(tmp_path: Path):
    image = Volume(np.arange(27, dtype=np.float32).reshape(3, 3, 3), Geometry((3, 3, 3), (3.0, 3.0, 3.0)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "container" / "images" / "pet").mkdir(parents=True)
    write_volume(image, tmp_path / "study" / "SUV.nii.gz", compress=True)
    write_pet(tmp_path / "named" / "images")
    write_pet(tmp_path / "dicom" / "deep" / "down")
    (tmp_path / "dicom" / "README").write_text("short", "utf-8")
    kinds = {path.name: kind_of(path) for path in tmp_path.iterdir()}
    expected = {"empty": None, "container": Kind.container, "study": Kind.nifti, "dicom": Kind.dicom}
    assert kinds == expected | {"named": Kind.dicom}
    found = read_input(tmp_path / "study", Reading(pet_only=True))
    assert (found.case.name, found.dicom) == ("study", None)
    with pytest.raises(InputError, match=r"no file .*study/CTres\.nii\.gz"):
        read_input(tmp_path / "study")
    with pytest.raises(InputError, match=r"no file .*study/CT\.nii\.gz"):
        read_input(tmp_path / "study", Reading(resample_ct=True))
