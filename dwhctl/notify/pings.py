"""What a run's pings say: each load and report that has a `ping_url` is told of by its own outcome."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dwhctl.alerts.message import counted
from dwhctl.alerts.ping import TIMEOUT, Ping, Pinger
from dwhctl.core.secrets import mask
from dwhctl.runtime.events import RefreshStarted, RunStarted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dwhctl.alerts.digest import Item
    from dwhctl.project.model import Project

_SHOWN_REASONS = 5
#: Who interrupts a run does not wait for a ping.
_SHORT_PATIENCE = 2.0


class RunPings:
    """The pings of one run over these loads or reports."""

    def __init__(self, project: Project, works: Iterable[str]) -> None:
        urls = {}
        for name in works:
            work = project.loads.get(name) or project.reports.get(name)
            if work is not None and work.ping_url is not None:
                urls[name] = work.ping_url
        self._names = tuple(urls)
        self._pinger = Pinger(urls, project.pings.proxy, project.pings.tls_cafile) if urls else None

    def listen(self, event: object) -> None:
        """Send the starts when the run has its locks and begins."""
        if self._pinger is not None and isinstance(event, RunStarted | RefreshStarted):
            self._pinger.start()

    def finish(self, items: Sequence[Item]) -> list[str]:
        """Send how each load or report ended, and say what could not be sent. Whoever had nothing to do is well."""
        mine: dict[str, list[Item]] = {name: [] for name in self._names}
        for item in items:
            if item.work in mine:
                mine[item.work].append(item)
        return self._send({name: _ending(of_one) for name, of_one in mine.items()})

    def fail(self, message: str) -> list[str]:
        """Say that the run could not begin, or was lost."""
        return self._send(dict.fromkeys(self._names, Ping("fail", mask(message))))

    def interrupted(self) -> list[str]:
        """Leave word at each check, without changing how it stands: nobody is alerted of what a person stopped."""
        ping = Ping("log", "interrupted by a person or the system; it has not come to its end")
        return self._send(dict.fromkeys(self._names, ping), _SHORT_PATIENCE)

    def _send(self, endings: dict[str, Ping], timeout: float = TIMEOUT) -> list[str]:
        return self._pinger.finish(endings, timeout) if self._pinger is not None else []


def _ending(items: Sequence[Item]) -> Ping:
    done = sum(item.status == "done" for item in items)
    if not items:
        return Ping("success", "nothing was missing")
    noun, done_word = ("slice", "loaded") if items[0].kind == "load" else ("report", "refreshed")
    lines = [f"{done:,} of {counted(len(items), noun)} {done_word}", *_reasons(items)]
    return Ping("success" if done == len(items) else "fail", "\n".join(lines))


def _reasons(items: Sequence[Item]) -> list[str]:
    troubles = [item.failure for item in items if item.failure is not None]
    found = Counter((one.connection, one.error_class) for one in troubles)
    examples = {
        (one.connection, one.error_class): one.message.partition("\n")[0] for one in reversed(troubles)
    }
    return [
        f"{count:,} x {connection}: {error_class}: {examples[connection, error_class]}"
        for (connection, error_class), count in found.most_common(_SHOWN_REASONS)
    ]
