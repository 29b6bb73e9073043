"""Chat, mail and ping servers that answer without an end, drip, or pack a bomb: bounded in time and in memory."""

from __future__ import annotations

import gzip
import itertools
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from dwhctl.alerts.ping import Ping, Pinger
from dwhctl.alerts.smtp import MailChannel, addresses
from dwhctl.alerts.telegram import TelegramChannel
from dwhctl.alerts.transport import Timeouts
from dwhctl.core.errors import AlertError, AlertInDoubtError, AlertNotSentError, AlertRefusedError
from dwhctl.core.secrets import Secret
from dwhctl.project.model import EmailAlert, PingsTable, TelegramAlert
from tests.servers.bot_api import TOKEN, BotApi, Proxy
from tests.servers.checks import Checks
from tests.servers.hostile import Hostile
from tests.support.digests import MESSAGE

#: What a client may leave in the buffers of the kernel that it never reads.
BUFFERS = 32 * 2**20
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LONG, SHORT = Timeouts(5, 5, 10), Timeouts(0.5, 0.5, 0.8)
DONE = Ping("success", "done")


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    return itertools.chain([start], itertools.repeat(piece))


def telegram(url: str, timeouts: Timeouts = LONG) -> TelegramChannel:
    alert = TelegramAlert(
        name="chat", when=("one_failed",), token=Secret(TOKEN), chat_id="-100", api_base=url
    )
    return TelegramChannel(alert, "-100", timeouts)


def mail(port: int, timeouts: Timeouts = LONG, security: Any = "none") -> MailChannel:
    alert = EmailAlert(
        name="mail",
        when=("one_failed",),
        host="127.0.0.1",
        port=port,
        security=security,
        sender="a@b.c",
        to=("d@e.f",),
    )
    return MailChannel(alert, addresses(["a@b.c"], "from")[0], addresses(["d@e.f"], "to"), timeouts)


@pytest.fixture(autouse=True)
def threads_before() -> None:
    """Remember what an earlier test may have left: only this one's threads count."""
    _before.clear()
    _before.update(threading.enumerate())


_before: set[threading.Thread] = set()


def no_thread_is_left() -> bool:
    until = time.monotonic() + 3
    while any(thread.name == "bounded" for thread in set(threading.enumerate()) - _before):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


CHUNK = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
ENDLESS = {
    "a body without an end": lambda: endless(OK + b"\r\n", b" " * 65_536),
    "in chunks": lambda: endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
    "lists in lists": lambda: [OK + b"\r\n" + b"[" * 200_000],
    "a bomb": lambda: [OK + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(bytes(200 * 2**20), 1)],
}


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_telegrams_answer_is_read_up_to_a_limit(answer: object) -> None:
    assert callable(answer)
    with Hostile(answer()) as server:
        tracemalloc.start()
        begun = time.monotonic()
        with pytest.raises(AlertRefusedError, match="answered 200, and not as the Bot API does"):
            telegram(server.url).send(MESSAGE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.monotonic() - begun < LONG.total
        assert peak < 8 * 2**20
        assert server.sent < BUFFERS
        assert b"\r\naccept-encoding: identity\r\n" in server.requests[0].lower()
    assert no_thread_is_left()


def test_a_redirect_without_an_end_is_not_read() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n"
    with Hostile(endless(head, b" " * 65_536)) as server:
        begun = time.monotonic()
        with pytest.raises(AlertError):
            telegram(server.url).send(MESSAGE)
        assert time.monotonic() - begun < 3
        assert server.sent < BUFFERS
    assert no_thread_is_left()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: endless(OK, b"X: y\r\n"), id="headers", marks=pytest.mark.long),
        pytest.param(lambda: endless(OK + b"\r\n", b" "), id="a body of single bytes"),
        pytest.param(lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="go on, go on"),
    ],
)
def test_a_drip_ends_with_the_total_and_so_does_its_connection(answer: object) -> None:
    assert callable(answer)
    with Hostile(answer(), pause=0.05) as server:
        begun = time.monotonic()
        with pytest.raises(AlertInDoubtError, match=r"no answer in time|the connection broke"):
            telegram(server.url, SHORT).send(MESSAGE)
        assert time.monotonic() - begun < 3
        assert server.ended.wait(3), "the client is still reading"
    assert no_thread_is_left()


@pytest.mark.parametrize(
    "piece", [b"220-" + b"x" * 8000 + b"\r\n", b"220-\r\n"], ids=["long lines", "short ones"]
)
@pytest.mark.parametrize("start", [b"", pytest.param(b"220 hello\r\n", marks=pytest.mark.long)])
def test_a_mail_servers_reply_without_an_end(start: bytes, piece: bytes) -> None:
    """The greeting, and the answer to EHLO."""
    with Hostile(endless(start, piece), hears=False) as server:
        tracemalloc.start()
        begun = time.monotonic()
        with pytest.raises(AlertNotSentError, match="the answer is too long; check host"):
            mail(server.port).send(MESSAGE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.monotonic() - begun < LONG.total
        assert peak < 8 * 2**20
        assert server.sent < BUFFERS
    assert no_thread_is_left()


@pytest.mark.parametrize("security", ["none", "tls"])
def test_a_mail_server_that_drips(security: str) -> None:
    with Hostile(endless(b"", b"2"), pause=0.05, hears=False) as server:
        begun = time.monotonic()
        with pytest.raises(AlertNotSentError):
            mail(server.port, SHORT, security).send(MESSAGE)
        assert time.monotonic() - begun < 3
        assert server.ended.wait(3), "the client is still reading"
    assert no_thread_is_left()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: endless(OK + b"\r\n", b" " * 65_536), []),
        (
            lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            ["ping of orders failed: no answer in time"],
        ),
    ],
)
def test_a_pings_answer_is_not_read(answer: object, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dwhctl.alerts import ping as ping_room

    assert callable(answer)
    monkeypatch.setattr(ping_room, "SECONDS", 0.5)
    with Hostile(answer()) as server:
        pinger = Pinger({"orders": Secret(f"{server.url}/ping/5bf66975-d4c7-4bf5-bcc8-b8d8a82ea278")})
        assert pinger.finish({"orders": DONE}) == said
        assert server.ended.wait(3)
        assert server.sent < BUFFERS * 4
    assert no_thread_is_left()


# What the environment holds goes to no host


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A person's ~/.netrc, and a proxy in the environment."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("default login ann password secret-of-ann\n")
    monkeypatch.setenv("HOME", str(home))
    with Proxy() as proxy:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield proxy


def heard(requests: Iterable[bytes]) -> bytes:
    return b"".join(requests).lower()


def test_netrc_and_the_environments_proxy_are_not_used(netrc: Proxy) -> None:
    page = [OK + b"Content-Length: 2\r\n\r\n{}"]
    with Hostile(page) as server:
        with pytest.raises(AlertError):
            telegram(server.url).send(MESSAGE)
        assert Pinger({"orders": Secret(f"{server.url}/ping/5bf66975-d4c7")}).finish({"orders": DONE}) == []
        assert len(server.requests) == 2
        assert b"authorization" not in heard(server.requests)
    assert netrc.requests == []


def test_a_ping_goes_by_the_proxy_and_trusts_the_authority_of_the_configuration(tmp_path: Path) -> None:
    from tests.integration.test_telegram import _context

    with Checks() as checks, Proxy() as proxy:
        pinger = Pinger({"orders": Secret(checks.url())}, Secret(f"http://{proxy.address}"))
        assert pinger.finish({"orders": DONE}) == []
        assert len(proxy.requests) == len(checks.pinged) == 1
        [wrong] = Pinger({"orders": Secret(checks.url())}, Secret("proxy:3128")).finish({"orders": DONE})
        assert "config/dwhctl.toml: pings.proxy: is no URL of an HTTP proxy; write it as http://user" in wrong
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with BotApi(certificate=_context(authority)) as api:
        urls = {"orders": Secret(f"{api.url}/ping/x")}
        [refused] = Pinger(urls).finish({"orders": DONE})
        assert "certificate is not trusted" in refused
        [answered] = Pinger(urls, tls_cafile=tmp_path / "ca.pem").finish({"orders": DONE})
        assert answered == "ping of orders failed: it answers 404"
    assert PingsTable().proxy is None
