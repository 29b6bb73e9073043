"""Webhooks and Apprise against servers on loopback that have each service's limits and answers."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from dwhctl.alerts import apprise as apprise_channel
from dwhctl.alerts import channels
from dwhctl.alerts.apprise import AppriseChannel
from dwhctl.alerts.channels import open_channel, render, send
from dwhctl.alerts.message import Message
from dwhctl.alerts.outbox import DeliveryState
from dwhctl.alerts.transport import Timeouts
from dwhctl.alerts.webhook import WebhookChannel
from dwhctl.cli.common.ending import run
from dwhctl.cli.main import dwhctl
from dwhctl.core.errors import AlertInDoubtError, AlertNotSentError, AlertRefusedError, ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.project.model import AppriseAlert, WebhookAlert
from tests.servers.hostile import Hostile
from tests.servers.http import Api, Asked, Reply, page
from tests.servers.webhooks import MATTERMOST_PATH, SERVICES, SLACK_PATH, TEAMS_PATH, TEAMS_SIGNATURE
from tests.support.digests import DIGEST, MESSAGE, channels_in, project_with

LONG = Timeouts(connect=20, read=20, total=40)
SHORT = Timeouts(connect=0.3, read=0.3, total=0.6)
HTML = {"Content-Type": "text/html"}
CUT = {"Content-Length": "100"}
PROJECT, _ = channels_in("")


def hook(
    api: Api | Hostile, service: str = "json", timeouts: Timeouts = LONG, path: str = "", **keys: Any
) -> WebhookChannel:
    alert = WebhookAlert(name="hook", when=("one_failed",), url=Secret(api.url.rstrip("/") + path))
    alert = alert.model_copy(update={"service": service, **keys})
    channel = open_channel(PROJECT, alert, timeouts)
    assert isinstance(channel, WebhookChannel)
    return channel


def failure(
    channel: WebhookChannel | AppriseChannel, kind: type[Exception], message: Message = MESSAGE
) -> str:
    with pytest.raises(kind) as caught:
        channel.send(message)
    return str(caught.value)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("html", ["", "<b>\\@all `x` &lt;y&gt;</b>\n" * 4000])
def test_each_service_takes_its_message(service: str, html: str) -> None:
    answer, path = SERVICES[service]
    with Api(answer) as api:
        channel = hook(api, service, path=path)
        message = Message("s", html, "") if html else render(PROJECT, channel.alert, DIGEST)
        receipt = channel.send(message)
    assert receipt.answer == ("202, the workflow posts it" if service == "teams" else "200 ok")
    (asked,) = api.requests
    assert asked.headers["Content-Type"] == "application/json; charset=utf-8"
    assert channel.address == f"{service.title()} at 127.0.0.1"


@pytest.mark.parametrize(
    ("service", "path", "said"),
    [
        ("slack", SLACK_PATH[:-3], "(404): no_service; the webhook was removed or disabled"),
        (
            "mattermost",
            MATTERMOST_PATH[:-3],
            "(400): web.incoming_webhook.invalid.app_error: Invalid webhook.",
        ),
        (
            "teams",
            TEAMS_PATH[:-3],
            "(401): DirectApiAuthorizationRequired: The request must be authenticated.; the",
        ),
    ],
)
def test_a_wrong_address_is_refused_with_what_to_do(service: str, path: str, said: str) -> None:
    with Api(SERVICES[service][0]) as api:
        text = failure(hook(api, service, path=path), AlertRefusedError)
    assert said in text
    assert path not in text


@pytest.mark.parametrize(
    ("service", "reply", "kind", "said"),
    [
        (
            "slack",
            Reply(200, b"<html>login</html>", HTML),
            AlertRefusedError,
            "the answer is not as the service's",
        ),
        ("slack", page({"ok": False, "error": "channel_is_archived"}), AlertRefusedError, "restore it"),
        (
            "slack",
            Reply(410, b"channel_is_archived", HTML),
            AlertRefusedError,
            "restore it, or create a webhook",
        ),
        (
            "slack",
            Reply(500, b"rollup_error", HTML),
            AlertInDoubtError,
            "answered 500: rollup_error; it may have",
        ),
        (
            "teams",
            Reply(
                200,
                b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 413",
            ),
            AlertRefusedError,
            "HTTP error 413",
        ),
        (
            "teams",
            Reply(
                200,
                b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
            ),
            AlertNotSentError,
            "asks for a pause",
        ),
        ("json", page({"success": False, "error": "no such user"}), AlertRefusedError, "(200): no such user"),
        (
            "json",
            Reply(307, headers={"Location": "/elsewhere"}),
            AlertRefusedError,
            "a redirect, which is not followed",
        ),
        ("json", Reply(502, b"<html>Bad</html>", HTML), AlertInDoubtError, "answered 502; it may have sent"),
        ("json", Reply(403), AlertRefusedError, "the address or a header is wrong"),
        ("json", Reply(404, b"", CUT, closes=True), AlertRefusedError, "the webhook was removed"),
        (
            "slack",
            Reply(429, b"", CUT | {"Retry-After": "300"}, closes=True),
            AlertNotSentError,
            "pause for 5m",
        ),
    ],
)
def test_what_an_answer_means(service: str, reply: Reply, kind: type[Exception], said: str) -> None:
    with Api(lambda asked: reply) as api:
        assert said in failure(hook(api, service), kind)
    assert len(api.requests) == 1, "no redirect is followed"


@pytest.mark.parametrize("body", [b"", b"fine", b'{"id": 7}', b"[1]"])
def test_a_program_may_answer_anything_with_2xx(body: bytes) -> None:
    with Api(lambda asked: Reply(201, body)) as api:
        assert hook(api, headers={"X-Key": Secret("k-of-the-header")}).send(MESSAGE).answer.startswith("201")
    assert api.requests[0].headers["X-Key"] == "k-of-the-header"


def test_a_short_pause_is_waited_for_and_a_long_one_is_for_the_next_run() -> None:
    replies = [Reply(429, headers={"Retry-After": "2"}), Reply(200)]
    pauses: list[float] = []
    with Api(lambda asked: replies.pop(0)) as api:
        channel = hook(api)
        object.__setattr__(channel, "sleep", pauses.append)
        assert channel.send(MESSAGE).answer == "200"
    assert pauses == [2]
    with Api(lambda asked: Reply(429, headers={"Retry-After": "300"})) as api:
        with pytest.raises(AlertNotSentError, match="asks for a pause for 5m: too many messages") as caught:
            hook(api).send(MESSAGE)
        assert caught.value.retry_after == timedelta(minutes=5)
    assert len(api.requests) == 1


def test_a_pause_of_years_is_one_of_a_day() -> None:
    """A message is given up after some days, and whoever sent such a date may have a wrong clock."""
    date = {"Retry-After": "Fri, 31 Dec 2199 23:59:59 GMT"}
    with Api(lambda asked: Reply(429, headers=date)) as api, pytest.raises(AlertNotSentError) as caught:
        hook(api).send(MESSAGE)
    assert caught.value.retry_after == timedelta(days=1)


@pytest.mark.parametrize("body", [b"zz\r\nok", b"20\r\nok"])
def test_an_answer_in_broken_pieces_is_no_defect(body: bytes) -> None:
    with Hostile([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body]) as server:
        said = failure(hook(server), AlertInDoubtError)
    assert said == "127.0.0.1: the connection broke; the message was on its way and may have arrived"


def test_a_lost_answer_is_in_doubt_and_a_dead_server_is_not() -> None:
    drip = Reply(200, pieces=[b"x"] * 100, pause=0.1)
    with Api(lambda asked: drip) as api:
        channel = hook(api, timeouts=SHORT, path=SLACK_PATH)
        assert "may have arrived" in failure(channel, AlertInDoubtError)
    assert "127.0.0.1 cannot be reached: connection refused" in failure(channel, AlertNotSentError)


def test_a_certificate_of_no_known_authority_is_refused_before_anything_is_sent() -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with Api(lambda asked: Reply(), context) as api:
        assert "certificate is not trusted" in failure(hook(api), AlertNotSentError)
    assert api.requests == []


def test_alert_test_shows_the_answer_and_no_part_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def echo(asked: Asked) -> Reply:
        return Reply(404, f"nothing at {asked.target}".encode())

    monkeypatch.setattr(channels, "open_channel", functools.partial(channels.open_channel, timeouts=LONG))
    with Api(echo) as api:
        monkeypatch.setenv("HOOK", api.url.rstrip("/") + TEAMS_PATH)
        keys = 'type = "webhook"\nwhen = ["one_failed"]\nservice = "teams"\nurl = { env = "HOOK" }'
        project_with(tmp_path, f"[alerts.chat]\n{keys}\n")
        assert run(dwhctl, ["alert-test", "--project", str(tmp_path), "--format", "json"]) == 1
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert row["to"] == "Teams at 127.0.0.1"
    assert "the webhook was removed, or the address is wrong" in row["reason"]
    assert TEAMS_SIGNATURE not in said.out + said.err
    assert "/workflows/" not in said.out + said.err


class Shown(logging.Handler):
    """Keeps what every program's handler would show. pytest's own also listens to loggers that do not propagate."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.name}: {record.getMessage()}\n"


@pytest.fixture
def logs() -> Iterator[Shown]:
    root, handler = logging.getLogger(), Shown()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def service(api: Api, timeouts: Timeouts = LONG, path: str = "qzqzqzqzqzqzqzqzqz") -> AppriseChannel:
    url = f"json://ann:pa55word-of-ann@127.0.0.1:{api.port}/{path}"
    channel = open_channel(PROJECT, AppriseAlert(name="a", when=("one_failed",), url=Secret(url)), timeouts)
    assert isinstance(channel, AppriseChannel)
    return channel


def test_apprise_sends_the_text_within_its_url(logs: Shown) -> None:
    with Api(lambda asked: Reply()) as api:
        assert service(api).send(MESSAGE).answer == "accepted"
    (asked,) = api.requests
    assert asked.path == "/qzqzqzqzqzqzqzqzqz"
    assert asked.json["message"] == MESSAGE.text
    assert "urllib3" in logs.text, "the handler listens"
    assert "qzqz" not in logs.text
    assert service(api).address == "json://"


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(403), AlertRefusedError, "json:// refuses (403); correct the URL"),
        (Reply(429), AlertNotSentError, "asks for a pause"),
        (Reply(503), AlertInDoubtError, "answered 503; it may have sent"),
        (Reply(302, headers={"Location": "/x"}), AlertRefusedError, "refuses (302)"),
    ],
)
def test_what_apprise_meets(
    reply: Reply, kind: type[Exception], said: str, logs: Shown, capfd: pytest.CaptureFixture[str]
) -> None:
    with Api(lambda asked: reply) as api:
        assert said in failure(service(api), kind)
    assert len(api.requests) == 1, "no redirect is followed"
    captured = capfd.readouterr()
    assert "qzqz" not in logs.text + captured.out + captured.err


def test_apprise_waits_no_longer_than_it_may() -> None:
    with Api(lambda asked: Reply(200, pieces=[b"x"] * 100, pause=0.1)) as api:
        channel = service(api, SHORT)
        assert "may have arrived" in failure(channel, AlertInDoubtError)
    assert "cannot be reached" in failure(channel, AlertNotSentError)


@pytest.mark.parametrize("url", ["no-url-of-apprise", "json://a/,json://b/", "json://a/ json://b/"])
def test_apprise_takes_one_url(url: str) -> None:
    with pytest.raises(ConfigError, match=r"alerts\.a\.url: is no URL of Apprise for one service") as caught:
        open_channel(PROJECT, AppriseAlert(name="a", when=("one_failed",), url=Secret(url)))
    assert url not in str(caught.value)


def test_a_url_that_apprise_does_not_know_is_refused(logs: Shown) -> None:
    alert = AppriseAlert(name="a", when=("one_failed",), url=Secret("nosuchservice://qzqzqzqzqzqzqzqzqz"))
    result = send(PROJECT, alert, DIGEST)
    assert result.state is DeliveryState.REFUSED
    assert "Apprise cannot read the URL (nosuchservice://...)" in result.answer
    assert "qzqz" not in logs.text + result.answer


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apprise_channel, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'dwhctl\[apprise\]'"):
        open_channel(PROJECT, AppriseAlert(name="a", when=("one_failed",), url=Secret("json://localhost/")))
