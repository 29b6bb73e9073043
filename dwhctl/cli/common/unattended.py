"""The end of a scheduled command that could not begin: the channels are notified, if they can be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.alerts.digest import RunKind
from dwhctl.cli.common.options import Settings
from dwhctl.core.words import SCHEDULED

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The commands in the lines of `crontab install`, and the kind of run of each.
WORKING = {
    "load": RunKind.LOAD,
    "refresh-reports": RunKind.REFRESH,
    "watch": RunKind.WATCH,
}


def tell_of_usage(arguments: Sequence[str], message: str, settings: Settings) -> None:
    """Notify the channels of a scheduled command that ended with 2. Whatever goes wrong here, it ends with 2."""
    if not _is_work(arguments):
        return
    from dwhctl.cli.common.output import tell
    from dwhctl.core.errors import Interrupted
    from dwhctl.core.words import one_line

    try:
        for line in _tell(arguments, message, settings):
            tell(one_line(line))
    except (Interrupted, KeyboardInterrupt):
        tell("interrupted while the alerts were sent")
    except Exception as error:
        tell(one_line(f"the alerts cannot be sent: {type(error).__name__}: {error}"))


def _is_work(arguments: Sequence[str]) -> bool:
    """Tell whether a scheduler started this to do work: who types a command sees what is wrong with it."""
    given = set(arguments)
    return SCHEDULED in given and _command(arguments) in WORKING and not {"--dry-run", "--help"} & given


def _command(arguments: Sequence[str]) -> str | None:
    left = iter(arguments)
    for each in left:
        if each == "--project":
            next(left, None)
        elif not each.startswith("-"):
            return each
    return None


def _tell(arguments: Sequence[str], message: str, settings: Settings) -> list[str]:
    from dwhctl.core.errors import ConfigError
    from dwhctl.core.files import set_group_access
    from dwhctl.core.words import shown_command, use_zone
    from dwhctl.notify import notify_usage_error
    from dwhctl.project.find import find_project
    from dwhctl.project.read import read_for_alerts

    try:
        root = find_project(settings.project or _named(arguments))
    except ConfigError:
        return []  # without a project there is no channel
    project = read_for_alerts(root)
    if project is None or not project.alerts:
        return []
    set_group_access(project.group_access)
    use_zone(project.zone)
    command = shown_command(arguments)
    kind = WORKING[_command(arguments) or ""]
    return [one.words() for one in notify_usage_error(project, command, message, kind)]


def _named(arguments: Sequence[str]) -> Path | None:
    """The project that the arguments name: they may be wrong from the first on, so that nobody has read them."""
    for number, each in enumerate(arguments):
        if each == "--project" and number + 1 < len(arguments):
            return Path(arguments[number + 1])
        if each.startswith("--project="):
            return Path(each.partition("=")[2])
    return None
