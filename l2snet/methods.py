"""The one place that knows which methods there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from l2snet.errors import InputError
from l2snet.pipeline import L2SNet, Method
from l2snet.stepbystep import StepByStep

METHODS: dict[str, Callable[..., Method]] = {
    "l2snet": L2SNet.from_weights,
    "step-by-step": StepByStep.from_weights,
}


def check_method(name: str) -> None:
    """Refuse a name that is no method's.

    Raises
    ------
    InputError : says which there are.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r} is not known; expected one of {', '.join(METHODS)}")


def load_method(name: str, weights: Sequence[Path], device: str, precision: str, **options: object) -> Method:
    """A method with its networks loaded.

    Parameters
    ----------
    weights : weights folders; none: the program's own.
    options : of the method's `from_weights`; None leaves one at its default.

    Raises
    ------
    InputError : there is no such method, or an option has no part in it.
    WeightsError, DeviceError : see `l2snet.backend.load`.
    """
    check_method(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in inspect.signature(METHODS[name]).parameters:
            raise InputError(f"--{option.replace('_', '-')} has no part in --method {name}; leave it out")
    return METHODS[name](weights, device, precision, **given)
