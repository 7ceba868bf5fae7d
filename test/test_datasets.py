"""The cache of cases and the samples drawn from it; cases are synthetic, so that every voxel's value is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch.utils.data import DataLoader

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.organs import OrganClass
from l2snet.preprocess import WORKING_SPACING_MM, LogScale, Window, prepare
from l2snet.training import train
from l2snet.training.augment import _spatial
from l2snet.training.cache import DONE, HOT_SUV, CachedCase, write_case
from l2snet.training.datasets import Sample, SliceDataset, WindowDataset
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe
from l2snet.volume import Array, Geometry, Volume

SIZE = (24, 28, 32)
GRID = Geometry(SIZE, WORKING_SPACING_MM, (10.0, -20.0, 30.0))
# A lesion of 4 x 4 x 4 voxels, off the middle along every axis.
LESION = (slice(4, 8), slice(6, 10), slice(20, 24))

Make = Callable[..., CachedCase]


def coronal_ramp(size: tuple[int, int, int] = SIZE) -> Array:
    """SUV 1 to n, the number of the coronal slice from 1 on: all of it is body, and a voxel tells its slice."""
    return np.broadcast_to(1 + np.arange(size[1], dtype=np.float32)[:, None], size).copy()


def flat(value: float) -> Array:
    """This SUV everywhere, but for the last bit of one voxel: a PET of one value alone is refused."""
    suv = np.full(SIZE, value, np.float32)
    suv[0, 0, 0] = np.nextafter(suv[0, 0, 0], np.float32(np.inf))
    return suv


def soft_ct(size: tuple[int, int, int] = SIZE) -> Array:
    """HU from -200 to 200 along z: windowed to 0..1, with some of both ends clipped."""
    return np.broadcast_to(np.linspace(-200, 200, size[0], dtype=np.float32)[:, None, None], size).copy()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a cached case; arrays by default as above."""

    def make(
        name: str = "case",
        suv: Array | None = None,
        lesions: Array | None = None,
        cue: Array | None = None,
        with_ct: bool = True,
        organs: Array | None = None,
    ) -> CachedCase:
        suv = coronal_ramp() if suv is None else suv
        if lesions is None:
            lesions = np.zeros(suv.shape, np.uint8)
            lesions[LESION] = 1
        grid = replace(GRID, size=suv.shape)
        ct = Volume(soft_ct(suv.shape), grid) if with_ct else None
        organ_map = None if organs is None else Volume(organs, grid)
        cached = write_case(Case(name, Volume(suv, grid), ct, Volume(lesions, grid), organ_map), tmp_path / "cache")
        if cue is not None:
            np.save(cached.folder / "cue.npy", cue.astype(np.float16))
        return CachedCase(cached.folder)

    return make


def slice_recipe(**changes: object) -> LocalizerRecipe:
    settings = {"crop": (16, 24), "epochs": 2, "steps_per_epoch": 100, "batch": 2, "encoder_weights": None, **changes}
    return LocalizerRecipe(**settings)  # type: ignore[arg-type]


def window_recipe(**changes: object) -> SegmenterRecipe:
    settings = {"crop": (8, 16, 16), "epochs": 2, "steps_per_epoch": 100, "cue_weight": 0.0, **changes}
    return SegmenterRecipe(**settings)  # type: ignore[arg-type]


def spatial(crop: tuple[int, int, int]) -> BasicTransform:
    """No augmentation: the crop alone."""
    return _spatial(crop, 0.0, 0.0, 0.0, nearest=True)


def same(a: Sample, b: Sample) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Cache


def test_cache_keeps_values_and_grid(make: Make) -> None:
    case = make()
    assert case.name == "case"
    assert case.is_whole
    assert (case.suv.dtype, case.ct.dtype, case.lesions.dtype) == (np.float16, np.int16, np.uint8)
    np.testing.assert_array_equal(case.suv, coronal_ramp())  # small whole numbers are exact in float16
    np.testing.assert_array_equal(case.ct, np.rint(soft_ct()))
    assert case.lesions.sum() == 4 * 4 * 4
    assert case.lesions[LESION].all()
    assert case.cue is None
    voxels = case.lesion_voxels
    assert len(voxels) == 64
    assert (voxels.min(0).tolist(), voxels.max(0).tolist()) == ([4, 6, 20], [7, 9, 23])


def test_cache_round_trips_the_geometry(make: Make, tmp_path: Path) -> None:
    body = make().body()
    assert body.geometry == GRID
    assert body.suv.dtype == np.float32
    assert body.mask.all()
    # Off the working grid and cut to the body: the numbers are no round ones, and come back to the last bit.
    suv = np.zeros((30, 30, 30), np.float32)
    suv[8:20, 8:20, 8:24] = coronal_ramp((12, 12, 16))
    grid = Geometry(suv.shape, (2.7, 4.1, 4.1), (0.1, 0.2, 0.3))
    case = Case("other", Volume(suv, grid), lesions=Volume((suv > 5).astype(np.uint8), grid))
    written = write_case(case, tmp_path)
    assert written.body().geometry == prepare(case).geometry
    assert written.body().geometry.size == written.suv.shape == written.lesions.shape
    assert written.body().ct is None


def test_cache_does_not_depend_on_the_order_of_axes(make: Make, tmp_path: Path) -> None:
    """The same body stored as (x, z, y) with x running to the right is cached as the same arrays."""
    straight = make()
    columns = np.array(GRID.direction)
    turned = Geometry(
        size=(SIZE[2], SIZE[0], SIZE[1]),
        spacing_mm=(WORKING_SPACING_MM[2], WORKING_SPACING_MM[0], WORKING_SPACING_MM[1]),
        origin_mm=tuple(GRID.world(np.array([0, 0, SIZE[2] - 1])).tolist()),
        direction=tuple(tuple(row) for row in np.stack([-columns[:, 2], columns[:, 0], columns[:, 1]], 1).tolist()),
    )

    def turn(array: Array) -> Volume:
        return Volume(np.ascontiguousarray(array[:, :, ::-1].transpose(2, 0, 1)), turned)

    lesions = np.zeros(SIZE, np.uint8)
    lesions[LESION] = 1
    case = Case("turned", turn(coronal_ramp()), turn(soft_ct()), turn(lesions))
    other = write_case(case, tmp_path / "turned")
    for name in ("suv", "ct", "lesions"):
        np.testing.assert_array_equal(getattr(other, name), getattr(straight, name))
    assert other.body().geometry.matches(straight.body().geometry)


def test_cache_needs_lesions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="case x has no lesion mask"):
        write_case(Case("x", Volume(coronal_ramp(), GRID)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_folder_is_not_taken_for_whole(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = np.save

    def full_disk(path: Path, array: Array) -> None:
        if path.name == "lesions.npy":
            raise OSError("no space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        make()
    half = CachedCase(tmp_path / "cache" / "case")
    assert not half.is_whole
    monkeypatch.undo()
    assert make().is_whole
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["case"]
    (half.folder / DONE).unlink()
    assert not half.is_whole


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Study folders a, b and c under tmp_path/data; the list that is returned fills with the names of those read."""
    read: list[str] = []

    def read_study(folder: Path, resample_ct: bool, ct_optional: bool) -> Case:
        read.append(folder.name)
        return Case(folder.name, Volume(coronal_ramp(), GRID), lesions=Volume(np.zeros(SIZE, np.uint8), GRID))

    monkeypatch.setattr(train, "read_study", read_study)
    for name in "abc":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "SUV.nii.gz").touch()
    return read


def test_a_study_is_cached_once(tmp_path: Path, studies: list[str]) -> None:
    for _ in range(2):
        cached = train.cached_cases([tmp_path / "data"], tmp_path / "cache", set(), False)
        assert [case.name for case in cached] == ["a", "b", "c"]
        assert all(case.is_whole for case in cached)
    assert studies == ["a", "b", "c"]


def test_held_out_studies_are_not_even_read(tmp_path: Path, studies: list[str]) -> None:
    cached = train.cached_cases([tmp_path / "data"], tmp_path / "cache", {"b"}, False)
    assert [case.name for case in cached] == studies == ["a", "c"]


@pytest.mark.parametrize(
    ("hold_out", "says"),
    [({"a", "z"}, "z cannot be held out: not among the 3 cases"), ({"a", "b", "c"}, "all cases .* are held out")],
)
def test_a_hold_out_that_makes_no_sense_is_refused(
    tmp_path: Path, studies: list[str], hold_out: set[str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        train.cached_cases([tmp_path / "data"], tmp_path / "cache", hold_out, False)
    assert studies == []


def test_two_studies_of_one_name_are_refused(tmp_path: Path, studies: list[str]) -> None:
    (tmp_path / "data" / "more" / "a").mkdir(parents=True)
    (tmp_path / "data" / "more" / "a" / "SUV.nii.gz").touch()
    with pytest.raises(InputError, match=r"two cases are named a, in .* and in .*; rename one"):
        train.cached_cases([tmp_path / "data"], tmp_path / "cache", set(), False)


def test_cases_know_their_data_folder(tmp_path: Path, studies: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """The studies have no CT, which is said and not refused."""
    (tmp_path / "more" / "d").mkdir(parents=True)
    (tmp_path / "more" / "d" / "SUV.nii.gz").touch()
    cached = train.cached_cases([tmp_path / "data", tmp_path / "more"], tmp_path / "cache", {"b"}, False)
    assert [(case.name, case.source) for case in cached] == [("a", 0), ("c", 0), ("d", 1)]
    assert "3 of 3 cases have no CT" in caplog.text
    with pytest.raises(InputError, match=r"all cases of .*more are held out"):
        train.cached_cases([tmp_path / "data", tmp_path / "more"], tmp_path / "cache", {"d"}, False)


def test_what_learns_from_a_study_has_seen_its_patient(tmp_path: Path, studies: list[str]) -> None:
    """Also where the study was cached before, as a study on its own."""
    (tmp_path / "patients" / "p1").mkdir(parents=True)
    (tmp_path / "data" / "a").rename(tmp_path / "patients" / "p1" / "a")
    alone = train.cached_cases([tmp_path / "patients" / "p1"], tmp_path / "cache")
    assert train.learnt_from(alone) == ["a"]
    (tmp_path / "data" / "b").rename(tmp_path / "patients" / "b")
    cached = train.cached_cases([tmp_path / "patients"], tmp_path / "cache")
    assert train.learnt_from(cached) == ["b", "a", "p1"]


def test_a_cache_of_other_data_is_refused(tmp_path: Path, studies: list[str]) -> None:
    train.cache_study(tmp_path / "data" / "a", tmp_path / "cache", False)
    for folder, resample_ct in ((tmp_path / "other" / "a", False), (tmp_path / "data" / "a", True)):
        with pytest.raises(InputError, match=r"was made from .*; remove it, or choose another --cache"):
            train.cache_study(folder, tmp_path / "cache", resample_ct)
    assert studies == ["a"]


def test_a_folder_that_is_no_cached_case_is_left_alone(tmp_path: Path, studies: list[str]) -> None:
    mine = tmp_path / "cache" / "a" / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with pytest.raises(InputError, match="is not a cached case and is left alone"):
        train.cache_study(tmp_path / "data" / "a", tmp_path / "cache", False)
    assert mine.read_text() == "years of work"


def test_a_case_written_anew_loses_its_old_cue(make: Make) -> None:
    assert make(cue=np.zeros(SIZE)).cue is not None
    assert make().cue is None


# Slices


@pytest.mark.parametrize("slices", [1, 3, 5])
@pytest.mark.parametrize("crop", [(16, 24), (32, 64)])
def test_slices_shapes_and_ranges(make: Make, slices: int, crop: tuple[int, int]) -> None:
    # SUV reaches 56 here, beyond the window's 35.
    data = SliceDataset([make(suv=2 * coronal_ramp())], slice_recipe(slices=slices, crop=crop))
    assert len(data) == 2 * 100 * 2
    lowest, highest = 1.0, -1.0
    for i in range(30):
        sample = data[i]
        assert set(sample) == {"image", "truth"}
        image, truth = sample["image"], sample["truth"]
        assert (image.shape, truth.shape) == ((slices, *crop), (1, *crop))
        assert (image.dtype, truth.dtype) == (torch.float32, torch.float32)
        assert set(truth.unique().tolist()) <= {0.0, 1.0}
        lowest, highest = min(lowest, image.min().item()), max(highest, image.max().item())
    assert -1 <= lowest < highest <= 1
    assert highest == pytest.approx(1.0)


@pytest.mark.parametrize("slices", [1, 3, 5])
def test_stacked_slices_are_the_neighbours(make: Make, slices: int) -> None:
    """A voxel's SUV is its slice's number + 1, whatever the crop and flip; at the ends the last slice is repeated."""
    recipe = slice_recipe(slices=slices, rotation_degrees=0.0, pet=Window(0.0, 35.0, 0.0, 35.0))
    data = SliceDataset([make()], recipe)
    middles = set()
    for i in range(80):
        sample = data[i]
        planes = sample["image"] - 1
        middle = int(planes[slices // 2].max().round())
        middles.add(middle)
        for channel in range(slices):
            expected = min(max(middle + channel - slices // 2, 0), SIZE[1] - 1)
            torch.testing.assert_close(planes[channel], torch.full(recipe.crop, float(expected)), atol=1e-4, rtol=0)
        # The truth is that of the middle slice.
        if sample["truth"].any():
            assert LESION[1].start <= middle < LESION[1].stop
    assert len(middles) > 10


def test_truth_lies_where_the_lesion_lies(make: Make) -> None:
    """Lesion voxels are hot here: after rotation, flip and crop, image and truth still cover each other."""
    suv = np.ones(SIZE, np.float32)
    suv[LESION] = 30
    data = SliceDataset([make(suv=suv)], slice_recipe(lesion_share=1.0, rotation_degrees=30.0))
    both = either = 0
    for i in range(60):
        sample = data[i]
        hot = data.recipe.pet.to_low + (1 + 30) / 2 / 35 * 2 < sample["image"]  # over half-way from 1 to 30
        truth = sample["truth"] > 0
        both += int((hot & truth).sum())
        either += int((hot | truth).sum())
    assert either > 500
    assert both / either > 0.9  # half-voxel edges differ


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_share_of_slices_with_lesion(make: Make, share: float) -> None:
    """The whole slice is in the crop, so a lesion slice shows its lesion."""
    lesions = np.zeros((8, 8, 8), np.uint8)
    lesions[3:6, 4, 3:6] = 1
    data = SliceDataset(
        [make(suv=coronal_ramp((8, 8, 8)), lesions=lesions)], slice_recipe(crop=(16, 16), lesion_share=share)
    )
    found = np.mean([bool(data[i]["truth"].any()) for i in range(300)])
    # Four standard deviations of a share of 300 draws.
    assert found == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 300) + 1e-9)


@pytest.mark.parametrize("shares", [None, (3.0, 1.0)])
def test_shares_of_data_folders(make: Make, shares: tuple[float, ...] | None) -> None:
    """Folder 0 has one case, folder 1 three: 1 in 4 samples without shares, 3 in 4 with 3 to 1, with lesion or none."""
    cases = [make("a", flat(1.0)), *(replace(make(name, flat(2.0)), source=1) for name in "bcd")]
    for data in (
        SliceDataset(cases, slice_recipe(shares=shares, rotation_degrees=0.0, pet=Window(0.0, 2.0))),
        WindowDataset(cases, window_recipe(shares=shares, pet=Window(0.0, 2.0))),
    ):
        first = np.mean([float(data[i]["image"][0].median()) < 0.75 for i in range(200)])
        expected = 0.25 if shares is None else 0.75
        assert first == pytest.approx(expected, abs=4 * np.sqrt(0.25 * 0.75 / 200))


def test_slices_of_cases_without_lesion_and_all_lesion(make: Make) -> None:
    none = make("none", lesions=np.zeros(SIZE, np.uint8))
    every = make("every", lesions=np.ones(SIZE, np.uint8))
    recipe = slice_recipe(crop=(8, 8), lesion_share=0.5, rotation_degrees=0.0)
    assert all(not SliceDataset([none], recipe)[i]["truth"].any() for i in range(10))
    assert all(SliceDataset([every], recipe)[i]["truth"].all() for i in range(10))
    mixed = SliceDataset([none, every], recipe)
    assert {bool(mixed[i]["truth"].any()) for i in range(20)} == {False, True}


def test_slices_smaller_than_the_crop_are_padded_with_air(make: Make) -> None:
    """8 x 8 voxels of SUV 35 in a crop of 16 x 16: 64 at the top of the window, the rest at the bottom."""
    suv = np.full((8, 8, 8), 35.0, np.float32)
    suv[0, 0, 0] = 34.0
    data = SliceDataset([make(suv=suv)], slice_recipe(crop=(16, 16), rotation_degrees=0.0))
    for i in range(10):
        values = data[i]["image"].round()
        assert int((values == 1).sum()) == 64
        assert int((values == -1).sum()) == 16 * 16 - 64


def test_slices_reach_the_edges_of_the_body(make: Make) -> None:
    """Rows and columns at the four edges carry values of their own; a crop that lies in the body gets to all of them.

    A crop of 16 x 24 begins at one of 9 x 9 places: the chance to miss one edge in 200 draws is (8 / 9)^200 = 6e-11.
    """
    suv = np.ones(SIZE, np.float32)
    suv[0], suv[-1], suv[:, :, 0], suv[:, :, -1] = 8, 16, 24, 32
    data = SliceDataset([make(suv=suv)], slice_recipe(rotation_degrees=0.0, pet=Window(0.0, 35.0, 0.0, 35.0)))
    seen = set()
    for i in range(200):
        seen |= set(data[i]["image"].round().unique().tolist())
    assert seen == {1, 8, 16, 24, 32}


def test_slices_are_flipped_left_to_right_alone(make: Make) -> None:
    suv = np.ones((8, 8, 8), np.float32)
    suv[:2], suv[2:, :, :2] = 20.0, 10.0  # head hot, right side warm
    data = SliceDataset([make(suv=suv)], slice_recipe(crop=(8, 8), rotation_degrees=0.0, pet=Window(0.0, 35.0)))
    sides = []
    for i in range(40):
        image = data[i]["image"][0]
        assert image[0].min() * 35 == pytest.approx(20.0, rel=1e-3)
        sides.append(bool(image[-1, 0] > image[-1, -1]))
    assert {False, True} == set(sides)


# Windows


def test_windows_shapes_and_ranges(make: Make) -> None:
    data = WindowDataset([make(cue=np.full(SIZE, 0.5))], window_recipe(cue_weight=1.0))
    assert len(data) == 2 * 100 * 2
    for i in range(40):
        sample = data[i]
        assert set(sample) == {"image", "truth", "weight"}
        assert sample["image"].shape == (2, 8, 16, 16)
        assert sample["truth"].shape == sample["weight"].shape == (1, 8, 16, 16)
        assert {value.dtype for value in sample.values()} == {torch.float32}
        assert all(torch.isfinite(value).all() for value in sample.values())
        assert set(sample["truth"].unique().tolist()) <= {0.0, 1.0}
        # Interpolation between 0 (outside) and 0.5 leaves 0..0.5.
        assert sample["weight"].min() >= 1.0
        assert sample["weight"].max() <= 1.5 + 1e-3


def test_windows_that_no_intensity_transform_touched_are_in_0_to_1(make: Make) -> None:
    """PET ramp 1 to 28 of a window 0 to 15, CT -200 to 200 of -100 to 250: both ends, within 0..1 most of the time."""
    data = WindowDataset([make()], window_recipe())
    images = [data[i]["image"] for i in range(60)]
    inside = [bool(image.min() >= 0 and image.max() <= 1) for image in images]
    # Of nnU-Net's defaults noise (0.1) leaves 0..1, and brightness (0.15) and gamma (0.4) may.
    assert np.mean(inside) > 0.4
    assert max(image[0].max() for image in images) >= 1
    assert min(image[1].min() for image in images) <= 0


def test_weight_is_one_plus_the_cue_in_its_place(make: Make) -> None:
    """A cue of 1 on the lesion and 0 elsewhere moves with the truth through every spatial transform."""
    lesions = np.zeros(SIZE, np.uint8)
    lesions[6:16, 6:18, 10:22] = 1
    data = WindowDataset([make(lesions=lesions, cue=lesions)], window_recipe(cue_weight=1.0, lesion_share=1.0))
    agree = []
    for i in range(60):
        sample = data[i]
        assert sample["weight"].min() >= 1.0
        assert sample["weight"].max() <= 2.0 + 1e-5
        agree.append(((sample["weight"] > 1.5) == (sample["truth"] > 0)).float().mean().item())
        if set(sample["weight"].unique().tolist()) <= {1.0, 2.0}:  # not interpolated: rotated and scaled by nothing
            assert torch.equal(sample["weight"], 1 + sample["truth"])
    assert min(agree) > 0.95
    assert np.mean(np.array(agree) == 1) > 0.5


@pytest.mark.parametrize(("factor", "highest"), [(0.0, 1.0), (0.5, 1.5), (2.0, 3.0)])
def test_cue_weight_scales_the_cue(make: Make, factor: float, highest: float) -> None:
    data = WindowDataset([make(cue=np.ones(SIZE))], window_recipe(cue_weight=factor, crop=(8, 8, 8)))
    weights = torch.cat([data[i]["weight"].ravel() for i in range(20)])
    assert weights.max().item() == pytest.approx(highest, abs=1e-5)
    assert weights.min() >= 1


def test_a_cue_weight_needs_every_cue(make: Make) -> None:
    cases = [make("a", cue=np.zeros(SIZE)), make("b")]
    with pytest.raises(ValueError, match="a cue weight needs every case's cue"):
        WindowDataset(cases, window_recipe(cue_weight=1.0))
    assert len(WindowDataset(cases, window_recipe(cue_weight=0.0))) > 0


@pytest.mark.parametrize(("share", "draws"), [(0.0, 60), (0.33, 300), (1.0, 60)])
def test_share_of_windows_on_a_lesion(make: Make, share: float, draws: int) -> None:
    """One lesion of 4 voxels a side in a body of 60: a window of 8 meets it by chance once in a hundred times.

    Its first voxel is one of about 52 along every axis, and it meets the lesion from 8 + 4 - 1 = 11 of them.
    """
    lesions = np.zeros((60, 60, 60), np.uint8)
    lesions[28:32, 28:32, 28:32] = 1
    suv = np.ones((60, 60, 60), np.float32)
    suv[lesions > 0] = 5
    data = WindowDataset([make(suv=suv, lesions=lesions)], window_recipe(crop=(8, 8, 8), lesion_share=share))
    found = np.mean([bool(data[i]["truth"].any()) for i in range(draws)])
    expected = share + (1 - share) * 0.01
    # Four standard deviations of a share of so many draws.
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / draws) + 1e-9)


def test_hot_share_puts_windows_on_normal_uptake(make: Make) -> None:
    """Two hot spots, each in an axial slice of its own: they are drawn alike, however many voxels they have."""
    suv = np.ones(SIZE, np.float32)
    lesions = np.zeros(SIZE, np.uint8)
    suv[3:6, 8:11, 8:11], suv[19:22, 6:24, 6:24], suv[11:14, 11:14, 11:14] = 8, 8, 8
    lesions[11:14, 11:14, 11:14] = 1
    case = make(suv=suv, lesions=lesions)
    assert [(one[0][0], len(one)) for one in case.hot_voxels] == [(4, 1), (20, 36)]
    data = WindowDataset([case], window_recipe(crop=(4, 4, 4), hot_share=1.0, lesion_share=0.0))
    hits = np.zeros(2)
    for i in range(60):
        image = data[i]["image"][0]
        assert image.max() > 0.2
        hits[int((image > 0.2).any(0).float().mean() > 0.75)] += 1
    assert hits.min() > 15
    assert make(name="cold").hot_voxels[0].shape[1] == 3  # the ramp is hot nearly everywhere
    assert make(name="air", suv=flat(1.0)).hot_voxels == []


def test_cut_windows_end_within(make: Make) -> None:
    """Beyond the cut there is nothing: no PET, no CT, no lesion, weight 1; at least a third of the rows is left."""
    everywhere = np.ones(SIZE, np.uint8)
    case = make(suv=flat(9.0), lesions=everywhere, cue=np.ones(SIZE, np.float16))
    data = WindowDataset([case], window_recipe(crop=(12, 12, 12), cut_share=1.0, lesion_share=0.0, cue_weight=1.0))
    sides = set()
    for i in range(20):
        sample = data[i]
        empty = ~sample["truth"][0].bool().flatten(1).any(1)
        assert 0 < empty.sum() <= 8
        assert (sample["image"][:, empty] == 0).all()
        assert (sample["weight"][:, empty] == 1).all()
        assert (sample["weight"][:, ~empty] > 1).any()
        sides.add((bool(empty[0]), bool(empty[-1])))
    assert sides == {(True, False), (False, True)}


def test_cut_slices_end_within(make: Make) -> None:
    case = make(suv=flat(9.0))
    whole, cut = (
        SliceDataset([case], slice_recipe(crop=(12, 12), cut_share=share, rotation_degrees=0.0)) for share in (0.0, 1.0)
    )
    assert min(float(whole[i]["image"].min()) for i in range(20)) > -1
    for i in range(20):
        empty = (cut[i]["image"][0] == -1).all(1)
        assert 0 < empty.sum() <= 8


def coronal_organs() -> Array:
    """A class for every pair of coronal slices, 1 to 14, so that SUV tells the class."""
    return np.broadcast_to((1 + np.arange(SIZE[1]) // 2).astype(np.uint8)[:, None], SIZE).copy()


def test_windows_of_a_stride_hold_means(make: Make) -> None:
    """SUV 1 to 28 along y: means of two rows are 1.5, 3.5, ...; the lesion of 4 voxels a side has 4 x 2 x 2 means."""
    organs = np.broadcast_to(np.arange(SIZE[1], dtype=np.uint8)[:, None] // 2, SIZE).copy()
    case = make(organs=organs, cue=np.ones(SIZE))
    recipe = window_recipe(stride=(1, 2, 2), lesion_share=1.0, organ_weight=1.0, cue_weight=1.0)
    data = WindowDataset([case], recipe)
    data.transforms = spatial(recipe.crop)
    for index in range(10):
        sample = data[index]
        assert sample["image"].shape == (2, *recipe.crop)
        truth, pet = sample["truth"][0] > 0, sample["image"][0] * 15
        # It is centred on a voxel of it and may begin within a pair: of three means along an axis the outer are half
        # lesion, which is enough, and those at the corners a quarter, which is not.
        assert truth.sum() in (4 * 2 * 2, 4 * 3 * 2, 4 * (3 * 3 - 4))
        inside = (sample["weight"][0] == 2) & (pet < 14) & ~truth  # at the case's edge means are of air too
        rows = pet[inside]
        torch.testing.assert_close((rows * 2).round(), rows * 2, atol=1e-3, rtol=0)
        assert sample["organs"][0][inside].float().sub((rows - 1.5) / 2).abs().max() <= 0.5
        assert sample["weight"].max() == 2


def test_a_lesion_smaller_than_a_voxel_is_taught(make: Make) -> None:
    """Of 3 voxels, where one of the network's has 18: it fills no half of it, nor is its mean above the floor."""
    lesions = np.zeros(SIZE, np.uint8)
    lesions[8, 9, 9:12] = 1
    suv = flat(0.5)
    suv[lesions > 0] = 3.0
    recipe = window_recipe(stride=(2, 3, 3), crop=(4, 8, 8), lesion_share=1.0, lesion_floor=1.5, pet=LogScale())
    data = WindowDataset([make(suv=suv, lesions=lesions)], recipe)
    data.transforms = spatial(recipe.crop)
    for index in range(10):
        sample = data[index]
        assert sample["truth"].sum() == 1
        assert sample["image"][0][sample["truth"][0] > 0] < np.log2(1 + recipe.lesion_floor)


@pytest.mark.parametrize(("pet", "span"), [(Window(0.0, 15.0), 1.0), (LogScale(), 4.0)])
def test_noise_of_windows_goes_by_what_suv_15_is_shown_as(make: Make, pet: Window | LogScale, span: float) -> None:
    """Of the PET so much more; of the CT the same."""
    data = WindowDataset([make(suv=flat(7.0))], window_recipe(pet=pet))
    noise = GaussianNoiseTransform(noise_variance=(0.02, 0.02), p_per_channel=1, synchronize_channels=True)
    data.transforms = ComposeTransforms([spatial(data.recipe.crop), noise])
    plain = WindowDataset([make(suv=flat(7.0))], data.recipe)
    plain.transforms = spatial(data.recipe.crop)
    noises = [(data[i]["image"] - plain[i]["image"]).std(dim=(1, 2, 3)) for i in range(5)]
    for found in noises:
        np.testing.assert_allclose(found, [0.02 * span, 0.02], rtol=0.1)


def test_a_field_of_view_ends_in_the_air_of_each_channel(make: Make) -> None:
    recipe = window_recipe(cut_share=1.0, pet=LogScale(0.5), ct=Window(-1000.0, 1000.0, -1.0, 1.0), lesion_share=0.0)
    data = WindowDataset([make(suv=flat(3.0))], recipe)
    data.transforms = spatial(recipe.crop)
    for index in range(10):
        image = data[index]["image"]
        rows = {tuple(row) for row in image[:, [0, -1], 0, 0].T.tolist()}
        assert (-1.0, -1.0) in rows


def test_windows_have_the_organs_of_their_voxels(make: Make) -> None:
    case = make(organs=coronal_organs())
    data = WindowDataset([case], window_recipe(organ_weight=1.0))
    data.transforms = spatial(data.recipe.crop)
    lesions = 0
    for index in range(20):
        sample = data[index]
        slices = sample["image"][0] * 15  # SUV, clipped at 15
        lesion = sample["truth"][0] > 0
        inside = (slices >= 1) & (slices < 14.5) & ~lesion
        assert sample["organs"].dtype == torch.uint8
        torch.testing.assert_close(
            sample["organs"][0][inside].float(), ((slices[inside].round() - 1) // 2) + 1, atol=0, rtol=0
        )
        assert not sample["organs"][0][(slices == 0) & ~lesion].any()
        assert (sample["organs"][0][lesion] == OrganClass.LESION).all()
        lesions += int(lesion.sum())
    assert lesions > 0


def test_slices_have_the_organs_of_their_pixels(make: Make) -> None:
    case = make(organs=coronal_organs())
    recipe = slice_recipe(organ_weight=1.0, rotation_degrees=0.0, pet=Window(0.0, 64.0))
    for index in range(20):
        sample = SliceDataset([case], recipe)[index]
        slices = (sample["image"][0] * 64).round()
        expected = torch.where(slices > 0, ((slices - 1) // 2) + 1, 0)
        expected[sample["truth"][0] > 0] = OrganClass.LESION
        torch.testing.assert_close(sample["organs"][0].float(), expected, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["slices", "windows"])
def test_organs_of_a_case_without_a_map_are_unknown(make: Make, kind: str) -> None:
    data = (
        SliceDataset([make()], slice_recipe(organ_weight=1.0, rotation_degrees=0.0))
        if kind == "slices"
        else WindowDataset([make()], window_recipe(organ_weight=1.0))
    )
    if isinstance(data, WindowDataset):
        data.transforms = spatial(data.recipe.crop)
    assert all((data[index]["organs"] == OrganClass.UNKNOWN).all() for index in range(5))


def test_hot_weight_is_on_hot_voxels_and_lesions(make: Make) -> None:
    case = make()
    windows = WindowDataset([case], window_recipe(hot_weight=4.0, lesion_share=1.0))
    windows.transforms = spatial(windows.recipe.crop)
    sample = windows[0]
    hot = (sample["image"][0] * 15 > HOT_SUV + 0.5) | (sample["truth"][0] > 0)
    torch.testing.assert_close(sample["weight"][0], 1 + 4.0 * hot)
    recipe = slice_recipe(hot_weight=4.0, lesion_share=1.0, rotation_degrees=0.0, pet=Window(0.0, 64.0))
    sample = SliceDataset([case], recipe)[0]
    hot = (sample["image"][0] * 64 > HOT_SUV + 0.5) | (sample["truth"][0] > 0)
    torch.testing.assert_close(sample["weight"][0], 1 + 4.0 * hot)


def test_cold_voxels_are_not_taught_as_lesion(make: Make) -> None:
    """The lesion's four slices have SUV 7 to 10."""
    case = make()
    windows = WindowDataset([case], window_recipe(lesion_floor=9.0, lesion_share=1.0))
    windows.transforms = spatial(windows.recipe.crop)
    sample = windows[0]
    assert sample["truth"].sum() > 0
    assert sample["image"][0][sample["truth"][0] > 0].min() * 15 >= 9
    recipe = slice_recipe(lesion_floor=9.0, lesion_share=1.0, rotation_degrees=0.0, pet=Window(0.0, 64.0))
    slices = SliceDataset([case], recipe)
    taught = {round(float(s["image"].max()) * 64): bool(s["truth"].any()) for s in (slices[i] for i in range(40))}
    assert taught == {7: False, 8: False, 9: True, 10: True}


@pytest.mark.parametrize("kind", ["slices", "windows"])
def test_lesions_are_made_hotter(make: Make, kind: str) -> None:
    """By a factor up to 4, in half of the samples; nothing but the lesion and its edge changes."""
    suv = np.ones(SIZE, np.float32)
    suv[LESION] = 2
    case, settings = make(suv=suv), {"lesion_share": 1.0, "lesion_gain": 4.0, "pet": Window(0.0, 16.0)}
    if kind == "slices":
        data: SliceDataset | WindowDataset = SliceDataset([case], slice_recipe(rotation_degrees=0.0, **settings))
    else:
        data = WindowDataset([case], window_recipe(**settings))
        data.transforms = spatial(data.recipe.crop)
    samples = [data[i] for i in range(60)]
    highest = np.array([float(s["image"][0].max()) * 16 for s in samples])
    assert 0.25 < np.mean(highest > 2.01) < 0.75
    assert 4 < highest.max() < 8.01
    assert highest.min() == pytest.approx(2, abs=0.01)
    for sample in samples:
        far = torch.nn.functional.max_pool2d(sample["truth"], 11, 1, 5) == 0
        if kind == "slices":
            assert float(sample["image"][far].max()) * 16 <= 1.01


@pytest.mark.parametrize("kind", ["slices", "windows"])
def test_organs_are_made_hotter_and_colder(make: Make, kind: str) -> None:
    """Each by its own factor up to 2, in half of the samples; what is no organ, or not known, stays."""
    settings = {"lesion_share": 0.0, "organ_weight": 1.0, "organ_gain": 2.0, "pet": Window(0.0, 16.0)}

    def samples(*labels: OrganClass) -> list[Sample]:
        organs = np.repeat(np.array(labels, np.uint8), SIZE[0] // len(labels))[:, None, None]
        case = make(suv=flat(1.0), lesions=np.zeros(SIZE), organs=np.broadcast_to(organs, SIZE).copy())
        if kind == "slices":
            data: SliceDataset | WindowDataset = SliceDataset([case], slice_recipe(rotation_degrees=0.0, **settings))
        else:
            data = WindowDataset([case], window_recipe(**settings))
            data.transforms = spatial(data.recipe.crop)
        return [data[i] for i in range(80)]

    middles = [
        [float(one["image"][0][one["organs"][0] == label].quantile(0.5)) * 16 for label in one["organs"].unique()]
        for one in samples(OrganClass.LIVER, OrganClass.HEART_WALL)
    ]
    both = np.array([factors for factors in middles if len(factors) == 2])
    changed = (np.abs(both - 1) > 0.01).any(axis=1)
    assert len(both) > 20
    assert 0.25 < changed.mean() < 0.75
    assert 0.48 < both.min() < 0.7
    assert 1.4 < both.max() < 2.1
    assert (np.abs(both[:, 0] - both[:, 1])[changed] > 0.05).mean() > 0.7
    for label in (OrganClass.OUTSIDE, OrganClass.UNKNOWN):
        for one in samples(label):
            np.testing.assert_allclose(one["image"][0] * 16, 1, atol=0.01)


@pytest.mark.parametrize("kind", ["slices", "windows"])
def test_the_floor_of_lesions_is_of_the_uptake_as_it_was(make: Make, kind: str) -> None:
    """An organ that is made hotter or colder takes its lesions along: what is taught of them stays."""
    settings = {"lesion_share": 1.0, "organ_weight": 1.0, "organ_gain": 2.0, "lesion_floor": 1.5}
    for value, taught in ((1.3, False), (1.7, True)):
        suv = flat(1.0)
        suv[LESION] = value
        case = make(name=f"at{value}", suv=suv, organs=np.full(SIZE, OrganClass.LIVER, np.uint8))
        if kind == "slices":
            data: SliceDataset | WindowDataset = SliceDataset([case], slice_recipe(rotation_degrees=0.0, **settings))
        else:
            data = WindowDataset([case], window_recipe(**settings))
            data.transforms = spatial(data.recipe.crop)
        assert {bool(data[i]["truth"].any()) for i in range(30)} == {taught}


def test_slices_change_in_appearance(make: Make) -> None:
    """Uptake is scaled by 0.5 to 2, and slices of one value get noise; the same sample is always the same."""
    case = make()
    recipe = slice_recipe(rotation_degrees=0.0, pet=Window(0.0, 128.0))
    plain, changed = SliceDataset([case], recipe), SliceDataset([case], replace(recipe, appearance=True))
    inside = (slice(None), slice(6, 10), slice(9, 15))  # where a smaller slice reaches too
    pairs = [(plain[i]["image"][inside], changed[i]["image"][inside]) for i in range(80)]
    scales = [float(after.mean() / before.mean()) for before, after in pairs]
    assert 0.45 < min(scales) < 0.75
    assert 1.3 < max(scales) < 2.2
    assert 0.1 < np.mean([float(after.std()) > 1e-4 for _, after in pairs]) < 0.9
    assert same(changed[5], changed[5])
    assert {float(v) for i in range(20) for v in changed[i]["truth"].unique()} == {0.0, 1.0}


def test_nothing_is_taught_beyond_a_cut(make: Make) -> None:
    recipe = window_recipe(cut_share=1.0, hot_weight=4.0, organ_weight=1.0)
    sample = WindowDataset([make(organs=coronal_organs())], recipe)[0]
    beyond = (sample["organs"][0] == OrganClass.UNKNOWN).all(dim=(1, 2))
    assert 0 < beyond.sum() <= recipe.crop[0] - recipe.crop[0] // 3
    assert not sample["image"][:, beyond].any()
    assert (sample["weight"][:, beyond] == 1).all()


@pytest.mark.parametrize(("share", "draws"), [(0.0, 60), (0.3, 300), (1.0, 60)])
def test_share_of_blanked_cts(make: Make, share: float, draws: int) -> None:
    case = make()
    np.save(case.folder / "ct.npy", np.full(SIZE, 75, np.int16))  # the middle of the window: never 0 by chance
    data = WindowDataset([case], window_recipe(ct_dropout=share, crop=(8, 8, 8)))
    blank = np.mean([not data[i]["image"][1].any() for i in range(draws)])
    assert blank == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / draws) + 1e-9)


def test_windows_of_a_case_without_ct_have_a_blank_one(make: Make) -> None:
    data = WindowDataset([make(with_ct=False)], window_recipe())
    for i in range(30):
        image = data[i]["image"]
        assert not image[1].any()
        assert image[0].any()


def test_windows_of_cases_without_lesion_and_all_lesion(make: Make) -> None:
    none = make("none", lesions=np.zeros(SIZE, np.uint8))
    every = make("every", lesions=np.ones(SIZE, np.uint8))
    recipe = window_recipe(crop=(8, 8, 8), lesion_share=0.5)
    assert all(not WindowDataset([none], recipe)[i]["truth"].any() for i in range(10))
    assert all(WindowDataset([every], recipe)[i]["truth"].any() for i in range(10))
    on_lesion = WindowDataset([none, every], replace(recipe, lesion_share=1.0))
    assert all(on_lesion[i]["truth"].any() for i in range(10))


def test_windows_larger_than_the_case_are_padded_with_air(make: Make) -> None:
    """A body of 8 x 8 x 8 at the top of both windows, in a window of 16: the rest is 0 in PET, CT, truth and cue."""
    size = (8, 8, 8)
    ones = np.ones(size, np.uint8)
    suv = np.full(size, 15.0, np.float32)
    suv[0, 0, 0] = 14.0
    case = make(suv=suv, lesions=ones, cue=ones)
    np.save(case.folder / "ct.npy", np.full(size, 250, np.int16))
    data = WindowDataset([case], window_recipe(crop=(16, 16, 16), cue_weight=1.0, lesion_share=0.0))
    untouched = 0
    for i in range(40):
        sample = data[i]
        values = [sample[name].unique().tolist() for name in ("image", "weight")]
        if values != [[0.0, pytest.approx(14 / 15, abs=1e-3), 1.0], [1.0, 2.0]]:
            continue  # scaled, rotated, or its intensity changed
        untouched += 1
        assert int(sample["truth"].sum()) == 512
        assert torch.equal(sample["image"][1], sample["truth"][0])
        assert torch.equal(sample["weight"], 1 + sample["truth"])
        assert not sample["image"][0][sample["truth"][0] == 0].any()
    assert untouched > 5


def test_windows_reach_the_edges_of_the_body(make: Make) -> None:
    """As for the slices; the six faces are marked in the cue, which no intensity transform changes."""
    faces = {(axis, end): (1 + 2 * axis - end) / 8 for axis in range(3) for end in (0, -1)}  # 1/8 to 6/8
    cue = np.zeros(SIZE, np.float32)
    for (axis, end), value in faces.items():
        np.moveaxis(cue, axis, 0)[end] = value
    data = WindowDataset([make(cue=cue)], window_recipe(cue_weight=1.0, lesion_share=0.0))
    seen = {0.0}
    for i in range(200):
        found = set((data[i]["weight"] - 1).unique().tolist())
        if found <= {0.0, *faces.values()}:  # neither rotated nor scaled
            seen |= found
    assert seen == {0.0, *faces.values()}


# Both


def datasets(make: Make, kind: str, seed: int = 0) -> SliceDataset | WindowDataset:
    cases = [make(name, cue=np.full(SIZE, 0.25)) for name in ("a", "b")]
    if kind == "slices":
        return SliceDataset(cases, slice_recipe(seed=seed, slices=3))
    return WindowDataset(cases, window_recipe(seed=seed, cue_weight=1.0, ct_dropout=0.2))


@pytest.mark.parametrize("kind", ["slices", "windows"])
def test_a_sample_depends_on_its_number_alone(make: Make, kind: str) -> None:
    data = datasets(make, kind)
    forward = [data[i] for i in range(12)]
    backward = [data[i] for i in reversed(range(12))][::-1]
    np.random.seed(99)
    torch.manual_seed(99)
    elsewhere = datasets(make, kind)
    for i in range(12):
        assert same(forward[i], backward[i])
        assert same(forward[i], elsewhere[i])
    images = [sample["image"] for sample in forward]
    assert all(not torch.equal(images[i], images[j]) for i in range(12) for j in range(i))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["slices", "windows"])
def test_a_sample_is_the_same_in_a_worker(make: Make, kind: str, workers: int) -> None:
    data = datasets(make, kind)
    indices = [5, 0, 11, 3]
    loader = DataLoader(data, batch_sampler=[[i] for i in indices], num_workers=workers)
    for i, batch in zip(indices, loader, strict=True):
        assert same({name: value[0] for name, value in batch.items()}, data[i])


@pytest.mark.parametrize("kind", ["slices", "windows"])
def test_seeds_differ(make: Make, kind: str) -> None:
    one, other = datasets(make, kind, seed=1), datasets(make, kind, seed=2)
    assert not any(torch.equal(one[i]["image"], other[i]["image"]) for i in range(12))


def test_samples_do_not_write_to_the_cache(make: Make) -> None:
    data = datasets(make, "windows")
    before = [np.array(case.suv) for case in data.cases]
    for i in range(12):
        data[i]["image"].fill_(7.0)
    for case, suv in zip(data.cases, before, strict=True):
        np.testing.assert_array_equal(case.suv, suv)


def test_geometry_is_stored_as_plain_text(make: Make) -> None:
    stored = json.loads((make().folder / DONE).read_text("utf-8"))
    assert stored["geometry"]["size"] == list(SIZE)
    assert stored["geometry"]["spacing_mm"] == list(WORKING_SPACING_MM)
