"""The command line: one command, thin subcommands; heavy imports stay inside the command that needs them."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated, TextIO

import typer

from l2snet import __version__
from l2snet.cli import bench, cohort, data, doctor, evaluation, experiments, predict, prepare, report, train, weights
from l2snet.errors import L2SNetError
from l2snet.progress import is_first_process

logger = logging.getLogger(__name__)
# What shells give a program that Ctrl-C or SIGTERM ended.
INTERRUPTED, TERMINATED = 130, 143
# Where the log is shown.
_LOG: logging.StreamHandler[TextIO] = logging.StreamHandler()

app = typer.Typer(
    help="Tumour segmentation in whole-body FDG-PET/CT. Not a medical device.",
    epilog="--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# In the order of the help; commands of a group without a name are the program's own.
for group, name in (
    (predict, None),
    (doctor, None),
    (cohort, None),
    (prepare, "prepare"),
    (data, None),
    (train, "train"),
    (weights, None),
    (report, None),
    (evaluation, None),
    (experiments, None),
    (bench, None),
):
    app.add_typer(group.app, name=name)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Tumour segmentation in whole-body FDG-PET/CT. Not a medical device."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error ends as one sentence on the last line of stderr and a non-zero exit code."""
    arguments = _own_arguments() if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    level = logging.INFO if is_first_process() else logging.ERROR
    _LOG.stream = sys.stderr
    logging.basicConfig(level=logging.DEBUG if debug else level, format="%(message)s", handlers=[_LOG])
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(arguments, prog_name="l2snet", standalone_mode=False)
    except L2SNetError as error:
        _fail(f"error: {error}", 1, debug)
    except typer.TyperException as error:
        if not error.format_message():  # no arguments: the help was printed
            sys.exit(error.exit_code)
        _fail(f"error: {error.format_message()} (see l2snet --help)", error.exit_code, debug)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED, debug)
    except OSError as error:
        _fail(f"error: {error}; choose a file or folder with rights and space", 1, debug)
    except MemoryError:
        _fail("error: out of memory; use a machine with more, or close other programs", 1, debug)
    except Exception as error:  # the platform shows the last line of stderr alone: it must say something
        _fail(f"internal error: {type(error).__name__}: {' '.join(str(error).split())}; --debug shows where", 3, debug)
    if code == INTERRUPTED:  # Typer takes the interrupt for itself
        _fail("interrupted", INTERRUPTED, debug=False)
    sys.exit(code if isinstance(code, int) else 0)


def _own_arguments() -> list[str]:
    """The process's own; it begins again in UTF-8 mode where the locale says that names are in another encoding.

    ITK takes names in UTF-8 alone, results are written in it, and Python cannot change its mind later.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  # itself
    return sys.argv[1:]


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """End as an error does, so that files written aside are removed.

    A container's first process, such as the one that `docker stop` ends, would not even be ended without a handler.
    """
    _end_log()
    os.write(2, b"terminated\n")  # the signal may have come in the middle of a write to sys.stderr
    sys.exit(TERMINATED)


def _fail(sentence: str, code: int, debug: bool) -> None:
    if debug:
        logger.exception("traceback")
    _end_log()
    if sys.stderr is not None:  # it was closed
        sys.stderr.write(_on_one_line(sentence) + "\n")
    sys.exit(code)


def _end_log() -> None:
    """Show no more of the log, so that a thread that still loads networks adds nothing after the last line."""
    _LOG.acquire()  # waits for a line that is being written
    _LOG.stream = io.StringIO()
    _LOG.release()


def _on_one_line(sentence: str) -> str:
    """What terminals would act on, such as a line break in a file's name, as its escape: the last line says it all."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
