"""Progress on a terminal: a line for each server, and under them the first failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dwhctl.cli.output import counted, one_line, shown_seconds
from dwhctl.cli.progress import closed_line, time_left
from dwhctl.cli.screen import Screen
from dwhctl.cli.tally import Server, Tally
from dwhctl.project.secrets import mask
from dwhctl.runs.events import Event, Notice, SliceClosed
from dwhctl.runs.failing import reason_of
from dwhctl.sessions.values import State

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dwhctl.runs.values import Failure

SHOWN_FAILURES = 3
_BAR_WIDTH = 24
#: Lines of the terminal that the servers leave to the head, the sum, the failures and the prompt.
_OTHER_LINES = 6 + SHOWN_FAILURES


class LiveProgress:
    """Redraws itself four times a second while the run works; its last picture stays."""

    def __init__(self, *, verbose: bool = False, console: Console | None = None) -> None:
        self._console = console or Screen(stderr=True, highlight=False)
        self._verbose = verbose
        self._tally = Tally()
        #: The first failure of each reason, and how many there are.
        self._failures: dict[tuple[str, ...], tuple[str, int]] = {}
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self.picture)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take an event in; some also leave a line above the picture."""
        self._tally.take(event)
        if isinstance(event, Notice):
            self._print(one_line(event.text))
        elif isinstance(event, SliceClosed):
            if event.failure is not None and event.state is not State.UP_FOR_RETRY:
                self._fail(event, event.failure)
            if self._verbose:
                self._print(closed_line(event))

    def _fail(self, event: SliceClosed, failure: Failure) -> None:
        key = reason_of(event.load, event.connection, failure)
        reason = one_line(f"{failure.error_class}: {failure.message}")
        line, count = self._failures.get(key, (f"{event.load} {event.shard} {event.day}: {reason}", 0))
        self._failures[key] = (line, count + 1)

    def _print(self, text: str) -> None:
        self._live.console.print(Text(mask(text)), soft_wrap=True)

    def picture(self) -> RenderableType:
        """Draw how far the run is."""
        with self._tally.lock:
            every = self._tally.all()
            if not every.total:
                return Text("")
            return Group(self._table(every), *self._failure_lines(every))

    def _table(self, every: Server) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("server", no_wrap=True)
        table.add_column("")
        for name in ("slices", "rows", "rows/s", "failed"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        shown, hidden = self._shown_servers()
        for server in shown:
            self._add(table, server)
        if hidden:
            table.add_row(Text(f"and {hidden} more", style="dim"))
        self._add(table, every)
        return table

    def _shown_servers(self) -> tuple[list[Server], int]:
        """Choose the servers that fit the terminal's height: those with work left come first."""
        servers = list(self._tally.servers.values())
        room = max(self._console.size.height - _OTHER_LINES, 1)
        if len(servers) <= room:
            return servers, 0
        shown = sorted(servers, key=lambda server: server.done >= server.total)[:room]
        return shown, len(servers) - room

    def _add(self, table: Table, server: Server) -> None:
        table.add_row(
            Text(server.connection, style="bold" if server.connection == "all" else ""),
            ProgressBar(total=max(server.total, 1), completed=server.done, width=_BAR_WIDTH),
            f"{server.done:,}/{server.total:,}",
            f"{server.rows:,}",
            f"{self._tally.rate(server.rows):,}",
            Text(f"{server.failed:,}", style="bold red" if server.failed else "dim"),
            Text(self._now(server), style="dim"),
        )

    def _now(self, server: Server) -> str:
        if server.connection == "all":
            return shown_seconds(self._tally.seconds()) + time_left(self._tally)
        parts = [f"{len(server.running)} running"] if server.running else []
        parts += [f"{len(server.waiting)} waiting for a retry"] if server.waiting else []
        return ", ".join(parts)

    def _failure_lines(self, every: Server) -> list[Text]:
        shown = list(self._failures.values())[:SHOWN_FAILURES]
        lines = [
            Text(mask(f"{_how_many(count)}: {line}"), style="red", no_wrap=True, overflow="ellipsis")
            for line, count in shown
        ]
        hidden = every.failed - sum(count for _, count in shown)
        if hidden > 0:
            lines.append(Text(f"and {counted(hidden, 'more failure')}", style="red"))
        return lines


def _how_many(count: int) -> str:
    return "failed" if count == 1 else f"{count:,} failed, first"
