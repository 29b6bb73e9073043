"""The page at the end of a run: written anew where the configuration has a path for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dwhctl.cli.common.output import tell
from dwhctl.core.errors import DwhctlError, Interrupted, LockHeldError, UsageError
from dwhctl.core.waiting import caught_signals
from dwhctl.core.words import one_line

if TYPE_CHECKING:
    from dwhctl.project.model import Project


@contextmanager
def page_afterwards(project: Project) -> Iterator[None]:
    """Write the page when the run in the block has ended, also when an error ended it.

    Not after a command that did no work, and not after an interruption. A page that cannot be written is one warning:
    it changes neither the result of the run nor its exit code.
    """
    try:
        yield
    except (LockHeldError, UsageError, Interrupted):
        raise
    except DwhctlError:
        rewrite_page(project)
        raise
    rewrite_page(project)


def rewrite_page(project: Project) -> None:
    """Write the page where the configuration has a path for it. Raise nothing."""
    if project.page.path is None:
        return
    try:
        from dwhctl.page.render import write_page

        with caught_signals():
            write_page(project, project.page.path)
    except Interrupted:
        tell("interrupted while the page was written; the next run writes it")
    except DwhctlError as error:
        tell(one_line(f"warning: {_problem(error)}; the run itself is not affected"))
    except Exception as error:
        tell(one_line(f"warning: the page cannot be written: {type(error).__name__}: {error}"))


def _problem(error: DwhctlError) -> str:
    text = str(error)
    return text if text.startswith("the page") else f"the page cannot be written: {text}"
