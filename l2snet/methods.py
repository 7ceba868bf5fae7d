"""The one place that knows which methods there are."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from l2snet.backend import choose_device
from l2snet.case import Case
from l2snet.errors import DeviceMemoryError, InputError
from l2snet.pipeline import L2SNet, Method, Segmentation
from l2snet.stepbystep import StepByStep

if TYPE_CHECKING:
    from l2snet.training.plans import Plan
    from l2snet.training.recipes import Recipe

logger = logging.getLogger(__name__)

METHODS: dict[str, type[L2SNet | StepByStep]] = {"l2snet": L2SNet, "step-by-step": StepByStep}


def check_method(name: str) -> None:
    """Refuse a name that is no method's.

    Raises
    ------
    InputError : says which there are.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r} is not known; expected one of {', '.join(METHODS)}")


def check_options(name: str, options: Mapping[str, object], cue: bool = False) -> dict[str, object]:
    """What `load_method` would refuse of these, before anything is loaded; gives those that are not None.

    Parameters
    ----------
    cue : its location cue is wanted.

    Raises
    ------
    InputError : there is no such method, or an option has no part in it.
    """
    check_method(name)
    if cue and not METHODS[name].has_cue:
        raise InputError(f"--cue was given, and --method {name} has no location cue; leave it out")
    return _taken(name, METHODS[name].from_weights, options)


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
    taken = check_options(name, options)
    make: Callable[..., Method] = METHODS[name].from_weights
    load = partial(make, weights, precision=precision, **taken)
    chosen = choose_device(device)
    if device != "auto" or chosen == "cpu":
        return load(device=chosen)
    try:
        return cast(Method, GpuOrCpu(load(device=chosen), partial(load, device="cpu")))
    except DeviceMemoryError as error:
        logger.warning("%s: running on the CPU", error)
        return load(device="cpu")


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


@dataclass
class GpuOrCpu:
    """A method on the GPU (`--device auto`); a case for which its memory does not do is run on the CPU, all of it.

    In all else it is the method on the GPU.

    Parameters
    ----------
    on_gpu : the method.
    load_on_cpu : gives the same method on the CPU.
    """

    on_gpu: Method
    load_on_cpu: Callable[[], Method]

    @cached_property
    def on_cpu(self) -> Method:
        """The same method on the CPU, loaded when it is first needed."""
        return self.load_on_cpu()

    def segment(self, case: Case) -> Segmentation:
        """Segment one case; a note tells where the CPU did it.

        Raises
        ------
        InputError, DeviceError : see the method.
        """
        try:
            return self.on_gpu.segment(case)
        except DeviceMemoryError as error:
            logger.warning("%s: running this case on the CPU", error)
        result = self.on_cpu.segment(case)
        engine = str(self.on_cpu.settings["engine"])
        note = f"the GPU's memory did not do: run on the CPU ({engine})"
        return replace(result, notes=(*result.notes, note), engine=engine)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__dataclass_fields__:  # copy and pickle ask before there is on_gpu
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.on_gpu, name)
