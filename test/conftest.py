"""Fixtures that tests share: a small warm body, its axes stored in any order, and the container's folder layout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings

from l2snet.case import Case
from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.volume import Geometry, Volume, write_volume

settings.register_profile("l2snet", deadline=None, max_examples=60, derandomize=True)
# For mutation testing: that a property fails is enough, the simplest example that breaks it is not looked for.
settings.register_profile("mutants", settings.get_profile("l2snet"), phases=(Phase.explicit, Phase.generate))
PROFILE = os.environ.get("L2SNET_HYPOTHESIS", "l2snet")
settings.load_profile(PROFILE)

BODY_SUV, HOT_SUV, BODY_HU, AIR_HU = 1.0, 8.0, 40.0, -1000.0
# For each axis of the reordered array: the axis of the original it was, and its sense.
AXIS_ORDERS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a mutant that one test must fail on, those by example come first: they take less time."""
    if PROFILE == "mutants":
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))


@pytest.fixture(autouse=True)
def torch_seed() -> None:
    """Networks and noise that a test draws are the same whatever ran before it; PyTorch is left alone where unused."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture
def phantom() -> Callable[..., Case]:
    """A factory of cases: a warm ellipsoid that fills 0.8 of every axis, with a hot cube of 4 voxels off its centre."""

    def make(
        geometry: Geometry | None = None, name: str = "11111111-aaaa-4bbb-8ccc-222222222222", with_ct: bool = True
    ) -> Case:
        grid = geometry or Geometry((24, 28, 32), WORKING_SPACING_MM, (-30.0, 20.0, -700.0))
        index = np.stack(np.indices(grid.size), axis=-1)
        centre = (np.array(grid.size) - 1) / 2
        inside = (((index - centre) / (0.4 * np.array(grid.size))) ** 2).sum(axis=-1) < 1
        suv = np.where(inside, BODY_SUV, 0.0).astype(np.float32)
        suv[tuple(slice(n // 2 + 1, n // 2 + 5) for n in grid.size)] = HOT_SUV
        hu = np.where(inside, BODY_HU, AIR_HU).astype(np.float32)
        return Case(name, Volume(suv, grid), Volume(hu, grid) if with_ct else None)

    return make


@pytest.fixture(params=AXIS_ORDERS, ids=lambda order: "".join(f"{'-+'[s > 0]}{a}" for a, s in zip(*order, strict=True)))
def reorder(request: pytest.FixtureRequest) -> Callable[[Volume], Volume]:
    """Store the same voxels, at the same places, in each of the 48 orders and senses of the axes."""
    axes, signs = request.param

    def apply(volume: Volume) -> Volume:
        old = volume.geometry
        flips = tuple(slice(None, None, sign) for sign in signs)
        first = np.zeros(3)
        for axis, sign in zip(axes, signs, strict=True):
            first[axis] = old.size[axis] - 1 if sign < 0 else 0
        matrix = np.array(old.direction)[:, axes] * signs
        geometry = Geometry(
            size=tuple(old.size[a] for a in axes),
            spacing_mm=tuple(old.spacing_mm[a] for a in axes),
            origin_mm=tuple(old.origin_mm + np.array(old.direction) @ (first * old.spacing_mm)),
            direction=tuple(tuple(row) for row in matrix),
        )
        return Volume(volume.array.transpose(axes)[flips], geometry)

    return apply


@pytest.fixture
def write_case() -> Callable[[Path, Case], Path]:
    """Write a case into a folder as the platform lays it out; the CT's file has the case's name."""

    def write(folder: Path, case: Case) -> Path:
        write_volume(case.suv, folder / "images" / "pet" / "33333333-pet.mha", compress=False)
        if case.ct is not None:
            write_volume(case.ct, folder / "images" / "ct" / f"{case.name}.mha", compress=False)
        return folder

    return write
