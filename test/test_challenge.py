"""The platform's folders: which image is taken, what is refused, and the mask that is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from l2snet.case import Case
from l2snet.errors import InputError, OutputError
from l2snet.sources import challenge
from l2snet.sources.files import read_case, stem
from l2snet.volume import Geometry, Volume, write_volume

Phantom = Callable[..., Case]
WriteCase = Callable[[Path, Case], Path]

PET_FILE = "33333333-pet.mha"
NAME = "11111111-aaaa-4bbb-8ccc-222222222222"


@pytest.fixture
def folder(tmp_path: Path, phantom: Phantom, write_case: WriteCase) -> Path:
    return write_case(tmp_path / "input", phantom())


def list_sockets(folder: Path, entries: Any) -> None:
    (folder / "inputs.json").write_text(entries if isinstance(entries, str) else json.dumps(entries), "utf-8")


def entry(relative_path: str, key: str = "socket", image: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {key: {"slug": "an-image", "kind": "Image", "relative_path": relative_path}}
    if image is not None:
        found["image"] = {"name": image}
    return found


def move_images(folder: Path, place: str) -> None:
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder / "images", folder / place)


# --- which images ---


def test_a_case_is_read_as_it_was_written(folder: Path, phantom: Phantom):
    case, expected = challenge.read(folder), phantom()
    assert case.ct is not None
    assert expected.ct is not None
    assert case.name == NAME
    assert case.lesions is None
    assert case.geometry.matches(expected.geometry)
    np.testing.assert_array_equal(case.suv.array, expected.suv.array)
    np.testing.assert_array_equal(case.ct.array, expected.ct.array)


def test_pet_only_leaves_the_ct_alone(folder: Path):
    (folder / "images/ct" / f"{NAME}.mha").write_text("no image")
    case = challenge.read(folder, pet_only=True)
    assert case.ct is None
    assert case.name == "33333333-pet"


def test_pet_only_needs_no_ct_folder(folder: Path):
    shutil.rmtree(folder / "images/ct")
    assert challenge.read(folder, pet_only=True).ct is None


def test_a_missing_input_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no input folder .*nowhere.*images/pet and images/ct"):
        challenge.read(tmp_path / "nowhere")


@pytest.mark.parametrize("what", ["pet", "ct"])
@pytest.mark.parametrize("whole_folder", [True, False], ids=["no folder", "no file"])
def test_a_missing_image_is_refused(folder: Path, what: str, whole_folder: bool):
    shutil.rmtree(folder / "images" / what)
    if not whole_folder:
        (folder / "images" / what).mkdir()
    with pytest.raises(InputError, match=rf"0 {what.upper()} images were found in .*{what}; expected one \.mha") as no:
        challenge.read(folder)
    assert ("--pet-only" in str(no.value)) == (what == "ct")


@pytest.mark.parametrize("what", ["pet", "ct"])
def test_two_images_are_refused_by_name(folder: Path, what: str):
    first = next((folder / "images" / what).iterdir())
    shutil.copy(first, first.with_name("another.mha"))
    with pytest.raises(InputError, match=rf"2 {what.upper()} images .*another\.mha.*expected one"):
        challenge.read(folder)


@pytest.mark.parametrize("hidden", ["._33333333-pet.mha", ".mha", ".33333333-pet.mha.swp", "Thumbs.db", "readme.txt"])
def test_hidden_and_other_files_are_not_images(folder: Path, hidden: str):
    for what in ("pet", "ct"):
        (folder / "images" / what / hidden).write_text("no image")
    assert challenge.read(folder).name == NAME


def test_a_ct_on_another_grid_is_resampled_only_when_asked(folder: Path, phantom: Phantom):
    # Every second voxel of the PET's grid, from its first on; the phantom's CT is constant near its centre.
    expected = phantom()
    assert expected.ct is not None
    grid = expected.geometry
    coarse = Geometry((12, 14, 16), tuple(2 * s for s in grid.spacing_mm), grid.origin_mm)
    ct = Volume(expected.ct.array[::2, ::2, ::2].copy(), coarse)
    write_volume(ct, folder / "images/ct" / f"{NAME}.mha", compress=False)
    with pytest.raises(InputError, match="--resample-ct"):
        challenge.read(folder)
    case = challenge.read(folder, resample_ct=True)
    assert case.ct is not None
    assert case.ct.geometry.matches(grid)
    np.testing.assert_allclose(case.ct.array[:23:2, :27:2, :31:2], ct.array, atol=1e-2)
    np.testing.assert_allclose(case.ct.array[12, 14, 14:19], 40.0, atol=1e-3)


# --- inputs.json ---


@pytest.mark.parametrize("key", ["socket", "interface"])
@pytest.mark.parametrize("with_name", [True, False], ids=["name", "no name"])
@pytest.mark.parametrize("place", ["images", "files/of/a new platform"])
def test_sockets_say_where_the_images_are(folder: Path, key: str, with_name: bool, place: str):
    if place != "images":
        move_images(folder, place)
    list_sockets(
        folder,
        [
            entry("something/else.json", key),
            entry(f"{place}/ct", key, f"{NAME}.mha" if with_name else None),
            entry(f"{place}/pet", key, PET_FILE if with_name else None),
        ],
    )
    case = challenge.read(folder)
    assert case.name == NAME
    assert case.suv.array.max() == 8
    assert case.ct is not None


def test_an_image_name_chooses_among_several(folder: Path):
    for what in ("pet", "ct"):
        (folder / "images" / what / "another.mha").write_text("no image")
    list_sockets(folder, [entry("images/pet", image=PET_FILE), entry("images/ct", image=f"{NAME}.mha")])
    assert challenge.read(folder).name == NAME


def test_an_image_name_that_is_not_there_leaves_the_only_file(folder: Path):
    # The platform gives the name that was uploaded; in the folder lies a uuid.
    list_sockets(folder, [entry("images/pet", image="patient 1 PET.nii"), entry("images/ct", image="CT.dcm")])
    assert challenge.read(folder).name == NAME


def test_a_socket_without_file_is_not_replaced_by_the_default_folder(folder: Path):
    list_sockets(folder, [entry("other/pet"), entry("images/ct")])
    with pytest.raises(InputError, match=r"0 PET images were found in .*other/pet"):
        challenge.read(folder)


@pytest.mark.parametrize("entries", [[], [{"socket": {"relative_path": "results.json"}}], [{"other": 1}]])
def test_sockets_of_other_things_leave_the_default_folders(folder: Path, entries: list[Any]):
    list_sockets(folder, entries)
    assert challenge.read(folder).name == NAME


def test_two_sockets_of_one_kind_are_refused(folder: Path):
    other = folder / "second/pet"
    other.mkdir(parents=True)
    shutil.copy(folder / "images/pet" / PET_FILE, other / "second.mha")
    list_sockets(folder, [entry("images/pet"), entry("second/pet"), entry("images/ct")])
    with pytest.raises(InputError, match=r"PET|pet"):
        challenge.read(folder)


@pytest.mark.parametrize(
    "entries",
    [
        "",
        "not json",
        '[{"socket": ',
        "null",
        "3",
        '"images/pet"',
        [1],
        [None],
        ["images/pet"],
        {"socket": {"relative_path": "images/pet"}},
        [{"socket": "images/pet"}],
        [{"socket": {"relative_path": "images/pet"}, "image": "a.mha"}],
    ],
    ids=str,
)
def test_malformed_inputs_are_refused(folder: Path, entries: Any):
    list_sockets(folder, entries)
    with pytest.raises(InputError, match=r"inputs\.json cannot be read .*expected a JSON list of sockets"):
        challenge.read(folder)


def test_inputs_that_are_no_text_are_refused(folder: Path):
    (folder / "inputs.json").write_bytes(b"\xff\xfe\x00[")
    with pytest.raises(InputError, match=r"inputs\.json cannot be read"):
        challenge.read(folder)


@pytest.mark.parametrize("path", ["../outside/pet", "images/../../outside/pet", "ABSOLUTE/pet"])
def test_a_path_that_leaves_the_input_folder_is_refused(folder: Path, path: str):
    outside = folder.parent / "outside"
    shutil.copytree(folder / "images", outside)
    list_sockets(folder, [entry(path.replace("ABSOLUTE", str(outside)))])
    with pytest.raises(InputError, match=r"inputs\.json points to .*outside the input folder"):
        challenge.read(folder)


@pytest.mark.parametrize("name", ["../../../outside/pet/secret.mha", "ABSOLUTE/pet/secret.mha", ".."])
def test_an_image_name_does_not_leave_its_folder(folder: Path, name: str, phantom: Phantom):
    outside = folder.parent / "outside"
    other = phantom(with_ct=False)
    write_volume(other.suv.with_array(other.suv.array * 2), outside / "pet/secret.mha", compress=False)
    list_sockets(folder, [entry("images/pet", image=name.replace("ABSOLUTE", str(outside)))])
    assert challenge.read(folder).suv.array.max() == 8


# --- names ---


@pytest.mark.parametrize("name", ["patient 1 CT", "Müller ~ Žižka 病人", "1.2.840.113619.2.55", "a.nii.gz", "-x"])
def test_the_mask_has_the_cts_name(tmp_path: Path, phantom: Phantom, write_case: WriteCase, name: str):
    case = challenge.read(write_case(tmp_path / "in ~ 病人 folder", phantom(name=name)))
    assert case.name == name
    mask = case.suv.with_array((case.suv.array > 4).astype(np.uint8))
    written = challenge.write(mask, case.name, tmp_path / "out ~ 病人 folder")
    expected = f"out ~ 病人 folder/images/automated-petct-lesion-segmentation/{name}.mha"
    assert written == tmp_path / expected
    assert written.is_file()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("a.mha", "a"),
        ("a.nii", "a"),
        ("a.nii.gz", "a"),
        ("a.b.nrrd", "a.b"),
        ("A.MHA", "A"),
        ("a.dcm", "a"),
        ("a", "a"),
    ],
)
def test_stem(file: str, expected: str):
    assert stem(Path("folder.x") / file) == expected


def test_files_of_any_format_are_one_case(tmp_path: Path, phantom: Phantom):
    case = phantom()
    assert case.ct is not None
    write_volume(case.suv, tmp_path / "SUV.nii.gz", compress=True)
    write_volume(case.ct, tmp_path / "CTres.nrrd", compress=True)
    back = read_case(tmp_path / "SUV.nii.gz", tmp_path / "CTres.nrrd")
    assert back.name == "CTres"
    assert read_case(tmp_path / "SUV.nii.gz", None).name == "SUV"
    np.testing.assert_array_equal(back.suv.array, case.suv.array)


@pytest.mark.parametrize(
    ("hot", "body", "doubted"), [(255.0, 32.0, True), (30.0, 4.0, False), (255.0, 32.5, False), (191.0, 1.0, True)]
)
def test_a_pet_of_grey_levels_is_doubted(tmp_path: Path, phantom: Phantom, hot: float, body: float, doubted: bool):
    suv = phantom(with_ct=False).suv
    levels = np.where(suv.array >= 8, hot, np.where(suv.array > 0, body, 0)).astype(np.float32)
    write_volume(suv.with_array(levels), tmp_path / "pet.mha", compress=False)
    notes = read_case(tmp_path / "pet.mha", None).notes
    assert any("give the PET in SUV" in note for note in notes) is doubted


# --- the mask ---


@pytest.mark.parametrize(
    "direction",
    [((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)), ((0.0, 0.6, 0.8), (0.0, -0.8, 0.6), (1.0, 0.0, 0.0))],
    ids=["aligned", "oblique"],
)
def test_the_mask_is_what_the_platform_expects(
    tmp_path: Path, phantom: Phantom, direction: tuple[tuple[float, ...], ...]
):
    case = phantom(Geometry((24, 28, 32), (3.0, 2.03642, 2.0), (-30.5, 20.25, -700.0), direction))
    mask = case.suv.with_array((case.suv.array == 8).astype(np.uint8))
    path = challenge.write(mask, NAME, tmp_path)
    assert path == challenge.mask_path(tmp_path, NAME)
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()] == [
        Path("images/automated-petct-lesion-segmentation") / f"{NAME}.mha"
    ]
    assert b"CompressedData = True" in path.read_bytes()[:1000]
    image, pet = sitk.ReadImage(str(path)), case.suv.to_sitk()
    assert image.GetPixelID() == sitk.sitkUInt8
    assert image.GetSize() == pet.GetSize() == (32, 28, 24)
    np.testing.assert_allclose(image.GetSpacing(), pet.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), pet.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), pet.GetDirection(), atol=1e-6)
    array = sitk.GetArrayFromImage(image)
    assert np.unique(array).tolist() == [0, 1]
    assert array.sum() == 4**3
    np.testing.assert_array_equal(array, mask.array)


def test_a_mask_that_cannot_be_written_is_an_output_error(tmp_path: Path, phantom: Phantom):
    challenge.mask_path(tmp_path, NAME).mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written"):
        challenge.write(phantom().suv, NAME, tmp_path)
