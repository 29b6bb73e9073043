"""Pings: a service outside is told that work starts, succeeds or fails, and misses the sign of life when cron is dead.

The protocol is healthchecks.io's, which others speak too: `<url>/start`, `<url>`, `<url>/fail` and `<url>/log`, with a
run's UUID as `rid` and a short text as the body. Source: https://healthchecks.io/docs/http_api/

The URL is the secret. No error of requests, which would hold it, leaves this module.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

from dwhctl.alerts.channels import Patience, listed
from dwhctl.alerts.smtp import check_authorities
from dwhctl.alerts.telegram import check_proxy
from dwhctl.core.errors import ConfigError
from dwhctl.core.links import cause_of
from dwhctl.core.secrets import mask, remember

if TYPE_CHECKING:
    from pathlib import Path

    from dwhctl.alerts.http import Way
    from dwhctl.core.secrets import Secret

Signal = Literal["start", "success", "fail", "log"]

#: For one request, in seconds; a second attempt follows a first that failed.
SECONDS = 5.0
_PAUSE = 0.5
#: So many at once; how long the end of a run waits for all of them.
_AT_ONCE = 8
TIMEOUT = 12.0
_LONGEST_BODY = 10_000
#: A shorter path is no secret, and would be masked in other texts.
_NO_WORD = 16


@dataclass(frozen=True, slots=True)
class Ping:
    """How work ended, and what is said of it."""

    signal: Signal
    text: str = ""


class Pinger:
    """The pings of one run, by the names of its loads or reports. They are sent beside the work, in threads.

    Each name has its start before its end; a start that the end has overtaken is left out.
    """

    def __init__(
        self, urls: Mapping[str, Secret], proxy: Secret | None = None, tls_cafile: Path | None = None
    ) -> None:
        self._urls = dict(urls)
        self._proxy = proxy
        self._tls_cafile = tls_cafile
        # The same in all pings of the run: a service tells by it which end belongs to which start.
        self._run = str(uuid.uuid4())
        self._endings: Mapping[str, Ping] = {}
        self._ended = threading.Event()
        self._failures: dict[str, str] = {}
        self._left = set(self._urls)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Send the starts, in the background."""
        self._begin(starts=True)

    def finish(self, endings: Mapping[str, Ping], timeout: float = TIMEOUT) -> list[str]:
        """Send how each ended, and say of which that failed. It takes no longer than `timeout` seconds."""
        self._endings = {name: ping for name, ping in endings.items() if name in self._urls}
        self._left = set(self._endings)
        self._ended.set()
        if not self._threads:
            self._begin(starts=False)
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        failures = {**dict.fromkeys(self._left, "no answer in time"), **self._failures}
        return _translate_error(failures)

    def _begin(self, *, starts: bool) -> None:
        names = list(self._urls)
        for number in range(min(_AT_ONCE, len(names))):
            # A daemon: no ping keeps the process from its end.
            thread = threading.Thread(
                target=self._work, args=(names[number::_AT_ONCE], starts), name="ping", daemon=True
            )
            self._threads.append(thread)
            thread.start()

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

    def _way(self) -> Way:
        from dwhctl.alerts.http import Way

        if self._tls_cafile is not None:
            check_authorities(self._tls_cafile, "config/dwhctl.toml: pings.tls_cafile")
        if self._proxy is None:
            return Way(None, self._tls_cafile)
        proxy = self._proxy.reveal().strip()
        check_proxy("config/dwhctl.toml: pings.proxy", proxy)
        return Way(proxy, self._tls_cafile)

    def _attempt(self, name: str, ping: Ping) -> str | None:
        """Make one request; None when it was taken, else why not."""
        try:
            url = _address(self._urls[name].reveal(), ping.signal, self._run)
            status = _post(url, mask(ping.text).encode()[:_LONGEST_BODY], self._way())
        except ConfigError as error:
            return str(error)
        except Exception as error:
            return cause_of(error)
        return None if 200 <= status < 300 else f"it answers {status}"


def _address(url: str, signal: Signal, run: str) -> str:
    """Give the address of a signal. Raise ConfigError for what is no URL."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError('ping_url is no URL; write the check\'s address, "https://..."')
    path = parts.path.rstrip("/")
    if len(path) >= _NO_WORD:
        remember(path)  # the part that a library's log would show
    ending = "" if signal == "success" else f"/{signal}"
    query = "&".join(filter(None, (parts.query, urlencode({"rid": run}))))
    return urlunsplit((parts.scheme, parts.netloc, path + ending, query, ""))


def _post(url: str, body: bytes, way: Way) -> int:
    from dwhctl import __version__
    from dwhctl.alerts.http import post

    headers = {"User-Agent": f"dwhctl/{__version__}", "Content-Type": "text/plain; charset=utf-8"}
    return post(url, body, headers, Patience(SECONDS, SECONDS, SECONDS), way).status


def _translate_error(failures: Mapping[str, str]) -> list[str]:
    """Say each cause once, with the names that it is of."""
    names: dict[str, list[str]] = {}
    for name, cause in sorted(failures.items()):
        names.setdefault(cause, []).append(name)
    return [mask(f"ping of {listed(of_one, 5)} failed: {cause}") for cause, of_one in names.items()]
