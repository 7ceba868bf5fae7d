"""The shipped networks on the CPU: how many threads run them, and how many samples at a time, changes no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from l2snet.backend import load
from l2snet.openvino_quiet import import_openvino
from l2snet.volume import Array
from l2snet.weights import LOCALIZER, SEGMENTER, STEP_BY_STEP, find_weights

openvino = import_openvino()


def blobs(shape: tuple[int, ...], hotter: float) -> Array:
    """Noise about a log SUV of 0.6, and in it squares or cubes of 8 that are hotter by so much."""
    rng = np.random.default_rng(0)
    coarse = rng.random((*shape[:2], *(n // 8 for n in shape[2:]))) < 0.1
    hot = hotter * np.kron(coarse, np.ones((1, 1, *(8 for _ in shape[2:]))))
    return (0.6 + hot + rng.normal(0, 0.05, shape)).astype(np.float32)


# Step-by-Step's norm spans the window, and threads share its sums: another order, another last bit.
@pytest.mark.parametrize(
    ("network", "shape", "hotter", "most"),
    [
        (LOCALIZER, (6, 1, 64, 128), 2.0, 0),
        (SEGMENTER, (2, 2, 64, 64, 64), 2.0, 0),
        (STEP_BY_STEP, (2, 2, 32, 64, 64), 0.5, 1e-4),
    ],
)
def test_threads_and_batches_change_no_bit_or_the_last_one(
    network: str, shape: tuple[int, ...], hotter: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_model = openvino.Core.compile_model
    samples = blobs(shape, hotter)

    def on(threads: int, batch: int) -> Array:
        def compile_for(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
            return compile_model(core, model, device, {**settings, "INFERENCE_NUM_THREADS": threads})

        monkeypatch.setattr(openvino.Core, "compile_model", compile_for)
        loaded = load(find_weights(network), "cpu")
        return np.concatenate([loaded(samples[first : first + batch]) for first in range(0, len(samples), batch)])

    expected = on(threads=1, batch=1)
    assert expected.std() > 0.01  # an answer, not a constant
    for threads, batch in ((1, len(samples)), (2, 1), (3, len(samples))):
        np.testing.assert_allclose(on(threads, batch), expected, rtol=0, atol=most)
