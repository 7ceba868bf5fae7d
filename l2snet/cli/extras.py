"""Optional packages: what is missing is said with the install command, before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from l2snet.errors import MissingPackageError

# Packages that counting voxels and components needs (extra `evaluate`).
EVALUATION = ("cc3d", "grand_challenge_metrics")
# What training Step-by-Step needs beside PyTorch (extra `train`).
TRAINING = ("torch", "monai", "lmdb", "zstandard")


@contextmanager
def needs(feature: str, extra: str) -> Iterator[None]:
    """Turn an ImportError inside the block into the install command of an extra."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(feature, extra) from error


def require(feature: str, extra: str, *packages: str) -> None:
    """Say at once, not after an hour, that an extra is not installed."""
    if any(find_spec(package) is None for package in packages):
        raise MissingPackageError(feature, extra)
