"""The benchmark: what it counts is right to the last window, and `--quick` prints its table. It never fails on time."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from math import ceil, prod
from pathlib import Path

import numpy as np
import pytest

from l2snet.bench.counts import count, operations
from l2snet.bench.phantom import SMALL_BODY, whole_body
from l2snet.bench.rivals import RIVALS, missing, part
from l2snet.bench.run import SMALL_MATRIX, SMALL_WINDOW, Settings, bench, shrunk, table
from l2snet.cli import main
from l2snet.localize import STEP as SLICE_STEP
from l2snet.preprocess import prepare
from l2snet.sliding_window import STEP
from l2snet.weights import LOCALIZER, NETWORK, SEGMENTER, find_weights, read_config

# Arrays of the body box's size that a stage may hold at once, in float32: 3.4 and 2.9 are the image, sums of
# probabilities and weights, mask and a batch, and what brings the segmenter's back to the box. A copy more is one more.
MOST_ARRAYS = {LOCALIZER: 4.3, SEGMENTER: 3.7}
# Of a phantom whose body box holds whole parts of slices.
SIZE = (96, 96, 96)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shrunk(None, tmp_path_factory.mktemp("weights"))


def windows(size: Iterable[int], window: Iterable[int], step: float) -> int:
    """At most so many windows apart along every axis; a shorter body is padded to one window."""
    return prod(max(0, ceil((n - w) / (w * step))) + 1 for n, w in zip(size, window, strict=True))


def test_the_phantom_is_the_same_body_every_time() -> None:
    first, again = whole_body(SMALL_BODY), whole_body(SMALL_BODY)
    np.testing.assert_array_equal(first.suv.array, again.suv.array)
    assert first.ct is not None
    assert again.ct is not None
    np.testing.assert_array_equal(first.ct.array, again.ct.array)
    assert not np.array_equal(first.suv.array, whole_body(SMALL_BODY, seed=1).suv.array)


def test_windows_and_slices_of_the_body_box_alone_are_run(weights: Path) -> None:
    case = whole_body(SIZE)
    body = prepare(case)
    counted = count(case, weights)
    stride = read_config(find_weights(SEGMENTER, weights)).stride
    localizer = read_config(find_weights(LOCALIZER, weights))
    pixels = localizer.window
    everything = count(case, weights, whole_grid=True)
    assert pixels is not None
    for size, of in ((body.suv.shape, counted), (SIZE, everything)):
        coarse = [ceil(n / step) for n, step in zip(size, stride, strict=True)]
        # The phantom leaves no window and no part of a slice empty.
        assert of[SEGMENTER].inputs == {(2, *SMALL_WINDOW): windows(coarse, SMALL_WINDOW, STEP)}
        slices = ceil(size[1] / localizer.slice_stride)
        assert of[LOCALIZER].inputs == {(1, *pixels): slices * windows((size[0], size[2]), pixels, SLICE_STEP)}
    for stage in (LOCALIZER, SEGMENTER):
        assert counted[stage].operations <= everything[stage].operations / 2
        assert counted[stage].arrays <= MOST_ARRAYS[stage]


def test_operations_of_a_convolution_by_hand(tmp_path: Path) -> None:
    """3x3x3 filters from 2 to 5 channels on 8x6x4 voxels; then 2x2x2 up-convolutions from 5 to 3."""
    torch = pytest.importorskip("torch", reason="PyTorch (extra: train) is not installed")
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 5, 3, padding=1), torch.nn.ConvTranspose3d(5, 3, 2, 2)).eval()
    program = torch.onnx.export(network, (torch.zeros(1, 2, 8, 6, 4),), dynamo=True, verbose=False)
    program.save(str(tmp_path / NETWORK))
    voxels = 8 * 6 * 4
    assert operations(tmp_path / NETWORK, (2, 8, 6, 4)) == 2 * voxels * (27 * 2 * 5 + 8 * 5 * 3)


def test_operations_grow_with_the_window() -> None:
    """Where no norm spans the window: twice the voxels, twice the operations."""
    folder = find_weights(SEGMENTER)
    once, twice = (operations(folder / NETWORK, (2, depth, 32, 32)) for depth in (32, 64))
    assert twice == 2 * once
    multiple = read_config(find_weights(LOCALIZER)).multiple
    once, twice = (operations(find_weights(LOCALIZER) / NETWORK, (1, 2 * multiple, n * multiple)) for n in (2, 4))
    assert twice == 2 * once


def test_a_part_of_the_grid_is_scaled_by_its_share(weights: Path) -> None:
    """Of three layers of windows along z the first; of 64 slices a batch of eight."""
    image = np.zeros((2, *SMALL_BODY), np.float32)
    for rival in RIVALS:
        some, share = part(image, rival, read_config(weights / rival.network))
        if rival.network == SEGMENTER:
            assert (some.shape, share) == ((2, 32, 64, 64), 1 / 3)
        else:
            assert (some.shape, share) == ((2, 64, 8, 64), 1 / 8)


def test_every_program_runs_the_same_windows_and_slices(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = whole_body(SMALL_BODY)
    result = bench(case, Settings(weights, precision="exact", whole_grid=False, matrix=SMALL_MATRIX))
    with capsys.disabled():
        sys.stdout.write("\n" + table(result))
    assert len(result.rows) == len(RIVALS)
    stride = read_config(find_weights(LOCALIZER, weights)).slice_stride
    for row in result.rows:
        if isinstance(row.took, str):
            assert missing(row.rival), row.took
            assert row.took == f"not installed: {', '.join(missing(row.rival))}"
            continue
        assert row.where == "body box"
        stage = result.counted[row.rival.network]
        # Whole slices, where the product runs parts of them.
        slices = len(range(stride // 2, stage.box[1], stride))
        assert row.took.runs == (stage.runs if row.rival.network == SEGMENTER else slices)
    assert {"start", "read", "prepare", "localize", "segment", "fuse", "total"} <= set(result.manifest["seconds"])
    assert result.rates["f32"] > 0


def test_the_command_prints_its_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2snet.bench.run.RIVALS", ())
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--quick", "--device", "cpu"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for text in (
        "64 x 64 x 64 voxels",
        "| segment |",
        "GFLOP/s",
        "| body box | ",
        "| operations of its slices: ",
        "| operations of its windows: ",
        "| l2snet, localize | body box | f32",
    ):
        assert text in out
