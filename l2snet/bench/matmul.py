"""The rate of a matrix product: what the arithmetic of this machine is worth, measured when it is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np

from l2snet.openvino_quiet import import_openvino

REPEATS = 9
# Precisions by device; the last is what `--precision fast` may use at most.
KINDS = {"cpu": ("f32", "bf16"), "cuda": ("f32", "f16")}


def rates(device: str, size: int) -> dict[str, float]:
    """GFLOP/s of a product of two square matrices, the median of `REPEATS`, by precision; those that can be had."""
    measure = _on_cpu if device == "cpu" else _on_gpu
    return {kind: rate for kind in KINDS[device] if (rate := measure(kind, size)) is not None}


def _median(multiply: Callable[[], object], size: int) -> float:
    multiply()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - began)
    return 2e-9 * size**3 / float(np.median(seconds))


def _on_cpu(kind: str, size: int) -> float | None:
    with ThreadPoolExecutor(1) as thread:  # as `l2snet.backend` does: not on the main thread
        return thread.submit(_openvino, kind, size).result()


def _openvino(kind: str, size: int) -> float | None:
    openvino = import_openvino()
    opset13, core = openvino.opset13, openvino.Core()
    if kind.upper() not in ("F32", *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        return None
    matrix = np.random.default_rng(0).random((size, size), np.float32)
    left = opset13.parameter([size, size], np.float32)
    model = openvino.Model([opset13.matmul(left, opset13.constant(matrix), False, False)], [left], "matmul")
    settings = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return _median(lambda: request.infer({0: matrix}, share_inputs=True), size)


def _on_gpu(kind: str, size: int) -> float | None:
    if find_spec("torch") is None:
        return None
    import torch

    types = {"f32": torch.float32, "f16": torch.float16}
    matrix = torch.rand(size, size, device="cuda", dtype=types[kind])

    def multiply() -> None:
        torch.matmul(matrix, matrix)
        torch.cuda.synchronize()

    return _median(multiply, size)
