"""`--device auto`: the GPU, or the CPU for what does not fit there."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from l2snet import methods
from l2snet.case import Case
from l2snet.errors import DeviceError, DeviceMemoryError
from l2snet.methods import GpuOrCpu, load_method
from l2snet.pipeline import Segmentation
from l2snet.predict import manifest

FULL = DeviceMemoryError("the GPU failed (out of memory)")


@dataclass
class Fake:
    """A method whose mask is 1 on a GPU and 2 on a CPU; raises what its GPU has in store."""

    device: str
    raises: Iterator[Exception | None]

    @property
    def settings(self) -> dict[str, object]:
        return {"engine": f"fake {self.device}"}

    def segment(self, case: Case) -> Segmentation:
        error = next(self.raises) if self.device == "cuda" else None
        if error is not None:
            raise error
        mask = case.suv.with_array(np.full(case.geometry.size, 1 if self.device == "cuda" else 2, np.uint8))
        return Segmentation(case.name, mask, case.suv, None, notes=("a note",))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that methods were loaded on."""
    monkeypatch.setattr(methods, "choose_device", lambda device: "cpu" if device == "cpu" else "cuda")
    return []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, loaded: list[str]) -> Callable[..., None]:
    """Let method "l2snet" be a fake with these answers of its GPU, one a case, or one that does not load there."""

    def use(*raises: Exception | None, loading: Exception | None = None) -> None:
        def load(_weights: object, device: str, precision: str) -> Fake:
            if device == "cuda" and loading is not None:
                raise loading
            loaded.append(device)
            return Fake(device, iter(raises))

        monkeypatch.setitem(methods.METHODS, "l2snet", SimpleNamespace(from_weights=load))

    return use


def test_auto_runs_on_the_cpu_the_cases_that_the_gpu_has_no_memory_for(
    fake: Callable[..., None],
    loaded: list[str],
    phantom: Callable[..., Case],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake(None, FULL, None, FULL)
    method = load_method("l2snet", [], "auto", "exact")
    with caplog.at_level(logging.WARNING):
        results = [method.segment(phantom()) for _ in range(4)]
    assert [int(result.mask.array.max()) for result in results] == [1, 2, 1, 2]
    told = ("a note", "the GPU's memory did not do: run on the CPU (fake cpu)")
    assert [result.notes for result in results] == [("a note",), told, ("a note",), told]
    engines = [manifest(phantom(), result, method, 0.0, 0.0)["engine"] for result in results]
    assert engines == ["fake cuda", "fake cpu", "fake cuda", "fake cpu"]
    assert loaded == ["cuda", "cpu"]  # once each
    assert [record.getMessage() for record in caplog.records] == [f"{FULL}: running this case on the CPU"] * 2


def test_cuda_that_was_asked_for_is_never_replaced(
    fake: Callable[..., None], loaded: list[str], phantom: Callable[..., Case]
) -> None:
    fake(FULL)
    method = load_method("l2snet", [], "cuda", "exact")
    with pytest.raises(DeviceMemoryError):
        method.segment(phantom())
    assert loaded == ["cuda"]


def test_another_failure_of_the_gpu_is_an_error_under_auto_too(
    fake: Callable[..., None], loaded: list[str], phantom: Callable[..., Case]
) -> None:
    fake(DeviceError("the GPU failed (an illegal memory access)"))
    with pytest.raises(DeviceError, match="illegal"):
        load_method("l2snet", [], "auto", "exact").segment(phantom())
    assert loaded == ["cuda"]


def test_networks_that_do_not_fit_on_the_gpu_are_loaded_on_the_cpu(
    fake: Callable[..., None], loaded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fake(loading=FULL)
    assert load_method("l2snet", [], "auto", "exact").settings == {"engine": "fake cpu"}
    assert loaded == ["cpu"]
    assert [record.getMessage() for record in caplog.records] == [f"{FULL}: running on the CPU"]


def test_a_method_that_may_fall_back_can_be_copied() -> None:
    method = GpuOrCpu({"a": 1}, dict)
    for again in (copy.copy(method), copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert again == method
        assert list(again.keys()) == ["a"]  # of the method on the GPU
        with pytest.raises(AttributeError):
            again.unknown  # noqa: B018
