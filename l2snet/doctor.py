"""What `l2snet doctor` finds: packages, the device and why it is used, the state of the weights, and a self-test.

Nothing but the standard library is imported before the packages are known to be there.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path

from l2snet import __version__
from l2snet.errors import L2SNetError, reason
from l2snet.machine import cpus
from l2snet.openvino_quiet import import_openvino

# What inference needs, under its name as a module too, and what the extras add for those who do not train.
NEEDED = ("nibabel", "numpy", "openvino", "rich", "scipy", "SimpleITK", "typer")
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "gpu": ("onnxruntime-gpu",),
    "measure": ("connected-components-3d",),
    "dicom": ("contourpy", "highdicom", "pydicom", "python-gdcm"),
    "report": ("jinja2", "matplotlib", "pillow"),
    "cluster": ("ray",),
}
# The model card beside the networks says it of weights that nobody should measure with.
CARD, PROVISIONAL = "README.md", "**Provisional."


@dataclass(frozen=True)
class Finding:
    """One line of the report; `wrong` where something must be mended."""

    what: str
    said: str
    wrong: bool = False


def examine(method: str, weights: Path | None, device: str, precision: str) -> Iterator[Finding]:
    """Everything in turn, the self-test last; what is wrong ends it before what could not be told then."""
    wrong = False
    for finding in packages():
        wrong |= finding.wrong
        yield finding
    if wrong:
        return
    for finding in (device_used(device), *weights_state(method, weights)):
        wrong |= finding.wrong
        yield finding
    if not wrong:
        yield _try("self-test", partial(_self_test, method, weights, device, precision))


def packages() -> Iterator[Finding]:
    """Versions of what inference needs, and which optional parts are there."""
    yield Finding("l2snet", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in NEEDED:
        try:
            # No more than imported: only what starts the engine must not be done on the main thread.
            import_openvino() if name == "openvino" else import_module(name)
            yield Finding(name, metadata.version(name))
        except ImportError as error:  # PackageNotFoundError is one
            yield Finding(name, f"cannot be used ({reason(error)}): pip install --force-reinstall {name}", wrong=True)
    for extra, names in OPTIONAL.items():
        found = {name: version for name in names if (version := _version(name))}
        missing = [name for name in names if name not in found]
        remedy = f"not installed ({', '.join(missing)}): pip install 'l2snet[{extra}]'"
        yield Finding(
            f"optional, {extra}", remedy if missing else ", ".join(f"{name} {v}" for name, v in found.items())
        )


def device_used(device: str) -> Finding:
    """What networks will run on, and why."""
    from l2snet.backend import NAMES, choose_device, gpu_problem

    def said() -> str:
        chosen = choose_device(device)
        if chosen in NAMES:
            return f"{NAMES[chosen]}: its library loads and a network starts there"
        why = "--device cpu was given" if device == "cpu" else f"CUDA cannot be used: {gpu_problem()}"
        return f"CPU, {cpus()} cores ({why})"

    return _try("device", said)


def weights_state(method: str, weights: Path | None) -> list[Finding]:
    """Whether each network's files are whole, and whether its card calls it provisional."""
    from l2snet.methods import METHODS
    from l2snet.weights import NETWORK, find_weights, read_config, read_sums

    def said(role: str) -> str:
        folder = find_weights(role, weights)
        seen = len(read_config(folder).trained.get("cases", []))
        card = folder.parent / CARD
        provisional = card.is_file() and PROVISIONAL in card.read_text("utf-8")
        return (
            f"{folder}, sha256 {read_sums(folder)[NETWORK][:12]} verified, trained on {seen} cases"
            f"{', PROVISIONAL: measure nothing with it' if provisional else ''}"
        )

    return [_try(role, partial(said, role)) for role in METHODS[method].roles]


def _self_test(method: str, weights: Path | None, device: str, precision: str) -> str:
    from l2snet.methods import load_method
    from l2snet.selftest import self_test

    return self_test(load_method(method, [weights] if weights else [], device, precision))


def _try(what: str, say: Callable[[], str]) -> Finding:
    try:
        return Finding(what, say())
    except L2SNetError as error:
        return Finding(what, str(error), wrong=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
