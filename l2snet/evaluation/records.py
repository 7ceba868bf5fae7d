"""What an evaluation leaves behind: JSON without NaN, written whole, and one record per case so that it can go on."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from l2snet.files import write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """A folder with one JSON file per case, each with the key (settings and inputs) that it was computed under."""

    folder: Path

    def get(self, case: str, key: object) -> Any:
        """What was recorded for a case under this key; None where there is nothing, another key or a damaged file."""
        try:
            record = json.loads(self._path(case).read_text("utf-8"))
            return with_nan(record["value"]) if record["key"] == digest(key) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("%s cannot be read and is computed again", self._path(case))
            return None

    def put(self, case: str, key: object, value: object) -> None:
        """Record what was computed for a case."""
        write_json({"key": digest(key), "value": value}, self._path(case))

    def _path(self, case: str) -> Path:
        return self.folder / f"{quote(case, safe=' ')}.json"


def digest(key: object) -> str:
    """Hex sha256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def fingerprint(path: Path) -> tuple[str, int, int]:
    """Whether a file is still the same: where it is, its size in bytes and when it was written."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def write_json(value: object, path: Path) -> None:
    """Write JSON, NaN as null.

    Raises
    ------
    OutputError : it cannot be written.
    """
    write_text(json.dumps(without_nan(value), indent=1, allow_nan=False) + "\n", path)


def without_nan(value: object) -> object:
    """NaN, which JSON does not have, to null, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def with_nan(value: Any) -> Any:
    """The way back: null to NaN, at any depth of mappings."""
    if isinstance(value, Mapping):
        return {key: with_nan(item) for key, item in value.items()}
    return float("nan") if value is None else value
