"""Results as DICOM and as images: read back by programs of others onto the same voxels, whichever way the PET lies."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import lesion as three_voxels
from dicom_files import write_pet
from matplotlib.path import Path as Polygon
from pydicom import Dataset, config, dcmread
from test_dicom_in import write_enhanced_pet

from l2snet.errors import InputError, OutputError
from l2snet.measure.patient import Measurement, measure
from l2snet.pipeline import Segmentation
from l2snet.sources.contours import outlines
from l2snet.sources.dicom import find_dicom_studies, read_series
from l2snet.sources.dicom_file import MAX_DEPTH, read_whole
from l2snet.sources.dicom_seg import read_segmentation
from l2snet.sources.dicom_series import Stack, stack
from l2snet.sources.dicom_write import Author, Reference
from l2snet.sources.result_writer import FILES, Format, parse_formats, write_formats
from l2snet.subject import Subject
from l2snet.volume import Volume

SHAPE = (6, 12, 12)  # rt-utils reads square slices only
AUTHOR = Author("l2snet", "0123456789abcdef")
TURN, TILT = np.deg2rad(20.0), np.deg2rad(10.0)
# Cosines of a row and of a column, and the sense in which the files' slices are numbered.
ORIENTATIONS = {
    "axial": ([1, 0, 0], [0, 1, 0], 1),
    "reversed": ([1, 0, 0], [0, 1, 0], -1),
    "feet first, prone": ([-1, 0, 0], [0, 1, 0], 1),
    "coronal": ([1, 0, 0], [0, 0, -1], 1),
    "sagittal": ([0, 1, 0], [0, 0, -1], -1),
    "oblique": (
        [np.cos(TURN), np.sin(TURN), 0],
        [-np.sin(TURN) * np.cos(TILT), np.cos(TURN) * np.cos(TILT), np.sin(TILT)],
        -1,
    ),
}
SPACING = (3.0, 4.0, 4.0)


def write_oriented(folder: Path, orientation: str, **changes: Any) -> Stack:
    """A PET series of this orientation; slice n of the files has its own values."""
    row, column, sense = ORIENTATIONS[orientation]
    normal = np.cross(row, column)
    first = np.array([-30.0, 12.0, -600.0])
    places = tuple([round(float(v), 6) for v in first + sense * n * SPACING[0] * normal] for n in range(SHAPE[0]))
    stored = np.full(SHAPE, 1000, np.int16) + np.arange(SHAPE[0], dtype=np.int16)[:, None, None]
    cosines = [round(float(v), 9) for v in (*row, *column)]
    write_pet(folder, stored, ImageOrientationPatient=cosines, ImagePositionPatient=places, **changes)
    (study,) = find_dicom_studies(folder)
    (series,) = read_series(study)
    return stack(series, "PET")


def lesions() -> np.ndarray:
    """A ring about a hole that holds a pixel; two pixels that touch by a corner; a voxel in the grid's corner."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 1:8, 2:9] = 1
    mask[2, 3:6, 4:7] = 0
    mask[2, 4, 5] = 1
    mask[4, 9, 9] = mask[4, 10, 10] = 1
    mask[5, 0, 11] = 1
    return mask


def measured(stacked: Stack, mask: np.ndarray | None = None) -> tuple[Measurement, Volume]:
    found = lesions() if mask is None else mask
    random = np.random.default_rng(0)
    suv = Volume(random.uniform(1, 9, SHAPE).astype(np.float32), stacked.geometry)
    probability = suv.with_array(np.where(found, random.uniform(0.5, 1, SHAPE), 0.0).astype(np.float32))
    result = Segmentation("case", suv.with_array(found), probability, None)
    return measure(result, suv, subject=Subject(70.0, 1.75)), probability


def write(folder: Path, stacked: Stack, mask: np.ndarray | None = None) -> tuple[Measurement, Volume]:
    table, probability = measured(stacked, mask)
    write_formats(list(Format), table, probability, folder, Reference.of(stacked), AUTHOR)
    return table, probability


@pytest.fixture(params=list(ORIENTATIONS), scope="module")
def oriented(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Stack, Measurement, Volume]:
    """A folder with `pet` and the results of it in `out`."""
    folder = tmp_path_factory.mktemp("oriented")
    stacked = write_oriented(folder / "pet", request.param)
    return folder, stacked, *write(folder / "out", stacked)


def onto(stacked: Stack, image: sitk.Image) -> np.ndarray:
    """(z, y, x) voxels of another program's image where the PET's voxels lie; 0 beyond it."""
    grid = Volume(np.zeros(SHAPE, np.uint8), stacked.geometry).to_sitk()
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0))


# --- SEG ---


def test_a_seg_reads_back_through_dcmqi(oriented: tuple[Path, Stack, Measurement, Volume]):
    """DCMQI (C++, DCMTK) writes a NRRD of each segment where it believes it to lie."""
    pytest.importorskip("dcmqi", reason="dcmqi (extra: test) is not installed")
    folder, stacked, table, _ = oriented
    command = ["segimage2itkimage", "--inputDICOM", folder / "out" / FILES[Format.seg], "--outputDirectory", folder]
    run = subprocess.run([*command, "--prefix", "lesion", "-t", "nrrd"], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    for lesion in table.lesions:
        found = onto(stacked, sitk.ReadImage(str(folder / f"lesion-{lesion.number}.nrrd")))
        np.testing.assert_array_equal(found > 0, table.labels.array == lesion.number)


def test_a_seg_reads_back_through_the_program_s_own_reader(oriented: tuple[Path, Stack, Measurement, Volume]):
    folder, stacked, table, _ = oriented
    found = read_segmentation(folder / "out" / FILES[Format.seg], stacked.geometry)
    np.testing.assert_array_equal(found.mask.array, lesions())
    assert found.labels == tuple(f"Lesion {lesion.number}" for lesion in table.lesions)


def test_the_probability_reads_back_in_steps_of_a_byte(oriented: tuple[Path, Stack, Measurement, Volume]):
    """By pydicom alone: a frame lies on the slice of the PET file that it refers to."""
    folder, stacked, _, probability = oriented
    dataset = dcmread(folder / "out" / FILES[Format.fractional])
    assert (dataset.SegmentationType, dataset.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    slices = {str(header.SOPInstanceUID): z for z, header in enumerate(stacked.headers)}
    found = np.zeros(SHAPE)
    for frame, item in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        found[slices[source.ReferencedSOPInstanceUID]] = frame / dataset.MaximumFractionalValue
    np.testing.assert_allclose(found, probability.array, atol=0.5 / 255 + 1e-6)


def test_a_seg_says_what_it_is_and_what_it_is_of(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "axial")
    table, _ = write(tmp_path, stacked)
    dataset = dcmread(tmp_path / FILES[Format.seg])
    assert dataset.SegmentationType == "BINARY"
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == stacked.headers[0].SeriesInstanceUID
    assert dataset.FrameOfReferenceUID == stacked.headers[0].FrameOfReferenceUID
    assert [item.SegmentNumber for item in dataset.SegmentSequence] == [1, 2, 3]
    first = dataset.SegmentSequence[0]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    assert (first.TrackingID, first.SegmentLabel) == ("Lesion 1", "Lesion 1")
    uids = {item.TrackingUID for item in dataset.SegmentSequence}
    assert len(uids) == len(table.lesions)
    structures = dcmread(tmp_path / FILES[Format.rtstruct])
    assert {item.TrackingUID for item in structures.RTROIObservationsSequence} == uids


def test_the_same_result_has_the_same_uids_and_another_has_others(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "axial")
    other = lesions()
    other[5, 0, 11] = 0
    for name, mask in (("a", None), ("b", None), ("c", other)):
        write(tmp_path / name, stacked, mask)
    for form in (Format.seg, Format.rtstruct, Format.sr):
        a, b, c = (dcmread(tmp_path / name / FILES[form]).SOPInstanceUID for name in "abc")
        assert a == b != c


def test_a_lesion_of_other_voxels_has_another_tracking_uid(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "axial")
    other = lesions()
    other[5, 0, 11], other[5, 0, 10] = 0, 1  # the third lesion moves by a voxel
    tracked = []
    for name, mask in (("a", None), ("b", other)):
        write(tmp_path / name, stacked, mask)
        seg, structures, report = (
            dcmread(tmp_path / name / FILES[f]) for f in (Format.seg, Format.rtstruct, Format.sr)
        )
        uids = [item.TrackingUID for item in seg.SegmentSequence]
        assert [item.TrackingUID for item in structures.RTROIObservationsSequence] == uids
        assert all(uid in report.to_json() for uid in uids)
        tracked.append(uids)
    assert [a == b for a, b in zip(*tracked, strict=True)] == [True, True, False]


def test_a_pet_with_sequences_as_deep_as_may_be_is_referred_to(tmp_path: Path):
    nested = Dataset()
    for _ in range(MAX_DEPTH - 1):
        outer = Dataset()
        outer.ReferencedImageSequence = [nested]
        nested = outer
    stacked = write_oriented(tmp_path / "pet", "axial", ReferencedImageSequence=[nested])
    read_whole(Path(str(stacked.headers[0].filename)))  # is not refused
    write(tmp_path / "out", stacked)
    assert {*FILES.values()} <= {path.name for path in (tmp_path / "out").iterdir()}


IDENTITY = {"PatientName": "A^B", "PatientBirthDate": "", "PatientSex": "O", "PatientWeight": "70"}
STUDY_OF_ALL = {"StudyDate": "20200101", "StudyTime": "115000", "StudyID": "1", "AccessionNumber": ""}


@pytest.fixture(params=["axial", "sagittal", "oblique", "empty", "enhanced"], scope="module")
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results."""
    folder = tmp_path_factory.mktemp("checked")
    if request.param == "enhanced":
        write_enhanced_pet(folder / "pet" / "PET.dcm", **IDENTITY, **STUDY_OF_ALL)
        (study,) = find_dicom_studies(folder / "pet")
        stacked = stack(read_series(study)[0], "PET")
        suv = Volume(np.ones(stacked.geometry.size, np.float32), stacked.geometry)
        result = Segmentation(
            "case", suv.with_array(three_voxels()), suv.with_array(three_voxels() * np.float32(0.7)), None
        )
        table = measure(result, suv)
        write_formats(list(Format), table, result.probability, folder, Reference.of(stacked), AUTHOR)
    else:
        orientation, mask = (request.param, None) if request.param != "empty" else ("axial", np.zeros(SHAPE, np.uint8))
        write(folder, write_oriented(folder / "pet", orientation, **IDENTITY, **STUDY_OF_ALL), mask)
    return folder


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize("form", [Format.seg, Format.fractional, Format.rtstruct, Format.sr])
def test_dciodvfy_finds_no_error(checked: Path, form: Format):
    run = subprocess.run(["dciodvfy", checked / FILES[form]], capture_output=True, text=True, check=False)
    assert [line for line in run.stderr.splitlines() if line.startswith("Error")] == []


# --- RTSTRUCT ---


def test_an_rtstruct_reads_back_through_rt_utils(oriented: tuple[Path, Stack, Measurement, Volume]):
    """rt-utils rounds outlines to pixels and fills them by OpenCV, their border included."""
    rt_utils = pytest.importorskip("rt_utils", reason="rt-utils (extra: test) is not installed")
    folder, _, table, _ = oriented
    read = rt_utils.RTStructBuilder.create_from(str(folder / "pet"), str(folder / "out" / FILES[Format.rtstruct]))
    positions = [header.SOPInstanceUID for header in read.series_data]
    stacked = {header.SOPInstanceUID: z for z, header in enumerate(oriented[1].headers)}
    order = [stacked[uid] for uid in positions]
    for lesion in table.lesions:
        found = read.get_roi_mask_by_name(f"Lesion {lesion.number}")  # rows, columns, slices as it sorts them
        expected = table.labels.array[order] == lesion.number
        np.testing.assert_array_equal(found, expected.transpose(1, 2, 0))


def test_the_centres_within_an_rtstruct_s_outlines_are_the_mask(oriented: tuple[Path, Stack, Measurement, Volume]):
    """In millimetres, by matplotlib: a centre is in the mask where it lies within an odd number of outlines."""
    folder, stacked, table, _ = oriented
    dataset = dcmread(folder / "out" / FILES[Format.rtstruct])
    slices = {str(header.SOPInstanceUID): z for z, header in enumerate(stacked.headers)}
    found = np.zeros(SHAPE, int)
    for item in dataset.ROIContourSequence:
        for contour in item.ContourSequence:
            z = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            cosines = np.array(stacked.headers[z].ImageOrientationPatient, float).reshape(2, 3)
            normal = np.cross(*cosines)
            np.testing.assert_allclose((points - stacked.headers[z].ImagePositionPatient) @ normal, 0, atol=1e-3)
            centres = stacked.geometry.world(np.stack(np.indices((1, *SHAPE[1:]))[:, 0], -1) + np.array((z, 0, 0)))
            inside = Polygon(points @ cosines.T).contains_points((centres @ cosines.T).reshape(-1, 2))
            found[z] += inside.reshape(SHAPE[1:]) * int(item.ReferencedROINumber)
    np.testing.assert_array_equal(found, table.labels.array)


def test_a_long_outline_is_written_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A comb, whose outline takes more than the 64 KiB that a number's field has room for in an explicit VR."""
    comb = np.zeros((3, 64, 128), np.uint8)
    comb[1, :, ::2] = comb[1, 0] = 1
    write_pet(tmp_path / "pet", comb.astype(np.int16))
    (study,) = find_dicom_studies(tmp_path / "pet")
    stacked = stack(read_series(study)[0], "PET")
    suv = Volume(comb.astype(np.float32), stacked.geometry)
    result = Segmentation("case", suv.with_array(comb), suv, None)
    write_formats([Format.rtstruct], measure(result, suv), suv, tmp_path, Reference.of(stacked), AUTHOR)
    monkeypatch.setattr(config, "replace_un_with_known_vr", False)  # not all readers know what a field should be
    (contour,) = dcmread(tmp_path / FILES[Format.rtstruct]).ROIContourSequence[0].ContourSequence
    assert contour["ContourData"].VR == "DS"
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    assert len(points) > 3000
    index = (points - stacked.geometry.origin_mm) / np.array((4.0, 4.0, 3.0))
    np.testing.assert_array_equal(fill([index[:, :2]], comb.shape[1:]), comb[1])


def fill(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    rows, columns = np.indices(shape)
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    odd = sum(Polygon(polygon).contains_points(centres).astype(int) for polygon in polygons)
    return np.asarray(odd).reshape(shape) % 2


@pytest.mark.parametrize("seed", range(20))
def test_outlines_of_anything_fill_to_the_same_pixels(seed: int):
    cv2 = pytest.importorskip("cv2", reason="opencv-python, by rt-utils (extra: test), is not installed")
    mask = (np.random.default_rng(seed).uniform(size=(17, 23)) < 0.2 + 0.04 * seed).astype(np.uint8)
    polygons = outlines(mask)
    np.testing.assert_array_equal(fill(polygons, mask.shape), mask)
    filled = np.zeros(mask.shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(filled, [np.rint(polygon).astype(np.int32)], 1)
    np.testing.assert_array_equal(filled, mask)


def test_an_outline_by_hand():
    mask = np.zeros((5, 5), np.uint8)
    assert outlines(mask) == []
    mask[1, 3] = 1
    (outline,) = outlines(mask)
    expected = [[2.51, 1], [3, 0.51], [3, 1.49], [3.49, 1]]
    np.testing.assert_allclose(sorted(outline.tolist()), expected)


# --- SR ---


def numbers(dataset: Dataset) -> list[dict[tuple[str, str], tuple[float, str]]]:
    """Of every group of measurements: concept and derivation, to value and unit."""
    (measurements,) = (item for item in dataset.ContentSequence if concept(item) == "126010")
    groups = []
    for group in measurements.ContentSequence:
        values = {}
        for item in group.ContentSequence:
            if item.ValueType == "NUM":
                derivation = [i for i in item.get("ContentSequence", []) if concept(i) == "121401"]
                how = derivation[0].ConceptCodeSequence[0].CodeValue if derivation else ""
                value = item.MeasuredValueSequence[0]
                unit = value.MeasurementUnitsCodeSequence[0].CodeValue
                values[concept(item), how] = float(value.NumericValue), unit
        groups.append(values)
    return groups


def concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def test_the_report_holds_the_table(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "oblique")
    table, _ = write(tmp_path, stacked)
    dataset = dcmread(tmp_path / FILES[Format.sr])
    *groups, patient = numbers(dataset)
    assert len(groups) == len(table.lesions)
    for values, lesion in zip(groups, table.lesions, strict=True):
        assert values["118565006", ""] == (pytest.approx(lesion.volume_ml), "cm3")
        assert values["126400", "56851009"] == (pytest.approx(lesion.suv_max), "g/ml{SUVbw}")
        assert values["126400", "373098007"][0] == pytest.approx(lesion.suv_mean)
        assert values["126400", "126031"][0] == pytest.approx(lesion.suv_peak)
        assert values["126033", ""] == (pytest.approx(lesion.tlg), "g")
        assert values["81827009", "56851009"] == (pytest.approx(lesion.longest_diameter_mm), "mm")
        assert values["centroid-p", ""][0] == pytest.approx(lesion.centroid_mm[1])
        assert values["122157", "373098007"] == (pytest.approx(lesion.probability), "1")
    assert patient["246206008", ""][0] == len(table.lesions)
    assert patient["118565006", "255619001"][0] == pytest.approx(table.burden.tmtv_ml)
    assert patient["dmax", ""][0] == pytest.approx(table.burden.dmax_mm)
    assert patient["sdmax", ""][0] == pytest.approx(table.burden.sdmax_per_m)
    seg = dcmread(tmp_path / FILES[Format.seg])
    text = dataset.to_json()
    assert seg.SOPInstanceUID in text
    assert all(item.TrackingUID in text for item in seg.SegmentSequence)
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"


# --- images, and what is empty or impossible ---


def test_images_lie_where_the_pet_does(oriented: tuple[Path, Stack, Measurement, Volume]):
    """NIfTI by nibabel, NRRD by SimpleITK; every voxel's world position is that of the DICOM headers."""
    folder, stacked, table, _ = oriented
    image: Any = nibabel.load(folder / "out" / "lesions.nii.gz")
    array = np.asarray(image.dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(array, table.labels.array)
    for z, header in enumerate(stacked.headers):
        row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        for y, x in ((0, 0), (3, 7)):
            expected = np.array(header.ImagePositionPatient, float) + row * x * SPACING[2] + column * y * SPACING[1]
            ras = image.affine @ [x, y, z, 1]
            np.testing.assert_allclose(ras[:3] * (-1, -1, 1), expected, atol=1e-3)
    nrrd = sitk.ReadImage(str(folder / "out" / "mask.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(nrrd), lesions())
    point = nrrd.TransformIndexToPhysicalPoint((7, 3, 2))
    np.testing.assert_allclose(point, stacked.geometry.world(np.array([2, 3, 7])), atol=1e-3)


def test_one_lesion_is_written_as_several_are(tmp_path: Path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, 3:5, 3] = 1
    stacked = write_oriented(tmp_path / "pet", "oblique")
    table, _ = write(tmp_path, stacked, mask)
    np.testing.assert_array_equal(read_segmentation(tmp_path / FILES[Format.seg], stacked.geometry).mask.array, mask)
    values, patient = numbers(dcmread(tmp_path / FILES[Format.sr]))
    assert values["118565006", ""][0] == pytest.approx(table.lesions[0].volume_ml)
    assert patient["dmax", ""][0] == 0.0


def test_a_result_without_lesions_is_written_too(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "oblique")
    write(tmp_path, stacked, np.zeros(SHAPE, np.uint8))
    seg = dcmread(tmp_path / FILES[Format.seg])
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["No lesion"]
    assert read_segmentation(tmp_path / FILES[Format.seg], stacked.geometry).mask.array.sum() == 0
    structures = dcmread(tmp_path / FILES[Format.rtstruct])
    assert "ContourSequence" not in structures.ROIContourSequence[0]
    (patient,) = numbers(dcmread(tmp_path / FILES[Format.sr]))
    assert patient["246206008", ""] == (0.0, "1")
    assert ("dmax", "") not in patient


def test_formats_are_chosen_by_name_and_dicom_needs_dicom(tmp_path: Path):
    assert parse_formats("seg, NIFTI,") == {Format.seg, Format.nifti}
    with pytest.raises(InputError, match="'dicom' is not known; expected some of seg, fractional"):
        parse_formats("seg,dicom")
    stacked = write_oriented(tmp_path / "pet", "axial")
    table, probability = measured(stacked)
    with pytest.raises(InputError, match="--format sr needs DICOM input"):
        write_formats({Format.sr}, table, probability, tmp_path)
    written = write_formats({Format.nrrd}, table, probability, tmp_path)
    assert sorted(path.name for path in written.values()) == ["lesions.nrrd", "mask.nrrd"]


def test_dicom_needs_a_frame_of_reference(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "axial", FrameOfReferenceUID="")
    table, probability = measured(stacked)
    with pytest.raises(InputError, match="--format rtstruct needs the PET's FrameOfReferenceUID, which is missing"):
        write_formats({Format.rtstruct}, table, probability, tmp_path, Reference.of(stacked), AUTHOR)


# --- character sets ---

JAPANESE, KOREAN, GERMAN = "Yamada^Tarou=山田^太郎=やまだ^たろう", "Hong^Gildong=洪^吉洞=홍^길동", "Müller^Jörg"


@pytest.mark.parametrize(
    ("character_set", "name", "written"),
    [
        (["", "ISO 2022 IR 87"], JAPANESE, "ISO_IR 192"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ISO_IR 192"),
        (["", "ISO 2022 IR 149"], KOREAN, "ISO_IR 192"),
        ("GB18030", "Wang^XiaoDong=王^小东", "ISO_IR 192"),
        ("ISO 2022 IR 100", GERMAN, "ISO_IR 192"),
        ("ISO_IR 100", GERMAN, "ISO_IR 192"),
        ("ISO_IR 192", JAPANESE, "ISO_IR 192"),
        ("ISO_IR 6", "A^B", "ISO_IR 192"),
        ("", "A^B", None),
    ],
    ids=str,
)
def test_names_in_any_character_set_are_written_in_utf_8(
    tmp_path: Path, character_set: str | list[str], name: str, written: str | None
):
    """Texts within sequences, too; the second time as the first, for the PET's own headers stay as they are."""
    text = name.replace("^", " ").rpartition("=")[2]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", text
    changes = {"PatientName": name, "StudyDescription": text, "ProcedureCodeSequence": [code]}
    stacked = write_oriented(tmp_path / "pet", "axial", SpecificCharacterSet=character_set, **changes)
    for out in (tmp_path / "a", tmp_path / "b"):
        write(out, stacked)
        for form in (Format.seg, Format.sr, Format.rtstruct):
            dataset = dcmread(out / FILES[form])
            assert dataset.get("SpecificCharacterSet") == written
            assert (str(dataset.PatientName), dataset.StudyDescription) == (name, text)
            if form is not Format.rtstruct:
                assert dataset.ProcedureCodeSequence[0].CodeMeaning == text
    assert str(stacked.headers[0].PatientName) == name


def test_a_damaged_field_that_no_result_needs_does_no_harm(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "axial", SpecificCharacterSet="ISO_IR 100", TableHeight="1.2345")
    for header in stacked.headers:
        path = Path(str(header.filename))
        assert b"1.2345" in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(b"1.2345", b"1,2345"))
    (study,) = find_dicom_studies(tmp_path / "pet")
    write(tmp_path / "out", stack(read_series(study)[0], "PET"))
    assert (tmp_path / "out" / FILES[Format.seg]).is_file()


def test_a_header_that_makes_no_dicom_is_an_error_of_the_header(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "axial", PatientSex="X")
    table, probability = measured(stacked)
    with pytest.raises(
        OutputError, match=r"lesions_seg\.dcm cannot be made of the PET's header .*correct it"
    ) as raised:
        write_formats({Format.seg}, table, probability, tmp_path / "out", Reference.of(stacked), AUTHOR)
    assert "rights and space" not in str(raised.value)
    assert list((tmp_path / "out").glob("*")) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path):
    stacked = write_oriented(tmp_path / "pet", "axial")
    (tmp_path / "out").write_text("a file")
    table, probability = measured(stacked)
    with pytest.raises(OutputError, match=r"lesions_seg\.dcm cannot be written .*rights and space"):
        write_formats({Format.seg}, table, probability, tmp_path / "out", Reference.of(stacked), AUTHOR)
