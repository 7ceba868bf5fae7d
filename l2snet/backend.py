"""A weights folder to a `Network`: one callable on arrays, whichever engine runs it.

OpenVINO on a CPU, ONNX Runtime on a GPU (CUDA, or TensorRT where it is asked for), PyTorch as the reference that all
are checked against.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from l2snet.errors import DeviceError, DeviceMemoryError, MissingPackageError, WeightsError, reason
from l2snet.openvino_quiet import import_openvino
from l2snet.volume import Array
from l2snet.weights import LOCALIZER, NETWORK, SEGMENTER, STEP_BY_STEP, NetworkConfig, read_config, read_sums, sha256

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
# What runs on a GPU: what it is called, what it needs, and ONNX Runtime's name for it.
NAMES = {"cuda": "CUDA", "tensorrt": "TensorRT"}
LIBRARIES = {"cuda": "CUDA and cuDNN libraries", "tensorrt": "TensorRT, CUDA and cuDNN libraries"}
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# exact: float32 throughout. fast, where the hardware has it: bfloat16 (CPU), TensorFloat-32 (CUDA), float16 (TensorRT).
PRECISIONS = ("exact", "fast")
MAX_COMPILED = 2
# What ONNX Runtime, CUDA, cuBLAS and cuDNN say when the GPU's memory does not do.
_NO_MEMORY = re.compile(r"out of memory|failed to allocate|alloc(?:ation)?_failed", re.IGNORECASE)
# Slices or windows at once.
BATCH = {LOCALIZER: 8, SEGMENTER: 1, STEP_BY_STEP: 1}

Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Network:
    """Trained weights ready to run.

    Attributes
    ----------
    config : what the network expects.
    sha256 : of the weights file.
    engine : engine, device and precision, for the manifest.
    run : (n, c, ...) float32 to (n, k, ...) float32: the lesion's probability, then the network's other channels.
    """

    config: NetworkConfig
    sha256: str
    engine: str
    run: Run

    def __call__(self, batch: Array) -> Array:
        """(n, c, ...) float32 to (n, k, ...) float32 of the same spatial size; the first channel is a probability."""
        return self.run(np.ascontiguousarray(batch, np.float32))


def load(folder: Path, device: str = "auto", precision: str = "exact") -> Network:
    """Load a weights folder, its hashes checked, onto a device.

    Parameters
    ----------
    device : "cpu", "cuda", "tensorrt", or "auto": CUDA where it can be had, else the CPU, said in the log.

    Raises
    ------
    WeightsError : the folder is incomplete or altered.
    DeviceError : a GPU was asked for and cannot be had.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not known; expected one of {', '.join(PRECISIONS)}")
    config = read_config(folder)
    device = choose_device(device)
    try:
        if device in PROVIDERS:
            engine, run = _onnxruntime(folder / NETWORK, precision, device)
        else:
            engine, run = _openvino(folder / NETWORK, precision, _expected_shape(config), _air(config))
    except (DeviceError, MissingPackageError):
        raise
    except Exception as error:
        raise WeightsError(f"{folder / NETWORK} cannot be loaded: {reason(error)}") from error
    return Network(config, read_sums(folder)[NETWORK], engine, run)


def _expected_shape(config: NetworkConfig) -> tuple[int, ...] | None:
    """What the network will be run on first; None where that depends on the case."""
    if config.window is None:
        return None
    return (BATCH[config.network], config.slices if config.network == LOCALIZER else 2, *config.window)


def _air(config: NetworkConfig) -> float:
    """The intensity of air for a network of PET alone; 3D networks have 0 for it."""
    return float(config.pet(np.zeros(1, np.float32))[0]) if config.ct is None else 0.0


def choose_device(device: str) -> str:
    """The device to run on, "cpu", "cuda" or "tensorrt".

    Raises
    ------
    DeviceError : a GPU was asked for and cannot be had; or the name is none of `DEVICES`.
    """
    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is not known; expected one of {', '.join(DEVICES)}")
    if device == "cpu":
        return "cpu"
    gpu = "cuda" if device == "auto" else device
    problem = gpu_problem(gpu)
    if problem is None:
        return gpu
    if device != "auto":
        raise DeviceError(f"{NAMES[gpu]} was asked for and cannot be used: {problem}; repair it, or use --device cpu")
    logger.warning("no CUDA device is used (%s): running on the CPU", problem)
    return "cpu"


def gpu_problem(device: str = "cuda") -> str | None:
    """Why CUDA or TensorRT cannot be used, or None when it can: it loads, and a session of one node starts there."""
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime-gpu is not installed"
    if not _has_driver():
        return "no NVIDIA driver is installed"
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime has no {NAMES[device]} provider"
    return _start_problem(onnxruntime.InferenceSession, device)


@cache
def _start_problem(_session: object, device: str) -> str | None:
    """Why a session of one node does not start there, or None; a start takes a while, and is tried once."""
    import onnxruntime

    try:
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        _gpu_session(_identity_model(), device, "fast")
    except DeviceError as error:
        return str(error)
    return None


def _has_driver() -> bool:
    """Asked first, because ONNX Runtime without a driver writes a page to stderr."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _gpu_session(model: bytes | str, device: str, precision: str = "exact") -> Any:
    """A session that runs on a GPU or raises DeviceError; ONNX Runtime itself falls back to the CPU without a word.

    What TensorRT has no kernel for, CUDA runs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    fast = int(precision == "fast")
    settings: dict[str, dict[str, Any]] = {"cuda": {"use_tf32": fast, "cudnn_conv_algo_search": "HEURISTIC"}}
    if device == "tensorrt":
        settings = {"tensorrt": {"trt_fp16_enable": fast, **_engine_cache(model)}, **settings}
        with suppress(ImportError):  # its package loads its libraries, which the loader does not find by itself
            import_module("tensorrt")
        if not fast:
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT has no other switch for float32 throughout
    providers = [(PROVIDERS[name], values) for name, values in settings.items()]
    name = NAMES[device]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise _device_error(f"the {name} provider does not start", error) from error
    if session.get_providers()[0] != PROVIDERS[device]:
        raise DeviceError(f"the {name} provider does not start; do the {LIBRARIES[device]} match onnxruntime-gpu?")
    return session


def _engine_cache(model: bytes | str) -> dict[str, Any]:
    """Where TensorRT keeps the engines that it builds for minutes: the user's own folder, or nowhere without one.

    A folder for each network: ONNX Runtime tells engines apart by the names in the graph, not by the weights.
    """
    whose = sha256(Path(model)) if isinstance(model, str) else hashlib.sha256(model).hexdigest()
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2snet" / "tensorrt" / whose
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        logger.warning("TensorRT's engines are built anew in every run: there is no folder to keep them in")
        return {}
    kept = {"trt_engine_cache_enable": 1, "trt_timing_cache_enable": 1}
    return {**kept, "trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}


def _device_error(what: str, error: Exception) -> DeviceError:
    kind = DeviceMemoryError if _NO_MEMORY.search(str(error)) else DeviceError
    return kind(f"{what} ({reason(error)})")


def _identity_model() -> bytes:
    """An ONNX model of one Identity node, as bytes (protobuf written out, so that `onnx` is not needed)."""

    def message(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2, len(payload)]) + payload

    tensor = message(1, bytes([1 << 3, 1]) + message(2, message(1, bytes([1 << 3, 1]))))
    node = message(1, b"x") + message(2, b"y") + message(4, b"Identity")
    graph = message(1, node) + message(2, b"g")
    graph += message(11, message(1, b"x") + message(2, tensor)) + message(12, message(1, b"y") + message(2, tensor))
    return bytes([1 << 3, 8]) + message(7, graph) + message(8, bytes([2 << 3, 17]))


def _onnxruntime(path: Path, precision: str, device: str) -> tuple[str, Run]:
    """ONNX Runtime on a GPU: float32, or what the device is fast at where `precision` is "fast"."""
    import onnxruntime

    session = _gpu_session(str(path), device, precision)
    name = session.get_inputs()[0].name

    def run(batch: Array) -> Array:
        try:
            out: Array = session.run(None, {name: batch})[0]
        except Exception as error:
            raise _device_error("the GPU failed; --device cpu does without it", error) from error
        return out

    kind = {"cuda": "tf32", "tensorrt": "f16"}[device] if precision == "fast" else "f32"
    return f"onnxruntime {onnxruntime.__version__} {device} {kind}", in_smaller_batches(run)


def in_smaller_batches(run: Run) -> Run:
    """Halve a batch for which the memory does not do, and keep later ones to the size for which it did.

    Raises
    ------
    DeviceMemoryError : it does not do for a batch of one.
    """
    most = sys.maxsize

    def run_in_parts(batch: Array) -> Array:
        nonlocal most
        size = min(most, len(batch))
        try:
            parts = [run(batch[first : first + size]) for first in range(0, len(batch), size)]
        except DeviceMemoryError:
            if size == 1:
                raise
            most = size // 2
            logger.warning("the GPU's memory does not do for a batch of %d: going on with %d", size, most)
            return run_in_parts(batch)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return run_in_parts


def _openvino(path: Path, precision: str, expected: tuple[int, ...] | None, air: float) -> tuple[str, Run]:
    """OpenVINO on the CPU: float32, or bfloat16 where `precision` is "fast" and the CPU has it.

    Air has the intensity `air`. It is compiled for the `expected` input shape at once, aside, while the caller does
    other things (reads the case).

    OpenVINO gives the thread that loads it a signal stack and later frees it; on the main thread, the next signal (a
    data loader's worker that ends, say) would then kill the process. So it has a thread of its own.
    """
    thread = ThreadPoolExecutor(1, "openvino")
    engine, prepare, infer = thread.submit(_compile_openvino, path, precision, air).result()
    if expected is not None:
        thread.submit(prepare, expected)  # what goes wrong here goes wrong again, and is told, when it is run

    def run(batch: Array) -> Array:
        return thread.submit(infer, batch).result()

    return engine, run


def _compile_openvino(path: Path, precision: str, air: float) -> tuple[str, Callable[[tuple[int, ...]], object], Run]:
    """The engine's name, how it compiles for an input shape, and how it runs; it compiles once per shape."""
    openvino = import_openvino()
    core = openvino.Core()
    model = core.read_model(path)
    capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    kind = "bf16" if precision == "fast" and capable else "f32"
    if kind == "bf16" and air != 0:
        _air_as_zero(model, air)
    settings = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
    compiled: dict[tuple[int, ...], Any] = {}

    def prepare(shape: tuple[int, ...]) -> Any:
        if shape not in compiled:
            # A compiled model holds its own copy of weights and buffers: keep a slice size and one more.
            while len(compiled) >= MAX_COMPILED:
                del compiled[next(iter(compiled))]
            model.reshape(list(shape))
            compiled[shape] = core.compile_model(model, "CPU", settings).create_infer_request()
        return compiled[shape]

    def infer(batch: Array) -> Array:
        count, shape = len(batch), batch.shape
        larger = [other for other in compiled if other[1:] == shape[1:] and other[0] > count]
        if shape not in compiled and larger:
            # The last slices of a body: to fill the batch up takes less than to compile for their number.
            shape = larger[-1]
            batch = np.concatenate([batch, np.zeros((shape[0] - count, *shape[1:]), np.float32)])
        out = prepare(shape).infer({0: batch}, share_inputs=True)[0]
        return np.array(out[:count], dtype=np.float32)

    return f"openvino {openvino.__version__.split('-')[0]} cpu {kind}", prepare, infer


def _air_as_zero(model: Any, air: float) -> None:
    """Let a network take its input less `air`, the intensity of air; what it computes stays the same.

    bfloat16 has eight bits: SUV 0..35 on -1..1 is rounded to 0.07 where it is near air, and hardly when air is 0. The
    first convolution (after a mean over pixels, if any) pads with what was 0, and its output is shifted back. A network
    whose image goes elsewhere, too, is left as it is.
    """
    opset13 = import_openvino().opset13
    (image,) = model.inputs
    reader = _only_reader(image)
    first = reader
    if reader is not None and reader.get_node().get_type_name() == "AvgPool" and _keeps_shift(reader.get_node()):
        first = _only_reader(reader.get_node().output(0))
    if reader is None or first is None or first.get_index() != 0:
        return
    first = first.get_node()
    attributes = first.get_attributes()
    if first.get_type_name() != "Convolution" or attributes["auto_pad"] != "explicit":
        return
    users = first.output(0).get_target_inputs()
    reader.replace_source_output(opset13.subtract(image, np.float32(air)).output(0))
    filters, begin, end = first.input_value(1), attributes["pads_begin"], attributes["pads_end"]
    padded = opset13.pad(first.input_value(0), [0, 0, *begin], [0, 0, *end], "constant", np.float32(-air))
    zeros = [0] * len(begin)
    result = opset13.convolution(padded, filters, attributes["strides"], zeros, zeros, attributes["dilations"])
    sums = opset13.reduce_sum(filters, list(range(1, 2 + len(begin))))
    shift = opset13.reshape(opset13.multiply(sums, np.float32(air)), [1, -1, *(1 for _ in begin)], False)
    for user in users:
        user.replace_source_output(opset13.add(result, shift).output(0))
    model.validate_nodes_and_infer_types()


def _only_reader(output: Any) -> Any:
    """The one input that takes the values of an output, not its shape or type alone; None: several, or none."""
    readers = [
        reader
        for reader in output.get_target_inputs()
        if (reader.get_node().get_type_name(), reader.get_index()) not in (("ShapeOf", 0), ("ConvertLike", 1))
    ]
    return readers[0] if len(readers) == 1 else None


def _keeps_shift(pooling: Any) -> bool:
    """Whether each mean is over pixels of the image alone."""
    attributes = pooling.get_attributes()
    padding = [*attributes["pads_begin"], *attributes["pads_end"]]
    return attributes["auto_pad"] == "explicit" and attributes["rounding_type"] == "floor" and not any(padding)


def load_reference(folder: Path) -> Network:
    """The same weights in PyTorch, float32 on the CPU; for tests and gates (extra `train`).

    Raises
    ------
    MissingPackageError : torch, timm or onnx is not installed.
    """
    try:
        from l2snet.export import reference_network
    except ImportError as error:
        raise MissingPackageError("the PyTorch reference", "train") from error
    config = read_config(folder)
    return Network(config, read_sums(folder)[NETWORK], "torch cpu f32", reference_network(folder / NETWORK, config))
