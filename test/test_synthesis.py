"""Synthetic bodies, made from a small phantom of ellipsoids instead of a patient's organ map."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from organ_phantom import SPACING, organ_map

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.organs import OrganClass
from l2snet.sources.autopet import read_study
from l2snet.synthesis import Options, synthesize
from l2snet.synthesis.anatomy import Anatomy, draw_anatomy
from l2snet.synthesis.cohort import write_cohort
from l2snet.synthesis.drawing import curve, smooth_field
from l2snet.synthesis.growth import grow_lesions
from l2snet.synthesis.landmarks import Organ
from l2snet.synthesis.lesions import KINDS, MAX_ML, MAX_SUV, MIN_ML, MIN_SUV, Lesion, draw_lesion, draw_lesions
from l2snet.synthesis.physiology import MAX_MUSCLE_SUV, density, draw_appearance, uptake
from l2snet.synthesis.tissues import LOOKS, MUSCLES, Tissue, all_labels, among, look_of
from l2snet.synthesis.traps import _fractures, _scar
from l2snet.synthesis.tumours import Tumour
from l2snet.training.train import cached_cases, learnt_from
from l2snet.volume import Geometry, Volume, write_volume


@pytest.fixture(scope="module")
def organs() -> Volume:
    return organ_map()


@pytest.fixture(scope="module")
def anatomy(organs: Volume) -> Anatomy:
    return draw_anatomy(organs.canonical().array, SPACING, np.random.default_rng(3))


@pytest.fixture(scope="module")
def cases(organs: Volume) -> list[Case]:
    return [synthesize(organs, seed) for seed in range(8)]


def test_the_same_seed_gives_the_same_voxels(organs: Volume, cases: list[Case]) -> None:
    again = synthesize(organs, 1)
    assert np.array_equal(again.suv.array, cases[1].suv.array)
    assert np.array_equal(again.lesions.array, cases[1].lesions.array)
    assert not np.array_equal(cases[1].suv.array, cases[3].suv.array)


def test_a_torso_too_short_for_a_scar_or_fractures_gets_them_all_the_same(organs: Volume) -> None:
    """Where the map holds little below the lungs, the levels between which they are drawn change places."""
    anatomy = draw_anatomy(organs.canonical().array, SPACING, np.random.default_rng(3))
    marks = replace(anatomy.marks, bladder_top=anatomy.marks.apex - 30, dome=anatomy.marks.apex - 20)
    short = replace(anatomy, marks=marks)
    for trap in (_scar, _fractures):
        suv = np.zeros(anatomy.tissues.shape, np.float32)
        trap(short, suv, np.zeros_like(suv), np.random.default_rng(0))
        assert suv.any()


def test_synthesis_leaves_the_global_random_state_alone(organs: Volume) -> None:
    before = np.random.get_state()[1].copy()
    synthesize(organs, 5)
    assert np.array_equal(before, np.random.get_state()[1])


def test_cases_lie_on_the_organ_maps_grid(organs: Volume, cases: list[Case]) -> None:
    for case in cases:
        assert case.geometry.matches(organs.geometry)
        assert case.suv.array.dtype == np.float32
        assert case.suv.array.min() >= 0
        assert np.isfinite(case.suv.array).all()


def test_organs_stay_where_the_map_has_them(organs: Volume, cases: list[Case]) -> None:
    outside = np.ones(organs.array.shape, bool)
    outside[organs.array > 0] = False
    for case in cases:
        liver = case.suv.array[organs.array == Organ.LIVER].mean()
        assert liver > 3 * case.suv.array[outside].mean()


def test_a_body_has_its_organ_map(organs: Volume, cases: list[Case]) -> None:
    """The organs of the map that it was made from keep their class, and what is drawn between them is there."""
    case = cases[0]
    assert case.organs is not None
    assert case.organs.geometry == organs.geometry
    for organ, organ_class in ((Organ.LIVER, OrganClass.LIVER), (Organ.SPLEEN, OrganClass.SPLEEN)):
        inside = organs.array == organ
        assert (case.organs.array[inside] == organ_class).mean() > 0.8
    absent = {OrganClass.UNKNOWN, OrganClass.HEAD_AND_NECK, OrganClass.LESION}
    assert set(np.unique(case.organs.array)) >= set(OrganClass) - absent
    assert (case.organs.array[case.suv.array > 0.5] > 0).mean() > 0.95


def test_every_second_body_is_free_of_lesions(cases: list[Case]) -> None:
    with_lesions = [bool(case.lesions.array.any()) for case in cases]
    assert with_lesions == [False, True] * 4


def test_lesions_lie_in_the_body_and_not_in_air(organs: Volume, cases: list[Case]) -> None:
    for case in cases:
        inside = case.suv.array[case.lesions.array > 0]
        if len(inside):
            # The mask ends at the skin: whatever is in it takes something up.
            assert np.percentile(inside, 1) > 0.1
        assert set(np.unique(case.lesions.array)) <= {0, 1}


def test_ct_is_in_hu(cases: list[Case]) -> None:
    with_ct = [case for case in cases if case.ct is not None]
    assert len(with_ct) >= 4
    for case in with_ct:
        body = case.suv.array > 0.5
        assert -60 < np.median(case.ct.array[body]) < 120
        assert case.ct.array.max() > 300
        assert np.percentile(case.ct.array, 5) <= -900


def test_a_coarse_scanner_gets_its_own_grid(organs: Volume) -> None:
    fine, coarse = (synthesize(organs, 1, Options(spacing_mm=s)) for s in (None, (4.0, 8.0, 8.0)))
    assert coarse.geometry.spacing_mm == (4.0, 8.0, 8.0)
    volumes = [case.lesions.array.sum() * case.geometry.voxel_ml for case in (fine, coarse)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.35, abs=3.0)
    # The same body: as much activity on either grid.
    activity = [case.suv.array.sum() * case.geometry.voxel_ml for case in (fine, coarse)]
    assert activity[1] == pytest.approx(activity[0], rel=0.1)


def test_a_map_with_other_labels_is_refused(organs: Volume) -> None:
    with pytest.raises(InputError, match="labels 0 to 10"):
        synthesize(organs.with_array(organs.array + np.uint8(5)), 0)


@pytest.mark.parametrize("missing", [Organ.LUNGS, Organ.LIVER])
def test_a_map_without_lungs_or_liver_is_refused(organs: Volume, missing: Organ) -> None:
    array = np.where(organs.array == missing, 0, organs.array).astype(np.uint8)
    with pytest.raises(InputError, match=missing.name.lower()):
        synthesize(organs.with_array(array), 0)


def test_missing_organs_are_drawn(organs: Volume) -> None:
    kept = among(Organ.LUNGS, Organ.LIVER)
    array = np.where(kept[organs.array], organs.array, 0).astype(np.uint8)
    found = draw_anatomy(organs.with_array(array).canonical().array, SPACING, np.random.default_rng(0))
    for tissue in (Tissue.KIDNEY, Tissue.URINE, Tissue.SPLEEN, Tissue.GREY, Tissue.HEART_WALL):
        assert (found.tissues == tissue).any(), tissue.name


def test_every_tissue_of_the_map_has_a_look(anatomy: Anatomy) -> None:
    assert set(np.unique(anatomy.tissues)) - {Tissue.AIR} <= set(all_labels())


def test_organ_means_are_what_was_drawn(anatomy: Anatomy) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        looks = draw_appearance(rng)
        suv, hu = uptake(anatomy, looks, rng), density(anatomy, looks, rng)
        for tissue in (Tissue.LIVER, Tissue.SPLEEN, Tissue.FAT, Tissue.MARROW, Tissue.BLOOD):
            inside = anatomy.tissues == tissue
            assert suv[inside].mean() == pytest.approx(looks.suv[tissue], rel=0.15), tissue.name
            assert hu[inside].mean() == pytest.approx(looks.hu[tissue], abs=25), tissue.name
        assert (suv[anatomy.tissues == Tissue.AIR] == 0).all()


def test_drawn_uptake_spans_the_published_ranges() -> None:
    drawn = np.stack([draw_appearance(np.random.default_rng(seed)).suv for seed in range(300)])
    # Tissue, and what at least a tenth of the bodies should lie below and above.
    for tissue, low, high in (
        (Tissue.LIVER, 1.8, 2.5),
        (Tissue.GREY, 7.0, 11.0),
        (Tissue.URINE, 8.0, 40.0),
        (Tissue.HEART_WALL, 2.0, 9.0),
        (Tissue.COLON, 1.2, 3.5),
        (Tissue.MARROW, 1.0, 1.9),
        (Tissue.MUSCLE, 0.55, 0.9),
    ):
        values = drawn[:, tissue]
        assert np.mean(values < low) > 0.1, tissue.name
        assert np.mean(values > high) > 0.1, tissue.name
    assert drawn[:, Tissue.LIVER].max() < 5
    # However many states of the muscles come together; SUV of a whole body may run by up to 1.35 higher.
    assert 4 < drawn[:, list(MUSCLES)].max() <= 1.35 * MAX_MUSCLE_SUV
    assert (drawn[:, Tissue.GREY] > drawn[:, Tissue.WHITE]).all()


def test_looks_are_ordered_ranges() -> None:
    for label in all_labels():
        look = look_of(label)
        assert 0 < look.suv[0] < look.suv[1]
        assert look.hu[0] < look.hu[1]
    assert len(LOOKS) == len(set(LOOKS))


def test_lesions_range_as_wide_as_real_ones() -> None:
    rng = np.random.default_rng(0)
    kinds = list(KINDS)
    base = np.clip(np.exp(rng.normal(np.log(7.0), 0.65, 4000)), 2.0, 38.0)
    drawn = [draw_lesion(kinds[i % len(kinds)], (0, 0, 0), float(b), rng) for i, b in enumerate(base)]
    volumes, suvs = np.array([d.volume_ml for d in drawn]), np.array([d.suv for d in drawn])
    assert volumes.min() >= MIN_ML
    assert volumes.max() <= MAX_ML
    assert suvs.min() >= MIN_SUV
    assert suvs.max() <= MAX_SUV
    assert np.mean(volumes < 1) > 0.1
    assert np.mean(volumes > 100) > 0.05
    assert volumes.max() > 900
    assert np.mean(suvs < 4) > 0.1
    assert np.mean(suvs > 15) > 0.08
    assert suvs.max() > 40
    assert np.mean([d.core > 0 for d in drawn if d.volume_ml > 50]) > 0.3


def test_patients_have_one_to_dozens_of_lesions(anatomy: Anatomy) -> None:
    counts = [len(draw_lesions(anatomy, np.random.default_rng(seed))) for seed in range(60)]
    assert min(counts) >= 1
    assert max(counts) > 20
    assert np.mean(np.array(counts) == 1) > 0.15


def _ball(suv: float, volume_ml: float, centre_mm: tuple[float, float, float]) -> Lesion:
    return Lesion("soft tissue", centre_mm, volume_ml, suv, (1, 1, 1), 1, 0.0, 0.0, 1.0, True, 0.0, 1.0, 0.0, 40.0, 0.0)


def test_a_ball_keeps_its_volume_and_its_uptake(anatomy: Anatomy) -> None:
    liver = np.argwhere(anatomy.tissues == Tissue.LIVER).mean(axis=0) * SPACING
    suv, hu = np.full(anatomy.tissues.shape, 2.0, np.float32), np.zeros(anatomy.tissues.shape, np.float32)
    lesion = _ball(12.0, 60.0, tuple(liver))
    mask = grow_lesions(anatomy, [lesion], suv, hu, (6.0, 6.0, 6.0), 0.0, [], np.random.default_rng(0))
    assert mask.sum() * np.prod(SPACING) / 1000 == pytest.approx(60.0, rel=0.15)
    assert suv.max() == pytest.approx(12.0, rel=0.1)
    assert hu[mask].mean() == pytest.approx(40.0, abs=8)


@pytest.mark.parametrize(("background", "peak"), [(0.3, 2.0), (1.0, 2.5), (4.0, 8.0)])
def test_what_is_drawn_as_tumour_can_be_seen(anatomy: Anatomy, background: float, peak: float) -> None:
    # The faintest there are: by what is around them they are made hotter.
    liver = np.argwhere(anatomy.tissues == Tissue.LIVER).mean(axis=0) * SPACING
    suv, hu = np.full(anatomy.tissues.shape, background, np.float32), np.zeros(anatomy.tissues.shape, np.float32)
    lesion = _ball(MIN_SUV, 30.0, tuple(liver))
    mask = grow_lesions(anatomy, [lesion], suv, hu, (6.0, 6.0, 6.0), 0.0, [], np.random.default_rng(0))
    assert suv.max() == pytest.approx(peak, rel=0.1)
    assert mask.any()
    assert suv[mask].min() > background + 0.5 * (peak - background)


def test_a_fading_rim_is_drawn_where_it_is_plainly_hot(anatomy: Anatomy) -> None:
    """Its surface has 0.35 of the peak: hardly more than what is around, or by itself hot enough."""
    liver = np.argwhere(anatomy.tissues == Tissue.LIVER).mean(axis=0) * SPACING
    ml = {}
    for peak in (4.0, 24.0):
        suv, hu = np.full(anatomy.tissues.shape, 1.0, np.float32), np.zeros(anatomy.tissues.shape, np.float32)
        lesion = replace(_ball(peak, 60.0, tuple(liver)), fading=0.7)
        mask = grow_lesions(anatomy, [lesion], suv, hu, (4.0, 4.0, 4.0), 0.0, [], np.random.default_rng(0))
        ml[peak] = mask.sum() * np.prod(SPACING) / 1000
    assert ml[24.0] == pytest.approx(60.0, rel=0.15)
    assert ml[4.0] < 0.75 * ml[24.0]


def test_real_tumours_are_pasted_with_their_texture(anatomy: Anatomy) -> None:
    real = np.ones((8, 8, 8), np.float32)
    real[:, :4] = 0.5
    tumour = Tumour("striped", real, np.ones_like(real), (4.0, 4.0, 4.0), 32.8)
    liver = np.argwhere(anatomy.tissues == Tissue.LIVER).mean(axis=0) * SPACING
    values = []
    for seed in range(12):
        suv, hu = np.full(anatomy.tissues.shape, 1.0, np.float32), np.zeros(anatomy.tissues.shape, np.float32)
        lesion = replace(_ball(10.0, 60.0, tuple(liver)))
        mask = grow_lesions(anatomy, [lesion], suv, hu, (4.0, 4.0, 4.0), 0.0, [tumour], np.random.default_rng(seed))
        assert mask.any()
        values.append(suv[mask].std())
    # A drawn ball is even; some of twelve are pasted, and half of those voxels take up less.
    assert min(values) < 1.0
    assert max(values) > 1.5


def test_a_curve_goes_through_its_points() -> None:
    points = [(0.0, 0.0, 0.0), (10.0, 5.0, 0.0), (20.0, 0.0, 8.0)]
    line = curve(points, 2.0)
    for point in points:
        assert np.linalg.norm(line - point, axis=1).min() < 1e-6
    assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 4.0


def test_a_smooth_field_is_smooth_and_of_unit_variance() -> None:
    field = smooth_field(np.random.default_rng(0), (40, 40, 40), (3.0, 2.0, 2.0), 12.0)
    assert field.std() == pytest.approx(1.0, abs=0.35)
    assert np.abs(np.diff(field, axis=1)).max() < 1.5


def test_a_cohort_is_written_once_and_read_by_training(organs: Volume, tmp_path: Path) -> None:
    maps, out = tmp_path / "organs", tmp_path / "out"
    write_volume(organs, maps / "one.nii.gz", compress=True)
    write_cohort(maps, out, 2, seed=10, spacing="6,6,6", sheet=tmp_path / "sheet.png")
    record = json.loads((out / "bodies.json").read_text())
    assert record["body_000010"]["seed"] == 10
    assert record["body_000011"]["organs"] == "one.nii.gz"
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    stamp = (out / "body_000011" / "SUV.nii.gz").stat().st_mtime_ns
    write_cohort(maps, out, 2, seed=10, spacing="6,6,6")
    assert (out / "body_000011" / "SUV.nii.gz").stat().st_mtime_ns == stamp
    case = read_study(out / "body_000011", ct_optional=True)
    assert case.lesions.array.any()
    (out / "body_000011" / "CTres.nii.gz").unlink(missing_ok=True)
    assert read_study(out / "body_000011", ct_optional=True).ct is None
    with pytest.raises(InputError, match="CT"):
        read_study(out / "body_000011")
    with pytest.raises(InputError, match="other settings"):
        write_cohort(maps, out, 1, seed=10)


def test_nothing_of_another_body_stays_in_a_folder(
    organs: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(organs, tmp_path / "one.nii.gz", compress=True)
    folder = tmp_path / "out" / "body_000010"
    folder.mkdir(parents=True)
    # As where the program was killed before it noted the body.
    for name in ("donors.json", "CTres.nii.gz", "SUV.nii.gz"):
        (folder / name).write_text("[]")
    monkeypatch.setattr("l2snet.synthesis.body.CT_MISSING", 1.0)
    write_cohort(tmp_path / "one.nii.gz", tmp_path / "out", 1, seed=10, spacing="6,6,6")
    assert sorted(path.name for path in folder.iterdir()) == ["ORGANS.nii.gz", "SEG.nii.gz", "SUV.nii.gz"]
    assert len(read_study(folder, ct_optional=True).suv.array)


def test_a_core_is_left_out_where_it_is_cold(anatomy: Anatomy) -> None:
    liver = np.argwhere(anatomy.tissues == Tissue.LIVER).mean(axis=0) * SPACING
    ml = {}
    for core_suv in (0.05, 0.3):  # of a peak of 24: nothing over the background, and 6
        suv, hu = np.full(anatomy.tissues.shape, 1.0, np.float32), np.zeros(anatomy.tissues.shape, np.float32)
        lesion = replace(_ball(24.0, 60.0, tuple(liver)), core=0.6, core_suv=core_suv, core_in_mask=False)
        mask = grow_lesions(anatomy, [lesion], suv, hu, (4.0, 4.0, 4.0), 0.0, [], np.random.default_rng(0))
        ml[core_suv] = mask.sum() * np.prod(SPACING) / 1000
    assert ml[0.3] > 1.1 * ml[0.05]


def test_training_knows_whose_tumours_a_body_may_hold(organs: Volume, tmp_path: Path) -> None:
    """Weights trained on a body with the tumours of patients have seen these patients."""
    write_volume(organs, tmp_path / "maps" / "one.nii.gz", compress=True)
    real = tmp_path / "real" / "patient" / "study"
    suv = np.ones((20, 20, 20), np.float32)
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[6:14, 6:14, 6:14] = 1
    suv[mask > 0] = 9
    for name, array in (("SUV", suv), ("SEG", mask), ("CTres", 40 * suv)):
        write_volume(Volume(array, Geometry((20, 20, 20), (4.0, 4.0, 4.0))), real / f"{name}.nii.gz", compress=True)
    for name, tumours in (("with", tmp_path / "real"), ("without", None)):
        write_cohort(tmp_path / "maps", tmp_path / name, 1, seed=5, spacing="6,6,6", tumours=tumours)
    for name, seen in (("with", ["body_000005", "patient", "study"]), ("without", ["body_000005"])):
        assert learnt_from(cached_cases([tmp_path / name], tmp_path / f"cache {name}")) == seen


def test_processes_change_nothing(organs: Volume, tmp_path: Path) -> None:
    write_volume(organs, tmp_path / "maps" / "one.nii.gz", compress=True)
    for workers in (1, 2):
        write_cohort(tmp_path / "maps", tmp_path / str(workers), 2, seed=4, spacing="6,6,6", workers=workers)
    records = [json.loads((tmp_path / str(workers) / "bodies.json").read_text()) for workers in (1, 2)]
    assert records[0] == records[1]
    for name in records[0]:
        one, two = (read_study(tmp_path / str(workers) / name, ct_optional=True) for workers in (1, 2))
        np.testing.assert_array_equal(one.suv.array, two.suv.array)
        np.testing.assert_array_equal(one.lesions.array, two.lesions.array)


def test_a_wrong_spacing_is_refused(organs: Volume, tmp_path: Path) -> None:
    write_volume(organs, tmp_path / "one.nii.gz", compress=True)
    with pytest.raises(InputError, match="own, mixed"):
        write_cohort(tmp_path / "one.nii.gz", tmp_path / "out", 1, 0, spacing="wide")
