"""The last result of `verify` for each load: kept in the state folder, read by the page."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dwhctl.core.files import inside, read_bytes, write_whole
from dwhctl.project.model import Project
from dwhctl.project.names import in_project
from dwhctl.runtime.locks import StateDir
from dwhctl.verify.findings import SliceComparison

#: So many shards with a difference are listed.
_MOST_SHARDS = 5


@dataclass(frozen=True, slots=True)
class LastVerify:
    """What `verify` found in a load, and when: slices by result, and those of `others` that belong to no day.

    `patterns` are those of --shard: empty for all shards. `examples` are slices that differ, `differs` is the first.
    """

    load: str
    finished: datetime
    start: date
    end: date
    patterns: tuple[str, ...]
    equal: int
    rows: int
    different: int
    not_compared: int
    incomplete: int
    others: int
    examples: tuple[str, ...]
    differs: tuple[str, date] | None = None

    @property
    def is_fine(self) -> bool:
        """Return whether every complete slice was compared and found equal."""
        return not (self.different or self.not_compared or self.others)

    @property
    def slices(self) -> int:
        return self.equal + self.different + self.not_compared + self.incomplete

    def command(self, root: Path) -> str:
        """Return the command that verifies the same again."""
        one = self.start == self.end
        days = f"--date {self.start}" if one else f"-s {self.start} -e {self.end}"
        shards = "".join(f" --shard {shlex.quote(pattern)}" for pattern in self.patterns)
        return in_project(f"dwhctl verify {self.load} {days}{shards}", root)

    def repair(self, project: Project) -> str | None:
        """Return the command that loads the first slice that differs again, if the project still has its shard."""
        known = {shard.name for shard in project.shards_of(project.loads[self.load])}
        if self.differs is None or self.differs[0] not in known:
            return None
        return in_project(repair_command(self.load, *self.differs), project.root)


def repair_command(load: str, shard: str, day: date) -> str:
    return f"dwhctl load {shlex.quote(load)} --date {day} --shard {shlex.quote(shard)}"


_FORM = TypeAdapter(LastVerify)


def keep_last(
    project: Project,
    load: str,
    days: Sequence[date],
    patterns: Sequence[str],
    results: Sequence[SliceComparison],
) -> None:
    """Keep the result of a load, in place of the one before. Raise OSError."""
    words = Counter(result.word for result in results if result.day is not None)
    bad = [result for result in results if not result.is_fine]
    differ = ((result.shard, result.day) for result in bad if result.day and result.word == "different")
    last = LastVerify(
        load=load,
        finished=datetime.now(UTC),
        start=min(days),
        end=max(days),
        patterns=tuple(patterns),
        equal=words["equal"],
        rows=sum(result.rows or 0 for result in results if result.is_equal),
        different=words["different"],
        not_compared=words["not compared"],
        incomplete=words["incomplete"],
        others=sum(result.day is None for result in bad),
        examples=tuple(_example(result) for result in bad[:_MOST_SHARDS]),
        differs=next(differ, None),
    )
    folder = StateDir(project.state_dir).verified
    folder.mkdir(exist_ok=True)  # without a state folder nothing ever ran: it is not made
    write_whole(inside(folder, f"{load}.json"), _FORM.dump_json(last).decode())


def read_last(project: Project) -> tuple[LastVerify, ...]:
    """Return the kept results of the project's loads; a file that cannot be read is left out."""
    folder, found = StateDir(project.state_dir).verified, []
    for load in project.loads:
        try:
            last = _FORM.validate_json(read_bytes(inside(folder, f"{load}.json"), follow=False))
        except (OSError, ValidationError):
            continue
        if last.load == load and last.finished.tzinfo is not None:
            found.append(last)
    return tuple(found)


def _example(result: SliceComparison) -> str:
    finding = result.findings[0]
    where = " ".join(filter(None, (result.shard, str(result.day or ""))))
    what = " ".join(filter(None, (finding.check.value, finding.column, finding.sides, finding.detail)))
    return f"{where}: {what}"
