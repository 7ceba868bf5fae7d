"""What a case refuses, and what it must not refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.volume import Geometry, Volume

Phantom = Callable[..., Case]


def suv_changed(case: Case, change: Callable[[np.ndarray], np.ndarray]) -> Case:
    return Case(case.name, case.suv.with_array(change(case.suv.array)), case.ct)


def ct_changed(case: Case, change: Callable[[np.ndarray], np.ndarray]) -> Case:
    assert case.ct is not None
    return Case(case.name, case.suv, case.ct.with_array(change(case.ct.array)))


def test_a_plausible_case_is_accepted(phantom: Phantom):
    case = phantom()
    assert case.geometry is case.suv.geometry


def test_a_ct_given_as_pet_is_refused(phantom: Phantom):
    case = phantom()
    assert case.ct is not None
    with pytest.raises(InputError, match="lowest value is -1000; expected SUV, which is not negative: is this the CT"):
        Case("name", case.ct)
    assert suv_changed(case, lambda a: a - 0.1).suv.array.min() < 0  # reconstruction leaves small negative values


def test_a_case_may_do_without_ct(phantom: Phantom):
    assert phantom(with_ct=False).ct is None


def test_a_ct_on_another_grid_is_refused_with_both_grids_and_the_remedy(phantom: Phantom):
    case = phantom()
    other = Geometry((30, 40, 50), (5.0, 1.0, 0.9), (1.0, 2.0, 3.0))
    with pytest.raises(InputError) as refusal:
        Case("name", case.suv, Volume(np.zeros(other.size, np.float32), other))
    sentence = str(refusal.value)
    assert sentence.startswith("the CT (")
    assert str(other) in sentence
    assert str(case.geometry) in sentence
    assert "--resample-ct" in sentence


@pytest.mark.parametrize(("apart_mm", "same"), [(0.2, True), (0.21, False)])
def test_grids_may_differ_by_a_tenth_of_a_voxel(phantom: Phantom, apart_mm: float, same: bool):
    case = phantom()
    assert case.ct is not None
    left, posterior, superior = case.geometry.origin_mm
    moved = replace(case.geometry, origin_mm=(left, posterior + apart_mm, superior))  # a tenth of 2.036 mm
    ct = Volume(case.ct.array, moved)
    if same:
        assert Case("name", case.suv, ct).ct is ct
    else:
        with pytest.raises(InputError, match="not on the PET's grid"):
            Case("name", case.suv, ct)


def test_a_lesion_mask_on_another_grid_is_refused(phantom: Phantom):
    case = phantom()
    other = case.geometry.crop((0, 0, 1), case.geometry.size)
    with pytest.raises(InputError, match=r"the lesion mask .* not on the PET's grid") as refusal:
        Case("name", case.suv, case.ct, Volume(np.zeros(other.size, np.uint8), other))
    assert "--resample-ct" not in str(refusal.value)


@pytest.mark.parametrize("size", [(1, 28, 32), (24, 1, 32), (24, 28, 1)])
def test_one_slice_is_refused(size: tuple[int, int, int]):
    with pytest.raises(InputError, match="one slice thick"):
        Case("name", Volume(np.ones(size, np.float32), Geometry(size)))


def test_two_slices_are_accepted():
    array = np.linspace(0, 5, 2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8)
    assert Case("name", Volume(array, Geometry((2, 8, 8)))).geometry.size == (2, 8, 8)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda suv: -suv - 1, r"no positive voxel \(highest -1\)"),
        (lambda suv: suv * 0, r"no positive voxel \(highest 0\)"),
        (lambda suv: suv * 5000, "median over the body is 5000, which looks like Bq/ml"),
        (lambda suv: suv * 0.01, "highest value is 0.08; expected SUV"),
        (lambda suv: suv * 0 + 5000, "Bq/ml"),
        (lambda suv: np.where(suv > 4, np.nan, suv), "PET has voxels that are not a number"),
        (lambda suv: np.where(suv > 4, np.inf, suv), "PET has voxels that are not a number or infinite"),
    ],
    ids=["negative", "zero", "Bq/ml", "too cold", "constant Bq/ml", "NaN", "infinite"],
)
def test_a_pet_that_cannot_be_suv_is_refused(phantom: Phantom, change: Callable, sentence: str):
    with pytest.raises(InputError, match=sentence):
        suv_changed(phantom(), change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda hu: hu + 1024, "lowest value is 24; .*was 1024 added"),
        (lambda hu: np.where(hu < -500, -3024, hu + 1024), "median over the body is 1064; .*was 1024 added"),
        (lambda hu: (hu + 1000) / 2000, "span 0 to 0.52, too little for HU"),
        (np.zeros_like, "span 0 to 0, too little for HU"),
        (lambda hu: hu * 0 - 1024, "span -1024 to -1024, too little for HU"),
        (lambda hu: np.where(hu > 0, np.nan, hu), "CT has voxels that are not a number"),
    ],
    ids=["+1024", "+1024 with padding", "0..1", "constant 0", "all air", "NaN"],
)
def test_a_ct_that_cannot_be_hu_is_refused(phantom: Phantom, change: Callable, sentence: str):
    with pytest.raises(InputError, match=sentence) as refusal:
        ct_changed(phantom(), change)
    assert "--pet-only" in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda hu: np.where(hu < -500, -3024, hu),
        lambda hu: hu.astype(np.int16),
        lambda hu: np.where(np.arange(hu.size).reshape(hu.shape) % 1000 == 0, 3071, hu),
        lambda hu: np.where(hu < -500, -100, np.where(np.indices(hu.shape)[0] > 12, 1200, 40)),
    ],
    ids=["padding of -3024", "int16", "metal", "crop of fat, soft tissue and bone"],
)
def test_plausible_cts_are_accepted(phantom: Phantom, change: Callable):
    assert ct_changed(phantom(), change).ct is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda suv: suv + 10,
        lambda suv: suv * 8,
        lambda suv: suv * 0.3,
        lambda suv: suv - 0.05,
        lambda suv: np.where(suv == 8, 120, suv),
    ],
    ids=["crop of a hot tumour", "very hot", "cool", "negative noise in air", "bladder of SUV 120"],
)
def test_plausible_pets_are_accepted(phantom: Phantom, change: Callable):
    assert suv_changed(phantom(), change).suv.array.max() > 0
