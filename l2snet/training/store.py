"""Cases in one LMDB file, compressed in chunks, so that a crop is read without its volume (Liu et al., section 2.4).

No pickle: a value is either JSON or one chunk of an array, its bytes sorted by significance and compressed with
Zstandard, which also checks them. Each case is one transaction and the list of all cases is written first: a store
whose writing was stopped says so when it is opened, and goes on where it was.

    store            {"format": 2, "cases": {name: where it came from}}
    case/<name>      {"number": 7, "geometry": {...},
                      "arrays": {"suv": {"dtype": "<f2", "shape": [...], "chunk": [...]}, ...}}
    7/suv/31         chunk 31 (counted along the last axis first) of case 7's suv
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import zstandard

from l2snet.case import Case
from l2snet.errors import InputError
from l2snet.training.cache import hot_voxels, training_arrays
from l2snet.training.surroundings import surroundings
from l2snet.volume import Array

logger = logging.getLogger(__name__)

FORMAT = 2
STORE = b"store"
# (z, y, x); a crop of 32 x 160 x 160 touches some fifty of them.
CHUNK = (16, 64, 64)
# Indices of voxels are read one at a time.
VOXELS_CHUNK = (8192, 3)
LEVEL = 3
# Of the hot voxels of an axial slice: the brain has more of them than all the rest.
HOT_PER_SLICE = 32
# The file grows with its content; the map that bounds it is doubled whenever it is full.
FIRST_MAP_BYTES = 2**30


@dataclass(frozen=True)
class ChunkedArray:
    """An array in a store; `array[slices]` reads the chunks that the slices meet.

    Attributes
    ----------
    path : of the store.
    prefix : of its chunks' keys.
    """

    path: Path
    prefix: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        """A new array; `key` has a slice without step for every axis.

        Raises
        ------
        InputError : the store is damaged.
        """
        bounds = [s.indices(n)[:2] for s, n in zip(key, self.shape, strict=True)]
        out = np.empty([max(0, stop - start) for start, stop in bounds], self.dtype)
        if not out.size:
            return out
        touched = [range(start // c, -(-stop // c)) for (start, stop), c in zip(bounds, self.chunk, strict=True)]
        with _reading(self.path) as transaction:
            for index in product(*touched):
                origin = [i * c for i, c in zip(index, self.chunk, strict=True)]
                part = self._decode(transaction.get(self._key(index)), index)
                source, target = [], []
                for (start, stop), at, n in zip(bounds, origin, part.shape, strict=True):
                    low, high = max(start, at), min(stop, at + n)
                    source.append(slice(low - at, high - at))
                    target.append(slice(low - start, high - start))
                out[tuple(target)] = part[tuple(source)]
        return out

    def whole(self) -> Array:
        """All of it."""
        return self[(slice(None),) * self.ndim]

    def write(self, transaction: Any, array: Array) -> None:
        """Put all chunks of `array`, of this shape."""
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        for index in product(*(range(-(-n // c)) for n, c in zip(self.shape, self.chunk, strict=True))):
            part = array[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, self.chunk, strict=True))]
            raw = np.ascontiguousarray(part, self.dtype).view(np.uint8).reshape(-1, self.dtype.itemsize)
            transaction.put(self._key(index), compressor.compress(raw.T.tobytes()))

    def _decode(self, value: Any, index: tuple[int, ...]) -> Array:
        size = [min(c, n - i * c) for i, c, n in zip(index, self.chunk, self.shape, strict=True)]
        length = prod(size) * self.dtype.itemsize
        try:
            if value is None:
                raise ValueError("it is missing")
            raw = zstandard.ZstdDecompressor().decompress(value, max_output_size=length)
            if len(raw) != length:
                raise ValueError(f"it has {len(raw)} bytes instead of {length}")
        except (zstandard.ZstdError, ValueError) as error:
            where = self._key(index).decode()
            raise InputError(f"{self.path} is damaged at {where} ({error}); copy it again, or write it anew") from error
        *others, highest = np.frombuffer(raw, np.uint8).reshape(self.dtype.itemsize, -1)
        words = highest.astype(f"<u{self.dtype.itemsize}")  # faster than to transpose the bytes
        for plane in reversed(others):
            words <<= 8
            words |= plane
        values: Array = words.view(self.dtype).reshape(size)
        return values

    def _key(self, index: tuple[int, ...]) -> bytes:
        counts = tuple(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))
        return f"{self.prefix}/{np.ravel_multi_index(index, counts)}".encode()


@dataclass(frozen=True)
class StoredCase:
    """A case of a store: (z, y, x) arrays on the working grid, cut to the body box, read by slices.

    Attributes
    ----------
    suv : SUV, float16.
    ct : HU, int16; None where the case has none.
    levels : uint8, the lesions and their surroundings (`l2snet.training.surroundings`).
    lesion_voxels : (n, 3) int16 indices of lesion voxels.
    hot_voxels : (n, 3) int16 indices of voxels that are hot and not lesion, as many of each axial slice that has any.
    source : number of the data folder or store that the case is from.
    patient : name of the patient's folder there; "" where the patient goes by the case's name.
    donors : names of the cases whose tumours it may hold: it is synthetic, with real tumours.
    """

    name: str
    suv: ChunkedArray
    ct: ChunkedArray | None
    levels: ChunkedArray
    lesion_voxels: ChunkedArray
    hot_voxels: ChunkedArray
    source: int = 0
    donors: tuple[str, ...] = ()
    patient: str = ""

    @property
    def has_lesions(self) -> bool:
        """Whether it has any lesion voxel."""
        return self.lesion_voxels.shape[0] > 0


def open_store(path: Path, source: int = 0) -> list[StoredCase]:
    """The cases of a store, in order of name; their arrays are read when they are sliced.

    A case may be used in, and sent to, other processes: each opens the file for itself.

    Raises
    ------
    InputError : it is no store, is not finished, or is damaged.
    """
    with _reading(path) as transaction:
        names = _names(transaction, path)
        missing = [name for name in names if transaction.get(_case_key(name)) is None]
        if missing:
            raise InputError(
                f"{path} is not finished: {len(missing)} of its {len(names)} cases are missing; "
                "give the same l2snet prepare lmdb command again"
            )
        records = {name: bytes(transaction.get(_case_key(name))) for name in names}
    try:
        return [_case(path, name, json.loads(record), source) for name, record in sorted(records.items())]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); copy it again, or write it anew") from error


def start_store(path: Path, cases: Mapping[str, str]) -> set[str]:
    """Begin a store of these cases (name to where it comes from), or go on with it; returns the names that it holds.

    Raises
    ------
    InputError : there is a file that is no store, or a store of other cases.
    """
    record = json.dumps({"format": FORMAT, "cases": dict(sorted(cases.items()))})
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        with _writing(path) as environment, environment.begin(write=True) as transaction:
            transaction.put(STORE, record.encode())
        return set()
    with _reading(path) as transaction:
        _names(transaction, path)
        if json.loads(bytes(transaction.get(STORE))) != json.loads(record):
            raise InputError(f"{path} was begun with other cases or settings; remove it, or choose another file")
        return {name for name in cases if transaction.get(_case_key(name)) is not None}


def write_stored(case: Case, path: Path, donors: Sequence[str] = (), patient: str = "") -> None:
    """Add a case to a store that was started, all of it or nothing.

    Parameters
    ----------
    donors, patient : see `StoredCase`.

    Raises
    ------
    InputError : the case has no lesion mask.
    """
    arrays, geometry = training_arrays(case)
    arrays.pop("organs", None)
    lesions = arrays.pop("lesions")
    arrays["levels"] = surroundings(lesions)
    arrays["lesion_voxels"] = np.argwhere(lesions).astype(np.int16)
    slices = hot_voxels(arrays["suv"], lesions)
    arrays["hot_voxels"] = np.concatenate([_some(one) for one in slices]) if slices else np.empty((0, 3), np.int16)
    with _writing(path) as environment:
        while True:
            try:
                with environment.begin(write=True) as transaction:
                    number = sum(1 for _ in _case_names(transaction))
                    described = {}
                    for name, array in arrays.items():
                        chunk = VOXELS_CHUNK if array.ndim == 2 else CHUNK
                        stored = ChunkedArray(path, f"{number}/{name}", array.shape, array.dtype, chunk)
                        stored.write(transaction, array)
                        described[name] = {"dtype": array.dtype.str, "shape": array.shape, "chunk": chunk}
                    grid = {n: getattr(geometry, n) for n in ("size", "spacing_mm", "origin_mm", "direction")}
                    whose = {"donors": list(donors), "patient": patient}
                    record = {"number": number, "geometry": grid, "arrays": described, **whose}
                    transaction.put(_case_key(case.name), json.dumps(record).encode())
            except lmdb.MapFullError:
                environment.set_mapsize(2 * environment.info()["map_size"])
            else:
                break
    logger.info("stored %s: %s", case.name, geometry)


def _some(voxels: Array) -> Array:
    """`HOT_PER_SLICE` of them, (n, 3), evenly; some twice where there are fewer."""
    some: Array = voxels[np.linspace(0, len(voxels) - 1, HOT_PER_SLICE).astype(int)]
    return some


def _case(path: Path, name: str, record: Mapping[str, Any], source: int) -> StoredCase:
    arrays = {
        array: ChunkedArray(
            path,
            f"{record['number']}/{array}",
            tuple(fields["shape"]),
            np.dtype(fields["dtype"]),
            tuple(fields["chunk"]),
        )
        for array, fields in record["arrays"].items()
    }
    images = arrays["suv"], arrays.get("ct"), arrays["levels"], arrays["lesion_voxels"], arrays["hot_voxels"]
    return StoredCase(name, *images, source, tuple(record.get("donors", [])), record.get("patient", ""))


def _names(transaction: Any, path: Path) -> list[str]:
    try:
        record = json.loads(bytes(transaction.get(STORE) or b"null"))
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']}, and this program reads {FORMAT}; remove it")
        return list(record["cases"])
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a store of l2snet ({error}); write one with l2snet prepare lmdb") from error


def _case_key(name: str) -> bytes:
    return f"case/{name}".encode()


def _case_names(transaction: Any) -> Iterator[bytes]:
    cursor = transaction.cursor()
    if cursor.set_range(b"case/"):
        for key in cursor.iternext(values=False):
            if not bytes(key).startswith(b"case/"):
                return
            yield bytes(key)


@lru_cache(maxsize=64)
def _environment(path: Path) -> Any:
    """The store, open for reading. Nobody writes to a finished store, so no lock is taken."""
    if not path.is_file():
        raise InputError(f"there is no store {path}; write one with l2snet prepare lmdb")
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_readers=1, create=False)
    except lmdb.Error as error:
        raise InputError(f"{path} is not a store of l2snet ({error}); write one with l2snet prepare lmdb") from error
    pages = environment.info()["last_pgno"] + 1
    if path.stat().st_size < pages * environment.stat()["psize"]:
        environment.close()
        raise InputError(f"{path} is shorter than it was written; copy it again")
    return environment


# What is open must not cross a fork; both processes open it again when they read.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_environment.cache_clear)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """A transaction on the store as it is now; what it gives are views that end with it."""
    try:
        with _environment(path).begin(buffers=True) as transaction:
            yield transaction
    except lmdb.Error as error:
        raise InputError(f"{path} is damaged ({error}); copy it again, or write it anew") from error


@contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """The store, open for writing by this process alone."""
    _environment.cache_clear()  # a process may have a store open once
    environment = lmdb.open(str(path), subdir=False, map_size=max(FIRST_MAP_BYTES, _size(path)), max_readers=1)
    try:
        yield environment
    finally:
        environment.close()


def _size(path: Path) -> int:
    return 2 * path.stat().st_size if path.is_file() else 0
