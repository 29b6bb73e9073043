"""What is failing now in a project, and the commands that try it again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from dwhctl.project.commands import in_project
from dwhctl.project.loads import is_expected
from dwhctl.project.shadows import as_asked, load_of
from dwhctl.sessions.failures import failing_tasks, read_unsuccessful

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from pathlib import Path

    from dwhctl.project.model import Load, Project, Shard
    from dwhctl.sessions.failures import FailingTask, UnsuccessfulSlice
    from dwhctl.sessions.store import SessionStore

#: What is failing now is what failed in so many days, where nobody says how many.
DAYS = 2
MOST_NAMED_SHARDS = 5
#: A command with more letters of shards would be cut in a message.
_LONGEST_NAMES = 120


class Failures:
    """What is failing in a project: it knows the project's tasks by their names in the sessions."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._known: dict[str, tuple[Load | None, dict[str, Shard]]] = {}

    def read(
        self, store: SessionStore, since: datetime, *, everything: bool = False
    ) -> tuple[list[FailingTask], list[FailingTask]]:
        """Return the failing tasks, and those left out: of slices that the configuration no longer expects.

        A slice counts when its last closed session is unsuccessful and ended since that moment. For what is replaced
        whole (reports, and loads without slice_by) a later success for the same day or a newer one clears the failure.
        With `everything` nothing is left out. Raise SessionsError.
        """
        found: list[UnsuccessfulSlice] = []
        left_out: list[UnsuccessfulSlice] = []
        for one in read_unsuccessful(store, since):
            if not (one.replaced and self._is_whole(one)):
                (found if everything or self._is_expected(one) else left_out).append(one)
        return failing_tasks(store, found), failing_tasks(store, left_out)

    def command(self, tasks: Sequence[FailingTask], place: Path | None = None) -> str | None:
        """Return the command that tries the slices of these tasks of one load, or of one report, again.

        None: the configuration no longer expects any of them. `place` is the value of --project, if it was given.
        """
        slices = [one for task in tasks for one in task.slices if self._is_expected(one)]
        if not slices:
            return None
        name, newest = slices[0].load, max(one.day for one in slices)
        if slices[0].shard is None:
            return in_project(retry_reports([name], newest), place)
        wanted = [(str(one.shard), one.day) for one in slices]
        if not self._is_whole(slices[0]):
            return retry_slices([(name, *one) for one in wanted], place)
        # The date is only a label, and a success clears the failures up to its date.
        today = datetime.now(self._project.zone).date()
        shards = "".join(f" --shard {shard}" for shard in dict.fromkeys(shard for shard, _ in wanted))
        label = "today" if newest <= today else newest
        return in_project(f"dwhctl load {as_asked(name)} --date {label}{shards}", place)

    def _of(self, name: str) -> tuple[Load | None, dict[str, Shard]]:
        """Return the load of this name, also that of a shadow run, with its shards."""
        if name not in self._known:
            load = load_of(self._project, name)
            shards = self._project.shards_of(load) if load else ()
            self._known[name] = (load, {shard.name: shard for shard in shards})
        return self._known[name]

    def _is_whole(self, one: UnsuccessfulSlice) -> bool:
        """Return whether a success replaces all rows of the task, whatever the day."""
        load, _ = self._of(one.load)
        return one.shard is None or (load is not None and load.slice_by is None)

    def _is_expected(self, one: UnsuccessfulSlice) -> bool:
        """Return whether the configuration has the task, and the slice within its days."""
        if one.shard is None:
            return one.load in self._project.reports
        load, shards = self._of(one.load)
        shard = shards.get(one.shard)
        if load is None or shard is None:
            return False
        return is_expected(load, shard, one.day)


def retry_reports(names: Sequence[str], day: date) -> str:
    """Return the command that refreshes these reports for a day once more."""
    return f"dwhctl refresh-reports {' '.join(names)} --date {day}"


def retry_slices(slices: Sequence[tuple[str, str, date]], place: Path | None = None) -> str:
    """Return the command that loads these slices, given as load, shard and day, once more.

    Where loads, shards and days do not say exactly which, --only-failed does: --only-missing would leave out a complete
    slice whose reload failed.
    """
    loads = list(dict.fromkeys(load for load, _, _ in slices))
    shards = list(dict.fromkeys(shard for _, shard, _ in slices))
    first, last = min(day for *_, day in slices), max(day for *_, day in slices)
    days = (last - first).days + 1
    is_named = len(shards) <= MOST_NAMED_SHARDS and sum(map(len, shards)) <= _LONGEST_NAMES
    asked = " ".join(map(as_asked, loads))
    words = (
        f"dwhctl load {asked} --date {last}" if days == 1 else f"dwhctl backfill {asked} -s {first} -e {last}"
    )
    words += "".join(f" --shard {shard}" for shard in shards) if is_named else ""
    is_exact = is_named and len(set(slices)) == len(loads) * len(shards) * days
    return in_project(words if is_exact else f"{words} --only-failed", place)
