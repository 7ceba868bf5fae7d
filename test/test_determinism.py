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


# Step-by-Step's norm spans the window, and threads share its sums: another order, another last bit.
@pytest.mark.parametrize(
    ("network", "shape", "most"),
    [(LOCALIZER, (6, 1, 64, 96), 0), (SEGMENTER, (2, 2, 64, 64, 64), 0), (STEP_BY_STEP, (2, 2, 32, 64, 64), 1e-4)],
)
def test_threads_and_batches_change_no_bit_or_the_last_one(
    network: str, shape: tuple[int, ...], most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_model = openvino.Core.compile_model
    samples = np.clip(np.random.default_rng(0).normal(0.2, 0.3, shape), 0, 1).astype(np.float32)

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
