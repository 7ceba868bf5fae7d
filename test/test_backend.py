"""Devices are what was asked for, or an error says why not; engines give back what the graph computes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from l2snet import backend
from l2snet.backend import DEVICES, Network, choose_device, gpu_problem, load
from l2snet.errors import DeviceError, DeviceMemoryError, MissingPackageError, WeightsError
from l2snet.openvino_quiet import import_openvino
from l2snet.preprocess import Window
from l2snet.volume import Array
from l2snet.weights import CONFIG, LOCALIZER, NETWORK, NetworkConfig, find_weights, sha256, write_sums

openvino = import_openvino()
opset13 = openvino.opset13

CONFIG_OF_IDENTITY = NetworkConfig(
    network="localizer", architecture={"in_channels": 1}, pet=Window(0.0, 35.0, -1.0, 1.0), thresholds={"cue": 0.5}
)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A weights folder whose network gives back its input."""
    (tmp_path / CONFIG).write_text(CONFIG_OF_IDENTITY.to_json(), "utf-8")
    (tmp_path / NETWORK).write_bytes(backend._identity_model())
    write_sums(tmp_path)
    return tmp_path


class Sessions:
    """An onnxruntime whose sessions report the given providers, one list after the other."""

    def __init__(
        self, *reported: list[str] | Exception, available: tuple[str, ...] = ("CUDAExecutionProvider",)
    ) -> None:
        self.reported, self.asked = list(reported), []
        self.module = SimpleNamespace(
            __version__="1.0",
            SessionOptions=SimpleNamespace,
            get_available_providers=lambda: [*available, "CPUExecutionProvider"],
            InferenceSession=self.start,
        )

    def start(self, _model: bytes | str, _options: object, providers: list[Any]) -> SimpleNamespace:
        self.asked.append(providers)
        answer = self.reported.pop(0) if len(self.reported) > 1 else self.reported[0]
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(
            get_providers=lambda: answer,
            get_inputs=lambda: [SimpleNamespace(name="x")],
            run=lambda _outputs, feeds: [feeds["x"] + 1],
        )


Use = Callable[[Sessions | None], Sessions | None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def use(sessions: Sessions | None) -> Sessions | None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None if sessions is None else sessions.module)
        monkeypatch.setattr(backend, "_has_driver", lambda: True)
        return sessions

    return use


CUDA, CPU = ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]
TENSORRT = ["TensorrtExecutionProvider", *CUDA]


# Devices


def test_cpu_is_cpu_and_asks_nobody(use: Use) -> None:
    use(None)
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:0", "", "CPU"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=f"device '{name}' is not known; expected one of auto, cpu, cuda, tensorrt"):
        choose_device(name)
    assert DEVICES == ("auto", "cpu", "cuda", "tensorrt")


def test_this_machine() -> None:
    """Where CUDA cannot be had, asking for it is an error with a reason, and auto says why it is not used."""
    reason = gpu_problem()
    if reason is None:
        pytest.skip("CUDA can be had here")
    with pytest.raises(DeviceError, match=r"CUDA was asked for and cannot be used: .*; repair it, or use --device cpu"):
        choose_device("cuda")


UNUSABLE = {
    "not installed": (None, "onnxruntime-gpu is not installed"),
    "built for the CPU": (Sessions(CUDA, available=()), "the installed onnxruntime has no CUDA provider"),
    "falls back in silence": (Sessions(CPU), "the CUDA provider does not start; do the CUDA and cuDNN libraries match"),
    "raises": (Sessions(RuntimeError("at line 3\nlibcudnn.so.9 is missing\n")), r"\(libcudnn.so.9 is missing\)"),
    "raises without a word": (Sessions(RuntimeError()), "the CUDA provider does not start"),
}


@pytest.mark.parametrize(("sessions", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_cuda_that_cannot_be_had_is_an_error(use: Use, sessions: Sessions | None, reason: str) -> None:
    use(sessions)
    with pytest.raises(DeviceError, match=f"CUDA was asked for and cannot be used: .*{reason}"):
        choose_device("cuda")


@pytest.mark.parametrize(("sessions", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_auto_falls_back_and_says_so(
    use: Use, sessions: Sessions | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    use(sessions)
    with caplog.at_level(logging.WARNING):
        assert choose_device("auto") == "cpu"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("no CUDA device is used (")
    assert record.getMessage().endswith("): running on the CPU")


def test_no_driver_is_said_before_any_session_starts(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = use(Sessions(CUDA))
    monkeypatch.setattr(backend, "_has_driver", lambda: False)
    with pytest.raises(DeviceError, match="cannot be used: no NVIDIA driver is installed;"):
        choose_device("cuda")
    assert sessions is not None
    assert sessions.asked == []


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_cuda_that_starts_is_used(use: Use, device: str, caplog: pytest.LogCaptureFixture) -> None:
    use(Sessions(CUDA))
    assert choose_device(device) == "cuda"
    assert caplog.records == []


# Never silently on the CPU


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_network_that_lands_on_the_cpu_is_an_error(use: Use, identity: Path, device: str) -> None:
    """The probe starts on CUDA, the network's own session does not (out of memory, an unknown operator)."""
    use(Sessions(CUDA, CPU))
    with pytest.raises(DeviceError, match="the CUDA provider does not start"):
        load(identity, device)


def test_cuda_is_not_loaded_on_the_cpu(use: Use, identity: Path) -> None:
    use(Sessions(CPU))
    with pytest.raises(DeviceError, match="CUDA was asked for"):
        load(identity, "cuda")


@pytest.mark.parametrize(("precision", "tf32", "kind"), [("exact", 0, "f32"), ("fast", 1, "tf32")])
def test_cuda_runs_with_the_precision_asked_for(use: Use, identity: Path, precision: str, tf32: int, kind: str) -> None:
    sessions = use(Sessions(CUDA))
    assert sessions is not None
    network = load(identity, "cuda", precision)
    assert network.engine == f"onnxruntime 1.0 cuda {kind}"
    ((name, settings),) = sessions.asked[-1]  # one provider: no CPU to fall back to
    assert name == "CUDAExecutionProvider"
    assert settings["use_tf32"] == tf32
    np.testing.assert_array_equal(network(np.zeros((1, 1, 2, 2))), np.ones((1, 1, 2, 2)))


@pytest.mark.parametrize(("precision", "f16", "kind"), [("exact", 0, "f32"), ("fast", 1, "f16")])
def test_tensorrt_keeps_its_engines_and_leaves_the_rest_to_cuda(
    use: Use, identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, f16: int, kind: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    backend._start_problem.cache_clear()
    sessions = use(Sessions(TENSORRT, available=tuple(TENSORRT[:2])))
    assert sessions is not None
    network = load(identity, "tensorrt", precision)
    assert network.engine == f"onnxruntime 1.0 tensorrt {kind}"
    (name, settings), (rest, _) = sessions.asked[-1]  # no CPU to fall back to
    assert (name, rest) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert settings["trt_fp16_enable"] == f16
    assert settings["trt_engine_cache_enable"] == 1
    # Engines of other weights have another folder: by their names alone they are not told apart.
    folder = tmp_path / "cache" / "l2snet" / "tensorrt" / sha256(identity / NETWORK)
    assert settings["trt_engine_cache_path"] == str(folder)
    assert folder.is_dir()
    assert (os.environ["NVIDIA_TF32_OVERRIDE"] == "0") == (precision == "exact")
    np.testing.assert_array_equal(network(np.zeros((1, 1, 2, 2))), np.ones((1, 1, 2, 2)))


def test_tensorrt_runs_where_nothing_can_be_kept(
    use: Use, identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    sessions = use(Sessions(TENSORRT, available=tuple(TENSORRT[:2])))
    assert sessions is not None
    load(identity, "tensorrt")
    assert sessions.asked[-1][0][1] == {"trt_fp16_enable": 0}
    assert "no folder to keep them in" in caplog.text


@pytest.mark.parametrize(
    ("sessions", "reason"),
    [
        (Sessions(CUDA), "the installed onnxruntime has no TensorRT provider"),
        (Sessions(CUDA, available=tuple(TENSORRT[:2])), "do the TensorRT, CUDA and cuDNN libraries match"),
    ],
    ids=["built without", "lands on CUDA"],
)
def test_tensorrt_that_cannot_be_had_is_an_error(use: Use, sessions: Sessions, reason: str) -> None:
    use(sessions)
    with pytest.raises(DeviceError, match=f"^TensorRT was asked for and cannot be used: .*{reason}"):
        choose_device("tensorrt")


# Engines


def test_the_hand_written_model_is_valid_and_gives_back_its_input() -> None:
    model = backend._identity_model()
    onnx.checker.check_model(onnx.load_from_string(model))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.array([2.5], np.float32)  # its input is one number
    (y,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(y, x)


def test_load_on_the_cpu(identity: Path) -> None:
    network = load(identity, "cpu", "exact")
    assert network.config == CONFIG_OF_IDENTITY
    assert network.sha256 == sha256(identity / NETWORK)
    assert network.engine.startswith("openvino ")
    assert network.engine.endswith(" cpu f32")
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 32, 64), (3, 1, 32, 64), (1, 1, 64, 32), (1, 1, 32, 64)):  # the last one compiled before
        x = rng.random(shape, np.float32)
        np.testing.assert_array_equal(network(x), x)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Shapes that OpenVINO is asked to compile for."""
    shapes: list[list[int]] = []
    compile_model = openvino.Core.compile_model

    def noted(core: openvino.Core, model: openvino.Model, *more: object) -> object:
        shapes.append(list(model.input(0).get_shape()))
        return compile_model(core, model, *more)

    monkeypatch.setattr(openvino.Core, "compile_model", noted)
    return shapes


def test_the_last_slices_are_run_as_a_full_batch(identity: Path, compiled: list[list[int]]) -> None:
    """19 slices in batches of 8: the last 3 take no model of their own."""
    network = load(identity, "cpu")
    x = np.random.default_rng(0).random((19, 1, 32, 64), np.float32)
    for first in (0, 8, 16):
        np.testing.assert_array_equal(network(x[first : first + 8]), x[first : first + 8])
    assert compiled == [[8, 1, 32, 64]]


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({}, []),  # whole slices: their size is the body's
        ({"window": (64, 32)}, [[8, 1, 64, 32]]),
        ({"window": (64, 32), "slices": 3}, [[8, 3, 64, 32]]),
    ],
)
def test_what_is_known_to_be_run_is_compiled_at_once(
    identity: Path, compiled: list[list[int]], changes: dict[str, Any], shapes: list[list[int]]
) -> None:
    (identity / CONFIG).write_text(replace(CONFIG_OF_IDENTITY, **changes).to_json(), "utf-8")
    write_sums(identity)
    network = load(identity, "cpu")
    x = np.ones((2, 1, 32, 32), np.float32)
    np.testing.assert_array_equal(network(x), x)  # runs after what was begun before
    assert compiled == [*shapes, [2, 1, 32, 32]]


def first_layers(pooled: bool) -> openvino.Model:
    """A mean over 2x2 pixels, if wanted, then 3x3 filters from 1 to 4 channels."""
    filters = np.random.default_rng(1).normal(0, 0.3, (4, 1, 3, 3)).astype(np.float32)
    image = opset13.parameter([2, 1, 32, 48], np.float32)
    mean = opset13.avg_pool(image, [2, 2], [0, 0], [0, 0], [2, 2], True) if pooled else image
    out = opset13.convolution(mean, opset13.constant(filters), [1, 1], [1, 1], [1, 1], [1, 1])
    return openvino.Model([opset13.relu(out)], [image], "first")


@pytest.mark.parametrize("pooled", [False, True])
def test_air_as_zero_changes_the_rounding_and_nothing_else(pooled: bool) -> None:
    """SUV 0 to 3.5 on -1..-0.8, borders included; in bfloat16 the error falls to less than a half."""

    def compute(kind: str, lifted: bool) -> Array:
        model = first_layers(pooled)
        if lifted:
            backend._air_as_zero(model, -1.0)
            assert "Pad" in [node.get_type_name() for node in model.get_ordered_ops()]
        request = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": kind})
        return np.array(request({0: image})[0])

    def work() -> dict[tuple[str, bool], Array]:
        return {(kind, lifted): compute(kind, lifted) for kind in kinds for lifted in (False, True)}

    image = np.random.default_rng(0).uniform(-1.0, -0.8, (2, 1, 32, 48)).astype(np.float32)
    with ThreadPoolExecutor(1) as thread:
        capable = "BF16" in thread.submit(openvino.Core().get_property, "CPU", "OPTIMIZATION_CAPABILITIES").result()
        kinds = ("f32", "bf16") if capable else ("f32",)
        found = thread.submit(work).result()
    right = found["f32", False]
    np.testing.assert_allclose(found["f32", True], right, atol=1e-6)
    if capable:
        error = [np.abs(found["bf16", lifted] - right).mean() for lifted in (False, True)]
        assert error[1] < error[0] / 2


def with_pooling(image: Any, **settings: Any) -> Any:
    options = {"pads_begin": [0, 0], "pads_end": [0, 0], "exclude_pad": False, **settings}
    return opset13.avg_pool(image, [2, 2], kernel_shape=[2, 2], **options)


UNLIKE_EXPECTED = {
    "an image that is read twice": lambda image: (image, image),
    "a mean that is read twice": lambda image: (with_pooling(image),) * 2,
    "pooling that pads": lambda image: (with_pooling(image, pads_begin=[1, 1], pads_end=[1, 1]), None),
    "pooling that rounds up": lambda image: (with_pooling(image, rounding_type="ceil"), None),
    "another layer before": lambda image: (opset13.relu(image), None),
}


@pytest.mark.parametrize("layers", UNLIKE_EXPECTED.values(), ids=UNLIKE_EXPECTED)
def test_a_network_of_another_build_is_left_as_it_is(layers: Callable[[Any], tuple[Any, Any]]) -> None:
    image = opset13.parameter([2, 1, 33, 48], np.float32)
    first, again = layers(image)
    filters = opset13.constant(np.ones((1, 1, 3, 3), np.float32))
    out = opset13.convolution(first, filters, [1, 1], [1, 1], [1, 1], [1, 1])
    model = openvino.Model([out if again is None else opset13.add(out, again)], [image], "other")
    before = [node.get_friendly_name() for node in model.get_ordered_ops()]
    backend._air_as_zero(model, -1.0)
    assert [node.get_friendly_name() for node in model.get_ordered_ops()] == before


@pytest.mark.parametrize("reader", ["ShapeOf", "ConvertLike"])
def test_who_asks_for_shape_or_type_alone_is_no_reader(reader: str) -> None:
    """As in the shipped localizer's graph."""
    model = first_layers(False)
    image = model.input(0)
    asked = opset13.shape_of(image) if reader == "ShapeOf" else opset13.convert_like(opset13.constant(1), image)
    model = openvino.Model([model.get_results()[0], opset13.result(asked)], model.get_parameters(), "asked")
    backend._air_as_zero(model, -1.0)
    assert "Subtract" in [node.get_type_name() for node in model.get_ordered_ops()]


def test_the_shipped_localizer_is_lifted() -> None:
    def types() -> list[str]:
        model = openvino.Core().read_model(find_weights(LOCALIZER) / NETWORK)
        backend._air_as_zero(model, -1.0)
        return [node.get_type_name() for node in model.get_ordered_ops()]

    with ThreadPoolExecutor(1) as thread:
        assert "Pad" in thread.submit(types).result()


def test_an_unknown_precision_is_refused(identity: Path) -> None:
    with pytest.raises(ValueError, match="precision 'half' is not known; expected one of exact, fast"):
        load(identity, "cpu", "half")


def test_results_are_copies(identity: Path) -> None:
    network = load(identity, "cpu")
    x = np.ones((1, 1, 4, 4), np.float32)
    first = network(x)
    x[:] = 2
    second = network(x)
    assert (first == 1).all()
    assert (second == 2).all()


def test_a_network_takes_any_layout_and_type() -> None:
    """Engines read contiguous float32: flipped views and float64 are turned into it."""
    seen: list[Array] = []

    def run(batch: Array) -> Array:
        seen.append(batch)
        return batch

    x = np.arange(12.0).reshape(1, 1, 3, 4)[..., ::-1]
    out = Network(CONFIG_OF_IDENTITY, "", "test", run)(x)
    assert seen[0].dtype == np.float32
    assert seen[0].flags.c_contiguous
    np.testing.assert_array_equal(out, x)


def test_a_file_that_is_no_network_is_a_weights_error(identity: Path) -> None:
    (identity / NETWORK).write_bytes(b"no network at all")
    write_sums(identity)
    with pytest.raises(WeightsError, match=f"{NETWORK} cannot be loaded: ."):
        load(identity, "cpu")


def test_altered_weights_are_not_loaded(identity: Path) -> None:
    (identity / NETWORK).write_bytes(backend._identity_model() + b" ")
    with pytest.raises(WeightsError, match="was altered"):
        load(identity, "cpu")


def test_reference_without_torch_names_the_extra(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "l2snet.export", None)
    with pytest.raises(MissingPackageError, match=r"the PyTorch reference .* pip install 'l2snet\[train\]'"):
        backend.load_reference(identity)


# Memory


class SmallGpu:
    """Has memory for so many samples at a time; gives back what it gets, plus one."""

    def __init__(self, holds: int, says: str) -> None:
        self.holds, self.says, self.sizes = holds, says, []

    def __call__(self, _outputs: object, feeds: dict[str, Array]) -> list[Array]:
        self.sizes.append(len(feeds["x"]))
        if len(feeds["x"]) > self.holds:
            raise RuntimeError(self.says)
        return [feeds["x"] + 1]


@pytest.fixture
def on_small_gpu(use: Use, identity: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[SmallGpu], Network]:
    """Load a network onto it."""

    def load_on(gpu: SmallGpu) -> Network:
        sessions = Sessions(CUDA)
        start = sessions.start
        sessions.module.InferenceSession = lambda *a, **k: SimpleNamespace(**{**vars(start(*a, **k)), "run": gpu})
        use(sessions)
        return load(identity, "cuda")

    return load_on


NO_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 1073741824",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=here",
    "CUDNN failure 4000: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
)


@pytest.mark.parametrize("says", NO_MEMORY)
def test_a_batch_too_large_for_the_gpu_is_run_in_parts(
    on_small_gpu: Callable[[SmallGpu], Network], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = SmallGpu(2, says)
    network = on_small_gpu(gpu)
    batch = np.arange(8 * 4, dtype=np.float32).reshape(8, 1, 2, 2)
    np.testing.assert_array_equal(network(batch), batch + 1)
    assert gpu.sizes == [8, 4, 2, 2, 2, 2]
    assert len(caplog.records) == 2
    # What does not fit is not tried again.
    np.testing.assert_array_equal(network(batch[:5]), batch[:5] + 1)
    assert gpu.sizes[6:] == [2, 2, 1]


def test_a_gpu_too_small_for_one_sample_is_an_error(on_small_gpu: Callable[[SmallGpu], Network]) -> None:
    with pytest.raises(DeviceMemoryError, match=r"the GPU failed; --device cpu does without it .*out of memory"):
        on_small_gpu(SmallGpu(0, NO_MEMORY[1]))(np.zeros((4, 1, 2, 2)))


def test_another_failure_of_the_gpu_is_no_question_of_memory(on_small_gpu: Callable[[SmallGpu], Network]) -> None:
    gpu = SmallGpu(1, "CUDA failure 700: an illegal memory access was encountered")
    with pytest.raises(DeviceError, match=r"the GPU failed; .*illegal memory access") as failed:
        on_small_gpu(gpu)(np.zeros((2, 1, 2, 2)))
    assert not isinstance(failed.value, DeviceMemoryError)
    assert gpu.sizes == [2]
