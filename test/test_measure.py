"""The lesion table by hand: every number of small lesions on grids whose sums are easy, and what does not exist."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from l2snet.errors import InputError
from l2snet.measure.lesions import Rules, label_lesions, longest_diameter_mm, measure_lesions
from l2snet.measure.patient import Measurement, burden, measure
from l2snet.measure.peak import SPHERE_MM, sphere_weights, suv_peak
from l2snet.measure.table import patient_row, write_tables
from l2snet.pipeline import Segmentation
from l2snet.subject import Subject, SuvType
from l2snet.volume import Geometry, Volume

# 4 x 4 x 5 mm (x, y, z): 0.08 ml a voxel; x runs to the left, y to the back, z to the head.
SPACING = (5.0, 4.0, 4.0)
GRID = Geometry((12, 20, 20), SPACING, (-40.0, -40.0, 100.0))
# 70 kg and 1.75 m: 0.007184 * 70^0.425 * 175^0.725 = 1.8481 m2 (Du Bois)
ADULT = Subject(70.0, 1.75, "M")


def case() -> tuple[Segmentation, Volume]:
    """A lesion of 2 x 1 x 3 voxels (x, y, z) of SUV 4 with one voxel of 10, and one voxel of SUV 6 away from it."""
    suv = np.ones(GRID.size, np.float32)
    mask = np.zeros(GRID.size, np.uint8)
    probability = np.zeros(GRID.size, np.float32)
    large = (slice(4, 7), slice(5, 6), slice(8, 10))
    mask[large], suv[large], probability[large] = 1, 4.0, 0.5
    suv[5, 5, 9], probability[5, 5, 9] = 10.0, 0.8
    mask[5, 5, 15], suv[5, 5, 15], probability[5, 5, 15] = 1, 6.0, 0.9
    volumes = (Volume(array, GRID) for array in (mask, probability))
    return Segmentation("case", *volumes, cue=None), Volume(suv, GRID)


def test_every_number_of_a_lesion_by_hand():
    result, suv = case()
    large, small = measure(result, suv).lesions
    assert (large.number, small.number) == (1, 2)
    assert large.volume_ml == pytest.approx(6 * 0.08)
    assert large.suv_max == 10.0
    assert large.suv_mean == pytest.approx(5.0)  # (5 * 4 + 10) / 6
    assert large.tlg == pytest.approx(5.0 * 0.48)
    assert large.probability == pytest.approx((5 * 0.5 + 0.8) / 6)
    # indices z 5, y 5, x 8.5, each times its spacing from the origin
    assert large.centroid_mm == pytest.approx((-40 + 8.5 * 4, -40 + 5 * 4, 100 + 5 * 5))
    assert large.longest_diameter_mm == pytest.approx(math.hypot(8, 4, 15))
    assert small.longest_diameter_mm == pytest.approx(math.hypot(4, 4, 5))  # a voxel's diagonal
    assert (small.volume_ml, small.suv_max, small.suv_mean) == (pytest.approx(0.08), 6.0, 6.0)


def test_every_number_of_a_patient_by_hand():
    result, suv = case()
    found = measure(result, suv, subject=ADULT).burden
    assert found.lesions == 2
    assert found.tmtv_ml == pytest.approx(7 * 0.08)
    assert found.tlg == pytest.approx(2.4 + 0.48)
    assert found.suv_max == 10.0
    assert found.dmax_mm == pytest.approx(6.5 * 4)  # x 8.5 to 15
    assert found.sdmax_per_m == pytest.approx(0.026 / 1.8481, rel=1e-4)


@pytest.mark.parametrize(
    "subject", [None, Subject(70.0), Subject(height_m=1.75), Subject(70.0, 175.0), Subject(0.0, 1.75)]
)
def test_the_standardised_distance_needs_height_and_weight(subject: Subject | None):
    result, suv = case()
    assert measure(result, suv, subject=subject).burden.sdmax_per_m is None


def test_one_lesion_has_no_distance_and_none_has_no_numbers():
    result, suv = case()
    one = measure(result, suv, Rules(smallest_ml=0.09), ADULT).burden
    assert (one.lesions, one.dmax_mm, one.sdmax_per_m) == (1, 0.0, 0.0)
    none = measure(result, suv, Rules(smallest_ml=1.0), ADULT)
    assert none.lesions == ()
    assert patient_row(none) == {
        "lesions": 0,
        "tmtv_ml": 0,
        "tlg": 0,
        "suv_max": None,
        "dmax_mm": None,
        "sdmax_per_m": None,
        "suv_type": "bw",
    }
    assert none.mask.array.sum() == 0


@pytest.mark.parametrize(
    ("rules", "voxels"),
    [
        (Rules(), [6, 1]),
        (Rules(smallest_ml=0.08), [6, 1]),  # as small as that is large enough
        (Rules(smallest_ml=0.081), [6]),
        (Rules(suv_floor=4.0), [6, 1]),
        (Rules(suv_floor=4.1), [1, 1]),  # what is left of each
        (Rules(suv_floor=6.1), [1]),
        (Rules(smallest_ml=0.1, suv_floor=4.1), []),  # the floor comes first
    ],
)
def test_rules_take_voxels_and_lesions_away(rules: Rules, voxels: list[int]):
    result, suv = case()
    found = measure(result, suv, rules)
    assert np.bincount(found.labels.array.ravel())[1:].tolist() == voxels
    assert [round(lesion.volume_ml / 0.08) for lesion in found.lesions] == voxels
    assert found.mask.array.sum() == sum(voxels)


def test_rules_below_zero_are_refused():
    with pytest.raises(InputError, match="smallest lesion of -1"):
        Rules(smallest_ml=-1)
    with pytest.raises(InputError, match="SUV floor of nan"):
        Rules(suv_floor=float("nan"))


def test_edges_join_and_corners_do_not():
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[1, 2, 1] = 1  # each touches the next by an edge
    assert label_lesions(mask, mask, 1.0).max() == 1
    corner = np.zeros((3, 3, 3), np.uint8)
    corner[0, 0, 0] = corner[1, 1, 1] = 1
    assert label_lesions(corner, corner, 1.0).max() == 2


@pytest.mark.parametrize(("count", "kind"), [(3, np.uint8), (300, np.uint16)])
def test_labels_are_of_the_smallest_type_and_in_order_of_size(count: int, kind: type):
    mask = np.zeros((2 * count, 1, 8), np.uint8)
    for n in range(count):
        mask[2 * n, 0, : 1 + n % 8] = 1
    labels = label_lesions(mask, mask, 1.0)
    assert labels.dtype == kind
    sizes = np.bincount(labels.ravel())[1:]
    assert len(sizes) == count
    assert (np.diff(sizes) <= 0).all()
    assert label_lesions(np.zeros_like(mask), mask, 1.0).dtype == np.uint8


# --- SUVpeak ---


def test_the_sphere_holds_one_millilitre():
    assert 4 / 3 * math.pi * SPHERE_MM**3 == pytest.approx(1000.0)
    for spacing in [(3.0, 2.036, 2.036), (5.0, 4.0, 4.0), (1.0, 1.0, 1.0)]:
        weights = sphere_weights(spacing)
        assert weights.sum() == pytest.approx(1.0)
        # The middle voxel lies within the sphere whole: its share is its volume over 1 ml.
        middle = tuple(n // 2 for n in weights.shape)
        assert weights[middle] == pytest.approx(math.prod(spacing) / 1000.0, rel=2e-3)
    assert sphere_weights((20.0, 20.0, 20.0)).tolist() == [[[1.0]]]  # smaller than a voxel


def peak(suv: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float]) -> float:
    (lesion,) = measure_lesions(Volume(label_lesions(mask, suv, 1.0), Geometry(mask.shape, spacing)), suv)
    return lesion.suv_peak


def test_a_hot_voxel_counts_by_its_share_of_the_sphere():
    suv, mask = np.zeros((9, 9, 9), np.float32), np.zeros((9, 9, 9), np.uint8)
    suv[4, 4, 4], mask[4, 4, 4] = 100.0, 1
    assert peak(suv, mask, (4.0, 4.0, 4.0)) == pytest.approx(6.4, rel=2e-3)  # 0.064 ml of 1 ml
    assert peak(suv, mask, (20.0, 20.0, 20.0)) == 100.0


def test_the_sphere_is_centred_in_the_lesion_and_reaches_beyond_it():
    suv, mask = np.full((9, 9, 9), 2.0, np.float32), np.zeros((9, 9, 9), np.uint8)
    mask[4, 4, 3:5] = 1
    assert peak(suv, mask, (4.0, 4.0, 4.0)) == pytest.approx(2.0)
    suv[4, 4, 5] = 102.0  # beside the lesion: 100 more than all else
    share = sphere_weights((4.0, 4.0, 4.0))[2, 2, 3]  # of the neighbour, when the sphere is centred on voxel 4
    assert 0.03 < share < 0.064  # its far corners, 6.6 mm away, lie outside
    assert peak(suv, mask, (4.0, 4.0, 4.0)) == pytest.approx(2.0 + 100 * share)


def test_what_lies_beyond_the_image_does_not_count():
    suv, mask = np.full((6, 6, 6), 3.0, np.float32), np.zeros((6, 6, 6), np.uint8)
    mask[0, 0, 0] = 1
    assert peak(suv, mask, (2.0, 2.0, 2.0)) == pytest.approx(3.0)


def test_the_peak_is_the_highest_sphere_not_that_about_the_highest_voxel():
    suv, mask = np.zeros((9, 9, 21), np.float32), np.zeros((9, 9, 21), np.uint8)
    suv[4, 4, 4] = 20.0  # alone: 1.28
    suv[2:7, 2:7, 12:17] = 10.0  # all of a sphere
    mask[4, 4, 4:15] = 1
    assert peak(suv, mask, (4.0, 4.0, 4.0)) == pytest.approx(10.0)


def test_the_peak_agrees_with_a_sphere_cut_finely():
    """A sphere of random voxels, by counting the centres of 40^3 parts of every voxel."""
    spacing = (3.27, 4.69, 4.69)
    suv = np.random.default_rng(0).uniform(0, 10, (7, 7, 7)).astype(np.float32)
    parts = [((np.arange(7 * 40) + 0.5) / 40 - 3.5) * s for s in spacing]
    within = parts[0][:, None, None] ** 2 + parts[1][:, None] ** 2 + parts[2] ** 2 <= SPHERE_MM**2
    fine = np.repeat(np.repeat(np.repeat(suv, 40, 0), 40, 1), 40, 2)
    mask = np.zeros(suv.shape, np.uint8)
    mask[3, 3, 3] = 1
    box = (slice(3, 4),) * 3
    assert suv_peak(suv, box, mask[box] > 0, spacing) == pytest.approx(float(fine[within].mean()), rel=2e-3)


# --- lengths ---


def test_the_longest_diameter_is_that_of_simpleitk_a_voxel_longer():
    """SimpleITK measures between centres; along a row of voxels that is one voxel less."""
    geometry = Geometry((3, 3, 12), (5.0, 4.0, 2.0))
    row = np.zeros(geometry.size, np.uint8)
    row[1, 1, 2:10] = 1
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputeFeretDiameterOn()
    shape.Execute(Volume(row, geometry).to_sitk())
    assert shape.GetFeretDiameter(1) == pytest.approx(14.0)
    found = longest_diameter_mm(np.argwhere(row), geometry)
    assert found == pytest.approx(math.hypot(14.0 + 2.0, 4.0, 5.0))
    # and of a blob it lies within a voxel's diagonal of SimpleITK's
    index = np.stack(np.indices((21, 21, 21)), -1) - 10
    blob = (((index / (9, 5, 7)) ** 2).sum(-1) <= 1).astype(np.uint8)
    grid = Geometry(blob.shape, (3.0, 2.0, 2.0))
    shape.Execute(Volume(blob, grid).to_sitk())
    found = longest_diameter_mm(np.argwhere(blob), grid)
    assert shape.GetFeretDiameter(1) < found <= shape.GetFeretDiameter(1) + math.hypot(3, 2, 2)


def test_turning_a_scan_moves_centroids_alone():
    result, suv = case()
    turned = Geometry(GRID.size, SPACING, (0.0, 0.0, 0.0), ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0)))
    straight = measure(result, suv, subject=ADULT)
    moved = Segmentation("case", Volume(result.mask.array, turned), Volume(result.probability.array, turned), None)
    other = measure(moved, Volume(suv.array, turned), subject=ADULT)
    assert other.lesions[0].centroid_mm == pytest.approx((-5 * 4, -8.5 * 4, 5 * 5))
    assert patient_row(other) == patient_row(straight)
    assert other.lesions[0].longest_diameter_mm == pytest.approx(straight.lesions[0].longest_diameter_mm)


# --- body ---


def test_body_surface_and_lean_mass():
    assert ADULT.surface_m2 == pytest.approx(1.8481, rel=1e-4)
    # index 70 / 1.75^2 = 22.857: 9270 * 70 / (6680 + 216 * 22.857) and / (8780 + 244 * 22.857)
    assert ADULT.lean_mass_kg == pytest.approx(55.852, rel=1e-4)
    assert Subject(70.0, 1.75, "F").lean_mass_kg == pytest.approx(45.196, rel=1e-4)
    assert ADULT.suv_scale(SuvType.bw) == Subject().suv_scale(SuvType.bw) == 1.0
    assert ADULT.suv_scale(SuvType.lbm) == pytest.approx(55.852 / 70, rel=1e-4)
    assert ADULT.suv_scale(SuvType.bsa) == pytest.approx(18481 / 70000, rel=1e-4)  # cm2 over g


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        (Subject(None, 1.75, "M"), "PatientWeight is missing"),
        (Subject(70.0, None, "M"), "PatientSize is missing"),
        (Subject(70.0, 175.0, "M"), "PatientSize is 175; expected 0.25 to 2.8 m"),
        (Subject(70.0, 1.75), "PatientSex is missing"),
        (Subject(70.0, 1.75, "O"), "PatientSex is O"),
    ],
)
def test_lean_mass_is_refused_by_the_name_of_what_is_missing(subject: Subject, sentence: str):
    with pytest.raises(InputError, match=sentence):
        _ = subject.lean_mass_kg


# --- files ---


def table(folder: Path) -> Measurement:
    result, suv = case()
    found = measure(result, suv, subject=ADULT)
    write_tables(found, {"case": "A 1", "study": "1.2.3"}, folder)
    return found


def test_the_tables_hold_the_numbers(tmp_path: Path):
    found = table(tmp_path)
    with (tmp_path / "lesions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["A 1", "A 1"]
    assert [float(row["volume_ml"]) for row in rows] == [0.48, 0.08]
    assert float(rows[0]["centroid_left_mm"]) == -6.0
    assert float(rows[0]["suv_peak"]) == pytest.approx(found.lesions[0].suv_peak, rel=1e-5)
    with (tmp_path / "patient.csv").open(newline="") as file:
        (patient,) = csv.DictReader(file)
    assert (patient["study"], float(patient["tmtv_ml"]), float(patient["dmax_mm"])) == ("1.2.3", 0.56, 26.0)
    read = json.loads((tmp_path / "measurements.json").read_text("utf-8"))
    assert {k: str(v) for k, v in read["patient"].items()} == patient
    assert [{k: str(v) for k, v in row.items()} for row in read["lesions"]] == rows


def test_a_table_without_lesions_has_its_header_and_empty_cells(tmp_path: Path):
    result, suv = case()
    none = Segmentation("none", result.mask.with_array(np.zeros(GRID.size, np.uint8)), result.probability, None)
    write_tables(measure(none, suv), {"case": "none"}, tmp_path)
    assert (tmp_path / "lesions.csv").read_text("utf-8").splitlines() == [
        "case,number,volume_ml,suv_max,suv_mean,suv_peak,tlg,centroid_left_mm,centroid_posterior_mm,"
        "centroid_superior_mm,longest_diameter_mm,probability"
    ]
    assert (tmp_path / "patient.csv").read_text("utf-8").splitlines()[1] == "none,0,0,0,,,,bw"
    assert burden(()).dmax_mm is None
