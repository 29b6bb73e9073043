"""Progress on a terminal: a line for each server, and below them the first failures."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dwhctl.cli.common.output import packed
from dwhctl.cli.common.progress import (
    Server,
    Tally,
    closed_line,
    reason_text,
    running_shards,
    state_in_words,
    time_left,
)
from dwhctl.cli.common.table import Screen
from dwhctl.core.secrets import mask
from dwhctl.core.waiting import Waiting
from dwhctl.core.words import counted, one_line, shown_seconds
from dwhctl.runtime.events import Event, Notice, SliceClosed
from dwhctl.runtime.failures import reason_of
from dwhctl.runtime.messages import Failure
from dwhctl.sessions.values import State

SHOWN_FAILURES = 3
_LEAST_BAR = 8
#: What is longer than the line is cut.
_NAMED_SHARDS = 10
#: Lines of the terminal that the servers leave to the head, the sum, the failures and the prompt.
_OTHER_LINES = 6 + SHOWN_FAILURES


class LiveProgress:
    """A table that is drawn four times a second while the run works; the last one stays on the screen."""

    def __init__(self, *, verbose: bool = False, console: Console | None = None) -> None:
        self._console = console or Screen(stderr=True, highlight=False)
        self._verbose = verbose
        self._tally = Tally()
        #: The first failure of each reason, and how many there are.
        self._failures: dict[tuple[str, ...], tuple[str, str, int]] = {}
        self._waits: dict[int, str] = {}
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self.picture)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        self._tally.take(event)
        if isinstance(event, Waiting):
            self._note_wait(event)
        elif isinstance(event, Notice):
            self._print(one_line(event.text))
        elif isinstance(event, SliceClosed):
            if event.failure is not None and event.state is not State.UP_FOR_RETRY:
                self._fail(event, event.failure)
            if self._verbose:
                self._print(closed_line(event))

    def _fail(self, event: SliceClosed, failure: Failure) -> None:
        how = "in doubt" if event.state is State.RUNNING else "failed"
        key = (*reason_of(event, event.connection), how)
        reason = reason_text(failure)
        first = (how, f"{event.load} {event.shard} {event.day}: {reason}", 0)
        _, line, count = self._failures.get(key, first)
        self._failures[key] = (how, line, count + 1)

    def _note_wait(self, event: Waiting) -> None:
        with self._tally.lock:
            self._waits.pop(event.key, None)
            if event.text:
                self._waits[event.key] = one_line(event.text)

    def _print(self, text: str) -> None:
        self._live.console.print(Text(mask(text)), soft_wrap=True)

    def picture(self) -> RenderableType:
        """Return the table, the waits and the failures."""
        with self._tally.lock:
            every = self._tally.all()
            width = self._console.size.width
            texts = [line for text in self._waits.values() for line in packed(mask(text), width)]
            waits = [Text(line, style="yellow") for line in texts]
            if not every.total:
                return Group(*waits) if waits else Text("")
            return Group(self._table(every), *waits, *self._failure_lines(every))

    def _table(self, every: Server) -> Table:
        width = self._console.size.width
        rated = self._tally.rate(0) is not None
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", width=width)
        table.add_column("server", no_wrap=True, max_width=max(width // 5, 12), overflow="ellipsis")
        table.add_column("", ratio=1, min_width=_LEAST_BAR)
        for name in ("slices", "rows", *(["rows/s"] if rated else []), "failed"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", ratio=2, no_wrap=True, overflow="ellipsis")
        shown, hidden = self._shown_servers()
        for server in shown:
            self._add(table, server)
        if hidden:
            table.add_row(Text(f"and {hidden} more", style="dim"))
        self._add(table, every)
        return table

    def _shown_servers(self) -> tuple[list[Server], int]:
        """Return the servers that fit the terminal's height, those with work left first, and how many are hidden."""
        servers = list(self._tally.servers.values())
        room = max(self._console.size.height - _OTHER_LINES, 1)
        if len(servers) <= room:
            return servers, 0
        shown = sorted(servers, key=lambda server: server.done >= server.total)[:room]
        return shown, len(servers) - room

    def _add(self, table: Table, server: Server) -> None:
        table.add_row(
            Text(server.connection, style="bold" if server.connection == "all" else ""),
            ProgressBar(total=max(server.total, 1), completed=server.done),
            f"{server.done:,}/{server.total:,}",
            f"{server.rows:,}",
            *([] if (rate := self._tally.rate(server.rows)) is None else [f"{rate:,}"]),
            Text(f"{server.failed:,}", style="bold red" if server.failed else "dim"),
            Text(self._now(server), style="dim"),
        )

    def _now(self, server: Server) -> str:
        if server.connection == "all":
            return shown_seconds(self._tally.seconds()) + time_left(self._tally)
        names = running_shards(server, _NAMED_SHARDS)
        return state_in_words(server) + (f": {names}" if names else "")

    def _failure_lines(self, every: Server) -> list[Text]:
        shown = list(self._failures.values())[:SHOWN_FAILURES]
        lines = [
            Text(
                mask(f"{how if count == 1 else f'{count:,} {how}, first'}: {line}"),
                style="red",
                no_wrap=True,
                overflow="ellipsis",
            )
            for how, line, count in shown
        ]
        hidden = every.failed - sum(count for how, _, count in shown if how == "failed")
        if hidden > 0:
            lines.append(Text(f"and {counted(hidden, 'more failure')}", style="red"))
        return lines
