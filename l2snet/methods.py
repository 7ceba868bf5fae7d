"""The one place that knows which methods there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2snet.errors import InputError
from l2snet.pipeline import L2SNet, Method
from l2snet.stepbystep import StepByStep

if TYPE_CHECKING:
    from l2snet.training.plans import Plan
    from l2snet.training.recipes import Recipe

METHODS: dict[str, type[L2SNet | StepByStep]] = {"l2snet": L2SNet, "step-by-step": StepByStep}


def check_method(name: str) -> None:
    """Refuse a name that is no method's.

    Raises
    ------
    InputError : says which there are.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r} is not known; expected one of {', '.join(METHODS)}")


def roles_of(name: str) -> Sequence[str]:
    """What the method's networks are called.

    Raises
    ------
    InputError : there is no such method.
    """
    check_method(name)
    return METHODS[name].roles


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
    load: Callable[..., Method] = METHODS[name].from_weights
    return load(weights, device, precision, **_taken(name, load, options))


def make_plan(name: str, choose: Callable[[Mapping[str, Recipe]], Recipe], **options: object) -> Plan[Any]:
    """What a cross-validation of a method trains; needs the packages of training.

    Parameters
    ----------
    choose : picks one of the named recipes of each of its networks.
    options : of the method's plan; None leaves one at its default.

    Raises
    ------
    InputError : there is no such method, or an option has no part in it.
    """
    check_method(name)
    from l2snet.training.plans import L2SNetPlan, StepByStepPlan

    plans: dict[str, type[L2SNetPlan | StepByStepPlan]] = {"l2snet": L2SNetPlan, "step-by-step": StepByStepPlan}
    make: Callable[..., Plan[Any]] = plans[name]
    taken = _taken(name, make, options)
    return make(**{role: choose(recipes) for role, recipes in plans[name].named.items()}, **taken)


def _taken(name: str, maker: Callable[..., object], options: Mapping[str, object]) -> dict[str, object]:
    """The options that are not None; the maker has a parameter for each."""
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in inspect.signature(maker).parameters:
            raise InputError(f"--{option.replace('_', '-')} has no part in --method {name}; leave it out")
    return given
