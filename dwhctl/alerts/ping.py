"""Pings: an outside service learns that work starts, succeeds or fails, and misses the pings when cron is dead.

The protocol is healthchecks.io's, which others use too: `<url>/start`, `<url>`, `<url>/fail` and `<url>/log`, with a
run's UUID as `rid` and a short text as the body. Source: https://healthchecks.io/docs/http_api/

The URL is the secret.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

from dwhctl import __version__
from dwhctl.alerts.message import listed
from dwhctl.alerts.transport import ExchangeFailure, HttpSender, Timeouts, is_http_url
from dwhctl.core.errors import ConfigError
from dwhctl.core.links import cause_of
from dwhctl.core.secrets import Secret, mask, remember

Signal = Literal["start", "success", "fail", "log"]

#: For one request, in seconds; a second attempt follows a first that failed.
SECONDS = 5.0
_PAUSE = 0.5
#: So many at once; how long the end of a run waits for all of them.
_AT_ONCE = 8
TIMEOUT = 12.0
_LONGEST_BODY = 10_000
#: A shorter path is no secret, and would be masked in other texts.
_SHORTEST_SECRET = 16
_HEADERS = {"User-Agent": f"dwhctl/{__version__}", "Content-Type": "text/plain; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Ping:
    """How work ended, and a text about it."""

    signal: Signal
    text: str = ""


class Pinger:
    """The pings of one run, by the names of its loads or reports. They are sent beside the work, in threads.

    The start of a name is sent before its end; a start that comes too late is left out.
    """

    def __init__(
        self, urls: Mapping[str, Secret], proxy: Secret | None = None, tls_cafile: Path | None = None
    ) -> None:
        self._urls = dict(urls)
        self._proxy, self._tls_cafile = proxy, tls_cafile
        # The same in all pings of the run: it shows the service which end belongs to which start.
        self._run = str(uuid.uuid4())
        self._endings: Mapping[str, Ping] = {}
        self._ended = threading.Event()
        self._failures: dict[str, str] = {}
        self._left = set(self._urls)
        self._threads: list[threading.Thread] = []

    def start(self, *, starts: bool = True) -> None:
        """Send the starts in the background; the threads send the ends as well."""
        names = list(self._urls)
        for number in range(min(_AT_ONCE, len(names))):
            # A daemon: the process ends without waiting for pings.
            thread = threading.Thread(
                target=self._work, args=(names[number::_AT_ONCE], starts), name="ping", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def finish(self, endings: Mapping[str, Ping], timeout: float = TIMEOUT) -> list[str]:
        """Send how each ended within `timeout` seconds, and return a line for each cause of a failure."""
        self._endings = {name: ping for name, ping in endings.items() if name in self._urls}
        self._left = set(self._endings)
        self._ended.set()
        if not self._threads:
            self.start(starts=False)
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        failures = {**dict.fromkeys(self._left, "no answer in time"), **self._failures}
        names: dict[str, list[str]] = {}
        for name, cause in sorted(failures.items()):
            names.setdefault(cause, []).append(name)
        return [mask(f"ping of {listed(failed, 5)} failed: {cause}") for cause, failed in names.items()]

    def _work(self, names: list[str], starts: bool) -> None:
        for name in names if starts else ():
            if not self._ended.is_set():
                self._send(name, Ping("start"))
        self._ended.wait()
        for name in names:
            if name in self._endings:
                self._send(name, self._endings[name])
                self._left.discard(name)

    def _send(self, name: str, ping: Ping) -> None:
        failure = self._attempt(name, ping)
        if failure is not None and not (ping.signal == "start" and self._ended.wait(_PAUSE)):
            if ping.signal != "start":
                time.sleep(_PAUSE)
            failure = self._attempt(name, ping)
        if failure is not None:
            self._failures[name] = failure
        else:
            self._failures.pop(name, None)

    def _attempt(self, name: str, ping: Ping) -> str | None:
        """Make one request; None when the service took it, else why not."""
        sender = HttpSender(
            "config/dwhctl.toml: pings", self._proxy, self._tls_cafile, Timeouts(*[SECONDS] * 3)
        )
        try:
            url = _address(self._urls[name].reveal(), ping.signal, self._run)
            sender.check()
        except ConfigError as error:
            return str(error)
        answer = sender.post(url, mask(ping.text).encode()[:_LONGEST_BODY], _HEADERS)
        if isinstance(answer, ExchangeFailure):
            return cause_of(answer.error)
        return None if 200 <= answer.status < 300 else f"it answers {answer.status}"


def _address(url: str, signal: Signal, run: str) -> str:
    """Return the address of a signal. Raise ConfigError for a text that is no URL."""
    if not is_http_url(url.strip()):
        raise ConfigError('ping_url is no URL; write the check\'s address, "https://..."')
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    if len(path) >= _SHORTEST_SECRET:
        remember(path)  # the part that a library's log would show
    ending = "" if signal == "success" else f"/{signal}"
    query = "&".join(filter(None, (parts.query, urlencode({"rid": run}))))
    return urlunsplit((parts.scheme, parts.netloc, path + ending, query, ""))
