"""OpenVINO without its telemetry."""

from __future__ import annotations

import sys
from typing import Any

TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    """The module `openvino`, imported so that it reports to nobody.

    As it is imported, OpenVINO would write an identifier into the user's home and send an event to Google Analytics,
    unasked. Where its telemetry cannot be imported, as here, it does without.
    """
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # None: an ImportError
    import openvino

    return openvino
