"""Cases as the networks see them, on disk as plain arrays, so that training reads crops and never whole volumes."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.organs import OrganClass
from l2snet.preprocess import Body, prepare
from l2snet.volume import Array, Geometry

logger = logging.getLogger(__name__)
DONE = "case.json"
# Normal uptake that could be taken for tumour: hotter than this.
HOT_SUV = 3.0
HOT_STEPS = (2, 3, 3)


@dataclass(frozen=True)
class CachedCase:
    """A folder of memory-mapped (z, y, x) arrays on the working grid, cut to the body box.

    `cue_name` is the file of the location cue; each localizer has its own. `source` numbers the data folder that the
    case is from, and `patient` is the name of the patient's folder there ("": the patient goes by the case's name).
    """

    folder: Path
    cue_name: str = "cue"
    source: int = 0
    patient: str = ""

    @property
    def name(self) -> str:
        """The case's name."""
        return self.folder.name

    @property
    def is_whole(self) -> bool:
        """Whether the case was written to its end."""
        return (self.folder / DONE).is_file()

    @property
    def record(self) -> dict[str, Any]:
        """`case.json`: `source`, `geometry` and `donors`."""
        record: dict[str, Any] = json.loads((self.folder / DONE).read_text("utf-8"))
        return record

    @cached_property
    def suv(self) -> Array:
        """SUV, float16."""
        return _mapped(self.folder / "suv.npy")

    @cached_property
    def ct(self) -> Array | None:
        """HU, int16; None where the case has no CT."""
        path = self.folder / "ct.npy"
        return _mapped(path) if path.is_file() else None

    @cached_property
    def lesions(self) -> Array:
        """Lesion mask, uint8."""
        return _mapped(self.folder / "lesions.npy")

    @property
    def has_lesions(self) -> bool:
        """Whether it has any lesion voxel."""
        return bool(self.lesions.any())

    @cached_property
    def organs(self) -> Array | None:
        """Labels of `OrganClass`, uint8; None where the case has none."""
        path = self.folder / "organs.npy"
        return _mapped(path) if path.is_file() else None

    @property
    def donors(self) -> list[str]:
        """Names of the cases whose tumours it may hold: it is synthetic, with real tumours."""
        donors: list[str] = self.record.get("donors", [])
        return donors

    @property
    def cue_path(self) -> Path:
        """Where the cue lies."""
        return self.folder / f"{self.cue_name}.npy"

    @cached_property
    def cue(self) -> Array | None:
        """The localizer's probability, float16; None before `l2snet train segmenter` has computed it."""
        path = self.cue_path
        return _mapped(path) if path.is_file() else None

    @cached_property
    def lesion_voxels(self) -> Array:
        """(n, 3) int16 indices of lesion voxels."""
        return np.argwhere(self.lesions).astype(np.int16)

    @cached_property
    def hot_voxels(self) -> list[Array]:
        """`hot_voxels` of the case."""
        return hot_voxels(self.suv, self.lesions)

    def body(self) -> Body:
        """The arrays as inference takes them; every voxel of the box is body."""
        ct = None if self.ct is None else self.ct.astype(np.float32)
        stored = self.record["geometry"]
        geometry = Geometry(**{name: _tuples(value) for name, value in stored.items()})
        return Body(self.suv.astype(np.float32), ct, np.ones(self.suv.shape, bool), geometry)


def write_case(case: Case, root: Path, source: str = "", donors: Sequence[str] = ()) -> CachedCase:
    """Write one case aside and rename it, so that a folder of its name is always whole.

    Parameters
    ----------
    source : where the case comes from; kept, so that another case of the same name is told apart.
    donors : names of the cases whose tumours it may hold.

    Raises
    ------
    InputError : the case has no lesion mask, or a folder that is no cached case has its name.
    """
    folder = root / case.name
    if folder.exists() and not CachedCase(folder).is_whole:
        raise InputError(f"{folder} is not a cached case and is left alone; choose another folder with --cache")
    arrays, geometry = training_arrays(case)
    aside = root / f".{case.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(aside / f"{name}.npy", array)
    stored = {name: getattr(geometry, name) for name in ("size", "spacing_mm", "origin_mm", "direction")}
    (aside / DONE).write_text(json.dumps({"source": source, "geometry": stored, "donors": list(donors)}), "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    logger.info("cached %s: %s", case.name, geometry)
    return CachedCase(folder)


def hot_voxels(suv: Array, lesions: Array) -> list[Array]:
    """Indices of voxels that are hot and not lesion, (n, 3) int16 for each axial slice that has some.

    Every second slice, and every third row and column of it.

    Parameters
    ----------
    suv, lesions : (z, y, x), SUV and 0 or 1.
    """
    z, y, x = HOT_STEPS
    hot = (suv[::z, ::y, ::x] > HOT_SUV) & (lesions[::z, ::y, ::x] == 0)
    voxels = (np.argwhere(hot) * HOT_STEPS).astype(np.int16)
    return np.split(voxels, np.flatnonzero(np.diff(voxels[:, 0])) + 1) if len(voxels) else []


def training_arrays(case: Case) -> tuple[dict[str, Array], Geometry]:
    """What training keeps of a case, on the working grid, cut to the body box.

    Returns
    -------
    `suv` (float16), `ct` (int16 HU, where the case has one), `lesions` (uint8) and `organs` (uint8, where the case has
    them), each (z, y, x), and their grid.

    Raises
    ------
    InputError : the case has no lesion mask.
    """
    if case.lesions is None:
        raise InputError(f"case {case.name} has no lesion mask; training needs one")
    body = prepare(case)
    lesions = case.lesions.with_array(case.lesions.array.astype(np.float32)).to_grid(body.geometry, outside=0.0)
    arrays = {"suv": body.suv.astype(np.float16)}
    if body.ct is not None:
        arrays["ct"] = np.clip(np.rint(body.ct), -1024, 3071).astype(np.int16)
    arrays["lesions"] = (lesions.array >= 0.5).astype(np.uint8)
    if case.organs is not None:
        organs = case.organs.with_array(case.organs.array.astype(np.uint8))
        arrays["organs"] = organs.to_grid(body.geometry, outside=OrganClass.OUTSIDE, nearest=True).array
    return arrays, body.geometry


def _mapped(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r")
    return array


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
