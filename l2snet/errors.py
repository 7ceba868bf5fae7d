"""The errors a user is meant to read: one sentence of what was found, what was expected and what to do."""

import re

# What Python shows of an object that has no words for itself, such as "<_io.BytesIO object at 0x7f2b>".
_OBJECT = re.compile(r"\s*<\S+ object at 0x[0-9a-fA-F]+>")


class L2SNetError(Exception):
    """Base of every error whose message is written for the user."""


class InputError(L2SNetError):
    """The images given cannot be segmented as they are."""


class OutputError(L2SNetError):
    """The result cannot be written where it was asked for."""


class WeightsError(L2SNetError):
    """A weights folder is missing, incomplete or altered."""


class DeviceError(L2SNetError):
    """The device that was asked for cannot be had."""


class DeviceMemoryError(DeviceError):
    """The device has too little memory for what it was given."""


class TrainingError(L2SNetError):
    """A training run cannot go on."""


def reason(error: BaseException) -> str:
    """What another program's error says on its last line, without objects of it, or its name where it says nothing."""
    lines = _OBJECT.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


class MissingPackageError(L2SNetError):
    """An optional package is needed for the feature that was asked for."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'l2snet[{extra}]'")
