"""The LMDB store: crops as they were written, whatever reads them; what is broken says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from pickle import dumps
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2snet.case import Case
from l2snet.cli import main
from l2snet.errors import InputError
from l2snet.prepare.store import prepare_store
from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.sources.autopet import read_study
from l2snet.training import store
from l2snet.training.cache import HOT_SUV, training_arrays
from l2snet.training.datasets import read_crop
from l2snet.training.store import HOT_PER_SLICE, StoredCase, open_store, start_store, write_stored
from l2snet.training.surroundings import surroundings
from l2snet.training.train import learnt_from
from l2snet.volume import Array, Geometry, Volume, write_volume

SIZE = (37, 70, 83)  # no multiple of the chunks
GRID = Geometry(SIZE, WORKING_SPACING_MM)


def make_case(name: str, lesion: bool = True, with_ct: bool = True, size: tuple[int, int, int] = SIZE) -> Case:
    rng = np.random.default_rng(len(name))
    grid = replace(GRID, size=size)
    lesions = np.zeros(size, np.uint8)
    if lesion:
        lesions[3:6, 4:7, 5:8] = 1
    suv = rng.uniform(0.5, 30, size).astype(np.float32)
    ct = Volume(rng.uniform(-1000, 1000, size).astype(np.float32), grid) if with_ct else None
    return Case(name, Volume(suv, grid), ct, Volume(lesions, grid))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of `one` (lesion, CT) and `two` (neither)."""
    path = tmp_path_factory.mktemp("store") / "cases.lmdb"
    start_store(path, {"one": "here", "two": "there"})
    for case in (make_case("one"), make_case("two", lesion=False, with_ct=False)):
        write_stored(case, path)
    return path


# What is in it


def test_it_holds_what_training_needs(path: Path) -> None:
    one, two = open_store(path, source=3)
    arrays, _ = training_arrays(make_case("one"))
    assert (one.name, two.name, one.source, two.source) == ("one", "two", 3, 3)
    assert one.ct is not None
    np.testing.assert_array_equal(one.suv.whole(), arrays["suv"])
    np.testing.assert_array_equal(one.ct.whole(), arrays["ct"])
    np.testing.assert_array_equal(one.levels.whole(), surroundings(arrays["lesions"]))
    np.testing.assert_array_equal(one.lesion_voxels.whole(), np.argwhere(arrays["lesions"]))
    hot = {tuple(voxel) for voxel in np.argwhere((arrays["suv"] > HOT_SUV) & (arrays["lesions"] == 0))}
    voxels = one.hot_voxels.whole()
    assert {tuple(voxel) for voxel in voxels} <= hot
    assert set(np.bincount(voxels[:, 0])) <= {0, HOT_PER_SLICE}  # no slice outweighs another
    assert (one.suv.dtype, one.ct.dtype, one.levels.dtype) == (np.float16, np.int16, np.uint8)
    assert (one.has_lesions, two.has_lesions) == (True, False)
    assert two.ct is None
    assert not two.levels.whole().any()


@pytest.fixture(scope="module")
def whole() -> Array:
    return training_arrays(make_case("one"))[0]["suv"]


BOUNDS = st.tuples(*(st.tuples(st.integers(-5, n + 5), st.integers(0, 70)) for n in SIZE))


@given(BOUNDS)
def test_any_crop_is_that_of_the_array(path: Path, whole: Array, bounds: tuple[tuple[int, int], ...]) -> None:
    one = open_store(path)[0]
    start, size = zip(*bounds, strict=True)
    crop = read_crop(one.suv, start, size, outside=-1.0)
    np.testing.assert_array_equal(crop, read_crop(whole, start, size, outside=-1.0))


def test_only_the_chunks_of_the_crop_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    decode = store.ChunkedArray._decode
    monkeypatch.setattr(
        store.ChunkedArray, "_decode", lambda self, value, index: read.append(index) or decode(self, value, index)
    )
    z, y, x = store.CHUNK
    one = open_store(path)[0]
    one.suv[z : 2 * z, 0:y, x - 1 : x + 1]
    assert read == [(1, 0, 0), (1, 0, 1)]


def test_nothing_in_it_is_a_pickle(path: Path) -> None:
    text = path.read_bytes()
    assert b"numpy" not in text
    assert dumps(np.zeros(1))[:2] not in text[:64]


# Several processes


def of_array(array: store.ChunkedArray) -> float:
    return float(array.whole().astype(np.float64).sum())


def stored_cases(*arguments: Any) -> list[StoredCase]:
    """Imported late: the processes started here do without PyTorch."""
    from l2snet.training.step_by_step import stored_cases

    return stored_cases(*arguments)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_read_at_once(path: Path, method: str) -> None:
    """An array that was read here, and so is open, is sent to the others; this process reads on."""
    array = open_store(path)[0].suv
    expected = of_array(array)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        futures = [pool.submit(of_array, array) for _ in range(4)]
        assert of_array(array) == expected
        assert [future.result() for future in futures] == [expected] * 4


# What is broken


def test_a_store_that_was_stopped_says_so_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "cases.lmdb"
    cases = {"a": "x", "b": "y"}
    assert start_store(path, cases) == set()
    write_stored(make_case("a"), path)
    with pytest.raises(InputError, match=r"not finished: 1 of its 2 cases.*again"):
        open_store(path)
    assert start_store(path, cases) == {"a"}
    write_stored(make_case("b"), path)
    assert [case.name for case in open_store(path)] == ["a", "b"]


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_step_by_step_store import make_case
from l2snet.training import store
names = [f"case{n:03d}" for n in range(200)]
store.start_store(Path(sys.argv[1]), dict.fromkeys(names, "x"))
print("begun", flush=True)
for name in names:
    store.write_stored(make_case(name), Path(sys.argv[1]))
"""


def test_a_killed_writer_leaves_whole_cases_alone(tmp_path: Path) -> None:
    """Killed without warning in the midst of writing: every case that is listed is right to the voxel."""
    path = tmp_path / "cases.lmdb"
    arguments = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        while path.stat().st_size < 3e6 and writer.poll() is None:
            time.sleep(0.01)
        os.kill(writer.pid, signal.SIGKILL)
    names = {f"case{n:03d}": "x" for n in range(200)}
    with pytest.raises(InputError, match="not finished"):
        open_store(path)
    done = start_store(path, names)
    assert 0 < len(done) < 200
    expected = training_arrays(make_case("case000"))[0]["suv"]
    with store._reading(path) as transaction:
        for name in done:
            record = store.json.loads(bytes(transaction.get(f"case/{name}".encode())))
            np.testing.assert_array_equal(store._case(path, name, record, 0).suv.whole(), expected)


def damaged(path: Path, tmp_path: Path, key: bytes, change: Callable[[bytes], bytes | None]) -> Path:
    """A copy of the store, one value changed or taken out."""
    copy = tmp_path / "copy.lmdb"
    copy.write_bytes(path.read_bytes())
    with lmdb.open(str(copy), subdir=False, map_size=2**30) as environment, environment.begin(write=True) as txn:
        value = change(bytes(txn.get(key)))
        if value is None:
            txn.delete(key)
        else:
            txn.put(key, value)
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda value: value[:-9] + b"!" + value[-8:], "damaged", id="a byte"),
        pytest.param(lambda value: value[: len(value) // 2], "damaged", id="half"),
        pytest.param(lambda value: None, "it is missing", id="gone"),
        pytest.param(lambda value: store.zstandard.ZstdCompressor().compress(b"short"), "5 bytes", id="another"),
    ],
)
def test_a_damaged_chunk_is_refused(
    path: Path, tmp_path: Path, change: Callable[[bytes], bytes | None], words: str
) -> None:
    one = open_store(damaged(path, tmp_path, b"0/suv/1", change))[0]
    with pytest.raises(InputError, match=rf"copy\.lmdb is damaged at 0/suv/1.*{words}|{words}.*copy it again"):
        one.suv.whole()


@pytest.mark.parametrize("key", [b"store", b"case/one"])
def test_a_damaged_record_is_refused(path: Path, tmp_path: Path, key: bytes) -> None:
    with pytest.raises(InputError, match=r"not a store|is damaged"):
        open_store(damaged(path, tmp_path, key, lambda value: value[:-3]))


def test_another_format_is_refused(path: Path, tmp_path: Path) -> None:
    newer = damaged(path, tmp_path, b"store", lambda value: value.replace(b'"format": 2', b'"format": 1'))
    with pytest.raises(InputError, match="its format is 1"):
        open_store(newer)


def test_a_store_cut_short_is_refused(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.lmdb"
    copy.write_bytes(path.read_bytes()[:-40960])
    with pytest.raises(InputError, match="shorter than it was written"):
        open_store(copy)


@pytest.mark.parametrize("content", [b"", b"some text\n" * 1000])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.lmdb"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a store"):
        open_store(path)
    with pytest.raises(InputError, match="there is no store"):
        open_store(tmp_path / "none.lmdb")


def test_a_file_that_is_too_small_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_MAP_BYTES", 65536)
    path = tmp_path / "cases.lmdb"
    start_store(path, {"a": "x"})
    write_stored(make_case("a"), path)
    (case,) = open_store(path)
    np.testing.assert_array_equal(case.suv.whole(), training_arrays(make_case("a"))[0]["suv"])


# From studies


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Studies `a` and `b` as they lie on disk."""
    for name, lesion in (("a", True), ("b", False)):
        case = make_case(name, lesion, size=(20, 22, 24))
        assert case.ct is not None
        assert case.lesions is not None
        for volume, file in ((case.suv, "SUV"), (case.ct, "CTres"), (case.lesions, "SEG")):
            write_volume(volume, tmp_path / "data" / name / f"{file}.nii.gz", compress=True)
    return tmp_path / "data"


def test_the_command_writes_a_store_and_keeps_it(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "store.lmdb"
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["prepare", "lmdb", str(data), str(path)])
        assert ended.value.code == 0
    assert [(case.name, case.has_lesions) for case in open_store(path)] == [("a", True), ("b", False)]


def test_a_store_of_other_studies_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.lmdb"
    prepare_store([data], path)
    (data / "b").rename(data / "c")
    with pytest.raises(InputError, match="other cases or settings"):
        prepare_store([data], path)


def test_training_takes_stores_and_folders(data: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "store.lmdb", tmp_path / "cache"
    prepare_store([data], path)
    assert [case.name for case in stored_cases([path], cache)] == ["a", "b"]
    assert not cache.exists()
    from_folder = stored_cases([data], cache, {"a"})
    assert [case.name for case in from_folder] == ["b"]
    assert from_folder[0].suv.path.parent == cache


@pytest.mark.parametrize(
    ("hold_out", "words"), [({"x"}, "x cannot be held out"), ({"a", "b"}, "nothing is left to train on")]
)
def test_a_hold_out_that_makes_no_sense_is_refused(data: Path, tmp_path: Path, hold_out: set[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        stored_cases([data], tmp_path / "cache", hold_out)


def test_a_case_in_two_stores_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.lmdb"
    prepare_store([data], path)
    with pytest.raises(InputError, match=r"two cases are named a, in .*store.lmdb and in .*; rename one"):
        stored_cases([path, data], tmp_path / "cache")


def test_a_store_knows_the_patients_of_its_cases(tmp_path: Path) -> None:
    """Weights trained on a study have seen its patient; a store of an earlier version says nothing."""
    for place in ("p1/a", "b"):
        case = make_case(place[-1], size=(20, 22, 24))
        assert case.ct is not None
        assert case.lesions is not None
        for volume, file in ((case.suv, "SUV"), (case.ct, "CTres"), (case.lesions, "SEG")):
            write_volume(volume, tmp_path / "data" / place / f"{file}.nii.gz", compress=True)
    prepare_store([tmp_path / "data"], tmp_path / "cases.lmdb")
    assert learnt_from(open_store(tmp_path / "cases.lmdb")) == ["a", "b", "p1"]


def test_cases_of_a_folder_have_its_patients_though_their_store_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a store of an earlier version; the patient is the folder that holds the study's, below whatever site."""
    root, cache = tmp_path / "data", tmp_path / "cache"
    for place in ("p1/a", "site/p2/b", "c"):
        case = make_case(place[-1], size=(20, 22, 24))
        assert case.ct is not None
        assert case.lesions is not None
        for volume, file in ((case.suv, "SUV"), (case.ct, "CTres"), (case.lesions, "SEG")):
            write_volume(volume, root / place / f"{file}.nii.gz", compress=True)
    with monkeypatch.context() as earlier:
        earlier.setattr("l2snet.prepare.store.patients_of", lambda roots: dict.fromkeys("abc", ""))
        stored_cases([root], cache)
    (path,) = cache.glob("*.lmdb")
    assert [case.patient for case in open_store(path)] == ["", "", ""]
    assert [case.patient for case in stored_cases([root], cache)] == ["p1", "p2", "c"]


def test_a_ct_with_1024_added_is_set_right_as_predict_does(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    due = read_study(data / "a")
    assert due.ct is not None
    write_volume(due.ct.with_array(due.ct.array + 1024), data / "a" / "CTres.nii.gz", compress=True)
    found = read_study(data / "a")
    assert found.ct is not None
    np.testing.assert_allclose(found.ct.array, due.ct.array, atol=1e-3)
    assert found.lesions is not None
    (note,) = found.notes
    assert note in caplog.text


def test_a_study_whose_ct_is_elsewhere_is_refused(data: Path) -> None:
    due = read_study(data / "a")
    assert due.ct is not None
    (data / "a" / "CTres.nii.gz").unlink()
    away = replace(due.geometry, origin_mm=(500.0, 0.0, 0.0))
    write_volume(Volume(due.ct.array, away), data / "a" / "CT.nii.gz", compress=True)
    with pytest.raises(InputError, match="covers 0% of the PET"):
        read_study(data / "a", resample_ct=True)


def test_a_store_knows_whose_tumours_its_bodies_may_hold(tmp_path: Path) -> None:
    """Weights trained on them have seen these patients."""
    path = tmp_path / "cases.lmdb"
    start_store(path, {"a": "here", "b": "here"})
    write_stored(make_case("a"), path, ["patient"])
    write_stored(make_case("b"), path)
    assert [case.donors for case in open_store(path)] == [("patient",), ()]
    assert learnt_from(open_store(path)) == ["a", "b", "patient"]
