"""HTML pages that open from disk and ask no host for anything: templates, and the policy that a browser enforces.

Whatever a page shows is escaped (Jinja2's autoescape), and its policy runs no script but those whose hash it lists and
opens no connection, so that a hostile file name can do nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from l2snet import __version__
from l2snet.errors import MissingPackageError
from l2snet.report.shades import LESION_COLOURS
from l2snet.report.strings import PAGE, STRINGS, printable, shown

NIIVUE = "niivue-0.69.0.umd.js.gz"
POLICY = (
    "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)


def render(template: str, scripts: Sequence[str], later: Sequence[str] = (), **values: Any) -> str:
    """A page from a template of `page/`.

    Parameters
    ----------
    scripts : names of files in `page/`, run in this order.
    later : the text of what those scripts may run.

    Raises
    ------
    MissingPackageError : Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingPackageError("the report", "report") from error
    environment = Environment(loader=FunctionLoader(text_of), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"number": shown, "colour": _colour, "plain": lambda value: f"{value:g}"}
    codes = [text_of(name) for name in scripts]
    hashes = " ".join(f"'sha256-{_digest(code)}'" for code in (*codes, *later))
    text = environment.get_template(template).render(
        t=STRINGS,
        version=__version__,
        style=Markup(text_of("style.css")),  # noqa: S704 - our own file
        scripts=[Markup(code) for code in codes],  # noqa: S704 - our own files
        policy=POLICY.format(hashes=hashes),
        **values,
    )
    return printable(text)


@cache
def text_of(name: str) -> str:
    """A file of `page/`."""
    return (PAGE / name).read_text("utf-8")


def niivue() -> tuple[str, str]:
    """NiiVue's bundle: its text, and packed (gzip, base64) for a page."""
    packed = (PAGE / NIIVUE).read_bytes()
    return gzip.decompress(packed).decode("utf-8"), base64.b64encode(packed).decode("ascii")


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")


def _colour(number: int) -> str:
    return LESION_COLOURS[(number - 1) % len(LESION_COLOURS)]
