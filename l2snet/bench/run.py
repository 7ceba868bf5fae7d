"""One run of everything: the product from files to mask, a matrix product, and the rivals; and the table of it."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from l2snet.backend import choose_device
from l2snet.bench import matmul, rivals
from l2snet.bench.counts import Stage, count
from l2snet.bench.rivals import RIVALS, Rival, Took
from l2snet.case import Case
from l2snet.errors import L2SNetError
from l2snet.predict import MANIFEST
from l2snet.preprocess import Body, prepare
from l2snet.segment import window_image
from l2snet.sources import challenge
from l2snet.volume import Array, write_volume
from l2snet.weights import (
    CONFIG,
    LOCALIZER,
    NETWORK,
    SEGMENTER,
    NetworkConfig,
    find_weights,
    read_config,
    write_sums,
)

logger = logging.getLogger(__name__)

STAGE_OF = {LOCALIZER: "localize", SEGMENTER: "segment"}
UNIT_OF = {LOCALIZER: "slices", SEGMENTER: "windows"}
MATRIX, SMALL_MATRIX = 3072, 256
SMALL_WINDOW = (32, 16, 24)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes
    ----------
    weights : folder of localizer and segmenter; None: the program's own.
    whole_grid : run the rivals on the full grid too.
    part : of the full grid give the rivals one layer of windows alone, and scale what they take.
    matrix : size of the matrices whose product is timed.
    """

    weights: Path | None = None
    device: str = "cpu"
    precision: str = "exact"
    whole_grid: bool = True
    part: bool = False
    matrix: int = MATRIX

    @property
    def torch_device(self) -> str:
        """Where the rivals run, PyTorch's name."""
        return "cpu" if self.device == "cpu" else "cuda"


@dataclass(frozen=True)
class Row:
    """A rival on the body box or the full grid, and what it took or why it gave nothing."""

    rival: Rival
    where: str
    took: Took | str


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes
    ----------
    manifest : of the product's run.
    wall : seconds of its process.
    counted : what its networks run.
    rates : GFLOP/s of a matrix product by precision.
    """

    case: Case
    manifest: Mapping[str, Any]
    wall: float
    counted: Mapping[str, Stage]
    rates: Mapping[str, float]
    rows: Sequence[Row]
    device: str


def bench(case: Case, settings: Settings) -> Result:
    """Measure the product and its rivals on a case, one after the other.

    Raises
    ------
    L2SNetError : the product fails.
    """
    settings = replace(settings, device=choose_device(settings.device))
    with TemporaryDirectory() as scratch:
        manifest, wall = run_product(case, settings, Path(scratch))
        rates = matmul.rates(settings.torch_device, settings.matrix)
        rows = list(_rivals(case, settings, Path(scratch)))
    return Result(case, manifest, wall, count(case, settings.weights), rates, rows, settings.device)


def run_product(case: Case, settings: Settings, scratch: Path) -> tuple[dict[str, Any], float]:
    """`l2snet predict` from files to files in a process of its own; its manifest, and the seconds of the process.

    Raises
    ------
    L2SNetError : with the sentence that it ended with.
    """
    source, output = scratch / "input", scratch / "output"
    write_volume(case.suv, source / challenge.IMAGES / challenge.PET / f"{case.name}.mha", compress=True)
    if case.ct is not None:
        write_volume(case.ct, source / challenge.IMAGES / challenge.CT / f"{case.name}.mha", compress=True)
    options = ["--device", settings.device, "--precision", settings.precision]
    options += ["--weights", str(settings.weights)] if settings.weights is not None else []
    options += [] if case.ct is not None else ["--pet-only"]
    command = [sys.executable, "-m", "l2snet", "predict", str(source), str(output), *options]
    logger.info("l2snet predict")
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wall = time.perf_counter() - began
    if done.returncode:
        raise L2SNetError(f"l2snet predict failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return json.loads((output / MANIFEST).read_text("utf-8")), wall


def _rivals(case: Case, settings: Settings, scratch: Path) -> Iterator[Row]:
    """The rivals on the body box and, if wanted, on the full grid."""
    image_file = scratch / "image.npy"
    for whole in (False, True) if settings.whole_grid else (False,):
        where = "full grid" if whole else "body box"
        body: Body | None = None
        for rival in RIVALS:
            lacking = rivals.missing(rival)
            if lacking:
                yield Row(rival, where, f"not installed: {', '.join(lacking)}")
                continue
            logger.info("%s, %s", rival.name, where)
            folder = find_weights(rival.network, settings.weights)
            config = read_config(folder)
            body = body or prepare(case, config.spacing_mm, whole)
            image = image_of(body, config)
            part, share = rivals.part(image, rival, config) if whole and settings.part else (image, 1.0)
            np.save(image_file, part)
            yield Row(rival, where, rivals.measure(rival, folder, image_file, settings.torch_device, share))


def shrunk(weights: Path | None, folder: Path) -> Path:
    """Copies of the weights in `folder`, with small windows; for networks whose norm does not span the window."""
    for network in (LOCALIZER, SEGMENTER):
        source, target = find_weights(network, weights), folder / network
        config = read_config(source)
        window = SMALL_WINDOW if network == SEGMENTER else config.window and (config.multiple,) * 2
        target.mkdir(parents=True)
        shutil.copy(source / NETWORK, target / NETWORK)
        (target / CONFIG).write_text(replace(config, window=window).to_json(), "utf-8")
        write_sums(target)
    return folder


def image_of(body: Body, config: NetworkConfig) -> Array:
    """(c, z, y, x) as the network is shown it: PET in the slices that are run, or PET and CT."""
    run = slice(config.slice_stride // 2, None, config.slice_stride)
    return config.pet(body.suv[:, run])[None] if config.ct is None else window_image(body, config)


def table(result: Result) -> str:
    """Markdown: the machine, the product's stages, what it computes, and the rivals."""
    manifest, seconds = result.manifest, result.manifest["seconds"]
    operations = sum(stage.operations for stage in result.counted.values())
    size = " x ".join(map(str, result.case.geometry.size[::-1]))
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {manifest['cpus']} CPUs; {manifest['engine']}; {size} voxels.",
        "",
        "| l2snet predict | s | | |",
        "|---|---|---|---|",
    ]
    for stage, took in seconds.items():
        network = next((name for name, of in STAGE_OF.items() if of == stage), None)
        counted = result.counted[network] if network else None
        more = f"{counted.runs} {UNIT_OF[str(network)]} | {_rate(counted.operations, took)}" if counted else " | "
        lines.append(f"| {stage} | {took:.2f} | {more} |")
    lines += [f"| process, start to end | {result.wall:.2f} | peak memory {manifest['peak_memory_mib']} MiB | |", ""]
    lines += ["| what | |", "|---|---|"]
    lines += [f"| matrix product, {kind} | {rate:.0f} GFLOP/s |" for kind, rate in result.rates.items()]
    box = next(iter(result.counted.values())).box
    lines.append(f"| body box | {' x '.join(map(str, box[::-1]))} voxels |")
    for name, counted in result.counted.items():
        sizes = ", ".join(f"{runs} of {' x '.join(map(str, shape[1:]))}" for shape, runs in counted.inputs.items())
        lines.append(f"| operations of its {UNIT_OF[name]}: {sizes} | {counted.operations / 1e9:.1f} GFLOP |")
    lines.append(f"| operations of the body box's slices and windows | {operations / 1e9:.1f} GFLOP |")
    for kind, rate in result.rates.items():
        bound = operations / 1e9 / rate
        lines.append(f"| files to mask, against these operations at the {kind} product | {result.wall / bound:.2f} x |")
    lines += [f"| {name}, against files to mask | {ratio:.1f} x |" for name, ratio in _totals(result)]
    return "\n".join([*lines, "", *_table_of_rivals(result)])


def _totals(result: Result) -> Iterator[tuple[str, float]]:
    """Slices and windows by others on the same grid, and how many times the product's run they take."""
    took = {(row.rival, row.where): row.took for row in result.rows}
    for (rival, where), windows in took.items():
        for (other, place), slices in took.items():
            if rival.network != SEGMENTER or other.network != LOCALIZER or where != place:
                continue
            if isinstance(windows, Took) and isinstance(slices, Took):
                total = windows.seconds + slices.seconds
                yield f"{other.name}, and {rival.name}, {where}", total / result.wall


def _table_of_rivals(result: Result) -> list[str]:
    lines = [
        "| with the same weights | on | precision | ran | s | against l2snet | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    precision = "f32" if result.device == "cpu" else "f16 where autocast has it"
    for network, stage in STAGE_OF.items():
        took, counted = result.manifest["seconds"][stage], result.counted[network]
        ran = f"{counted.runs} {UNIT_OF[network]}"
        kind = result.manifest["engine"].split()[-1]
        lines.append(f"| l2snet, {stage} | body box | {kind} | {ran} | {took:.2f} | 1 x | |")
        for row in result.rows:
            if row.rival.network != network:
                continue
            if isinstance(row.took, str):
                lines.append(f"| {row.rival.name} | {row.where} | {precision} | - | {row.took} | - | |")
                continue
            ran = f"{row.took.runs} {UNIT_OF[network]}" + (", scaled from a part" if row.took.share < 1 else "")
            ratio = row.took.seconds / took
            cells = [row.rival.name, row.where, precision, ran, f"{row.took.seconds:.2f}", f"{ratio:.1f} x"]
            lines.append(f"| {' | '.join(cells)} | {row.took.peak_mib} |")
    return lines


def _rate(operations: float, seconds: float) -> str:
    return f"{operations / 1e9 / seconds:.0f} GFLOP/s" if seconds else ""


def processor() -> str:
    """The CPU's name, with the instructions that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(entries.get("flags", "").split())
    found = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{entries.get('model name', platform.machine())} ({', '.join(found) or 'no AVX2'})"
