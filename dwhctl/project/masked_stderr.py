"""Masks what Python and libraries write to stderr without dwhctl: warnings, log records, errors of threads."""

from __future__ import annotations

import sys
import threading
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_plain_warning = warnings.formatwarning


def mask_python() -> None:
    """Mask the warnings of this process and the errors that end a thread, a destructor or the process. Idempotent."""
    warnings.formatwarning = _warning
    threading.excepthook = _of_thread
    sys.unraisablehook = _unraisable
    sys.excepthook = _write_error


def mask_logging() -> None:
    """Mask the log records that no handler takes: Python writes them to stderr. Idempotent."""
    import logging

    class Masked(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return _masked(super().format(record))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Masked())


def _masked(text: str) -> str:
    from .secrets import mask  # not at start-up: most commands need it later or never

    return mask(text)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return _masked(_plain_warning(message, category, filename, lineno, line))


def _of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else "?"
        _write_error(args.exc_type, args.exc_value, args.exc_traceback, f"Exception in thread {name}:\n")


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    what = args.err_msg or "Exception ignored"
    _write_error(args.exc_type, args.exc_value, args.exc_traceback, f"{what}: {type(args.object).__name__}\n")


def _write_error(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, heading: str = ""
) -> None:
    import traceback

    if sys.stderr is not None:
        sys.stderr.write(_masked(heading + "".join(traceback.format_exception(kind, error, trace))))
