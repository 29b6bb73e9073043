"""The Telegram channel against a server with the Bot API's behaviour."""

from __future__ import annotations

import dataclasses
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from dwhctl.alerts.channels import open_channel
from dwhctl.alerts.message import Message, Receipt
from dwhctl.alerts.telegram import TelegramChannel
from dwhctl.alerts.transport import Timeouts
from dwhctl.core.errors import AlertInDoubtError, AlertNotSentError, AlertRefusedError, ConfigError
from dwhctl.core.secrets import MASKED, Secret
from dwhctl.project.model import TelegramAlert
from tests.servers.bot_api import TOKEN, BotApi, Chat, Proxy
from tests.support.digests import MESSAGE, TELEGRAM, project_with

#: For what never comes ...
SHORT = Timeouts(connect=0.3, read=0.3, total=0.6)
#: ... and for what comes, on a machine however busy.
LONG = Timeouts(connect=20, read=20, total=40)


@pytest.fixture(autouse=True)
def _no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as server:
        yield server


class Sleeps(list[float]):
    """Takes the place of `time.sleep`."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def channel(
    api: BotApi, sleeps: Sleeps | None = None, timeouts: Timeouts = LONG, **keys: Any
) -> TelegramChannel:
    alert = TelegramAlert(name="failures", when=("one_failed",), token=Secret(TOKEN), chat_id="-100")
    alert = alert.model_copy(update={"api_base": api.url, **keys})
    return TelegramChannel(alert, alert.chat_id, timeouts, Sleeps() if sleeps is None else sleeps)


def test_a_message_arrives_parsed_and_without_a_preview(api: BotApi) -> None:
    assert channel(api).send(MESSAGE) == Receipt("message 4711")
    (sent,) = api.sent
    assert sent.text == "failed\na < b"
    assert sent.parsed is not None
    assert sent.parsed.entities == (("b", 0, 6),)
    assert sent.fields["link_preview_options"] == {"is_disabled": True}
    assert "message_thread_id" not in sent.fields


def test_a_topic_of_a_forum(api: BotApi) -> None:
    api.chats["-100"] = Chat(topics=(7,))
    assert channel(api, message_thread_id=7).send(MESSAGE).answer == "message 4711"
    assert channel(api, message_thread_id=7).address == "chat -100, topic 7"
    with pytest.raises(AlertRefusedError, match="message thread not found; correct message_thread_id"):
        channel(api, message_thread_id=8).send(MESSAGE)


def test_what_telegram_cannot_parse_goes_out_as_plain_text(api: BotApi) -> None:
    receipt = channel(api).send(Message("", "<b>failed</i> <br>", "failed & plain"))
    assert receipt.answer == "message 4711, as plain text: the template's HTML is wrong"
    (sent,) = api.sent
    assert (sent.text, sent.fields.get("parse_mode")) == ("failed & plain", None)
    assert len(api.requests) == 2


def test_a_group_that_has_a_new_id_gets_the_message_once(api: BotApi) -> None:
    api.chats["-100"] = Chat(moved_to=-1001762374628)
    api.chats["-1001762374628"] = Chat()
    assert channel(api).send(MESSAGE) == Receipt("message 4711", migrated_to="-1001762374628")
    assert [sent.chat_id for sent in api.sent] == ["-1001762374628"]


def test_a_group_that_moves_in_circles_ends(api: BotApi) -> None:
    api.chats["-100"] = Chat(moved_to=-101)
    api.chats["-101"] = Chat(moved_to=-100)
    with pytest.raises(
        AlertRefusedError, match="upgraded to a supergroup chat; take the group's new id as chat_id"
    ):
        channel(api).send(MESSAGE)
    assert len(api.requests) == 2


@pytest.mark.parametrize(
    ("chats", "changes", "said"),
    [
        ({}, {}, "Telegram refuses: Bad Request: chat not found; correct chat_id"),
        (
            {"-100": Chat(gone="bot was kicked from the supergroup chat")},
            {},
            "Telegram refuses: Forbidden: bot was kicked from the supergroup chat; add the bot to the group again",
        ),
        (
            {"-100": Chat(gone="bot was blocked by the user")},
            {},
            "Telegram refuses: Forbidden: bot was blocked by the user; unblock the bot in that chat",
        ),
        (
            {"-100": Chat()},
            {"token": Secret("110201543:" + "x" * 35)},
            "Telegram refuses: Unauthorized; the token is wrong or was revoked: take the one that @BotFather shows",
        ),
        ({"-100": Chat()}, {"token": Secret("no-token")}, "Telegram refuses: Not Found; the token is wrong"),
    ],
)
def test_what_will_never_be_is_told_apart(
    api: BotApi, chats: dict[str, Chat], changes: dict[str, Any], said: str
) -> None:
    api.chats = chats
    with pytest.raises(AlertRefusedError) as caught:
        channel(api, **changes).send(MESSAGE)
    assert str(caught.value).startswith(said)
    assert caught.value.permanent
    assert len(api.requests) == 1


def test_too_long_and_empty_are_refused(api: BotApi) -> None:
    with pytest.raises(AlertRefusedError, match="message is too long"):
        channel(api).send(Message("", "x" * 4097, ""))
    with pytest.raises(AlertRefusedError, match="text is empty; the template renders to nothing"):
        channel(api).send(Message("", "<b> </b>", ""))
    assert channel(api).send(Message("", "<b>&lt;</b>" * 2048, "")).answer == "message 4711"


def test_a_short_wait_is_waited(api: BotApi) -> None:
    api.faults = ["429 3", "429 50"]
    sleeps = Sleeps()
    assert channel(api, sleeps).send(MESSAGE).answer == "message 4711"
    assert sleeps == [3, 50]


@pytest.mark.parametrize(("faults", "slept"), [(["429 61"], []), (["429 40", "429 30"], [40])])
def test_a_long_wait_is_left_to_a_later_run(api: BotApi, faults: list[str], slept: list[float]) -> None:
    api.faults = faults
    sleeps = Sleeps()
    with pytest.raises(AlertNotSentError, match=r"asks for a pause for (1m1s|30s)") as caught:
        channel(api, sleeps).send(MESSAGE)
    assert caught.value.retry_after in {timedelta(seconds=61), timedelta(seconds=30)}
    assert not caught.value.permanent
    assert sleeps == slept
    assert api.sent == []


@pytest.mark.parametrize("seconds", [10**9, 10**30])
def test_a_wait_beyond_all_measure(api: BotApi, seconds: int) -> None:
    api.faults = [f"429 {seconds}"]
    with pytest.raises(AlertNotSentError, match="Telegram asks for a pause"):
        channel(api).send(MESSAGE)


def test_a_server_that_always_says_now_does_not_hold_us(api: BotApi) -> None:
    api.faults = ["429 0"] * 1000
    with pytest.raises(AlertNotSentError):
        channel(api, timeouts=dataclasses.replace(LONG, longest_wait=5)).send(MESSAGE)
    assert len(api.requests) == 6


@pytest.mark.parametrize("fault", ["reset at accept", "hang at accept"])
def test_over_tls_what_breaks_before_the_request_was_surely_not_sent(fault: str) -> None:
    authority = trustme.CA()
    with (
        BotApi(certificate=_context(authority), faults=[fault]) as api,
        pytest.raises(AlertNotSentError) as caught,
    ):
        channel(api, timeouts=SHORT if "hang" in fault else LONG).send(MESSAGE)
    assert str(caught.value) in {
        "localhost cannot be reached: connection reset by peer; check network, api_base and proxy",
        "localhost cannot be reached: no answer in time; check network, api_base and proxy",
    }


def test_a_certificate_that_nobody_vouches_for() -> None:
    with BotApi(certificate=_context(trustme.CA())) as api:
        with pytest.raises(AlertNotSentError, match="the server's certificate is not trusted: "):
            channel(api).send(MESSAGE)
        assert api.requests == []


def test_over_tls_a_message_arrives(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with BotApi(certificate=_context(authority)) as api, Proxy("ann:pa%ss") as proxy:
        secret = Secret(f"http://ann:pa%25ss@{proxy.address}")
        assert channel(api, proxy=secret, tls_cafile=ca_file).send(MESSAGE).answer == "message 4711"
        assert channel(api, tls_cafile=ca_file).send(MESSAGE).answer == "message 4712"
        assert [line.rpartition(" ")[0] for line in proxy.requests] == [
            f"CONNECT {api.url.removeprefix('https://')}"
        ]


def _context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def test_nobody_listens_and_no_such_name(api: BotApi) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(AlertNotSentError, match="localhost cannot be reached: connection refused; check"):
            channel(api, api_base=f"http://localhost:{bound.getsockname()[1]}").send(MESSAGE)
    with pytest.raises(
        AlertNotSentError, match=r"no\.invalid cannot be reached: (the name cannot be resolved|no answer)"
    ):
        channel(api, api_base="http://no.invalid", timeouts=SHORT).send(MESSAGE)


def test_a_server_that_does_not_take_the_connection(api: BotApi) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        with pytest.raises(AlertNotSentError, match="no answer in time"):
            channel(api, api_base=f"http://127.0.0.1:{address[1]}", timeouts=SHORT).send(MESSAGE)
        for each in waiting:
            each.close()


@pytest.mark.parametrize(
    ("fault", "timeout"),
    [
        ("reset", LONG),
        ("hang", dataclasses.replace(LONG, read=0.4)),
        ("drip", dataclasses.replace(LONG, total=1.0)),
    ],
)
def test_what_breaks_after_the_request_is_in_doubt(api: BotApi, fault: str, timeout: Timeouts) -> None:
    api.faults = [fault]
    started = time.monotonic()
    with pytest.raises(
        AlertInDoubtError, match=r"localhost: .*; the message was on its way and may have arrived"
    ):
        channel(api, timeouts=timeout).send(MESSAGE)
    assert time.monotonic() - started < 10
    assert len(api.requests) == len(api.sent) == 1


def test_who_gave_up_sends_no_more(api: BotApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that resolve after the timeout has ended: the thread that hung must not send what was given up."""
    resolve, finished = socket.getaddrinfo, []

    def slowly(*arguments: object, **options: object) -> object:
        time.sleep(0.5)
        finished.append(1)
        return resolve(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with pytest.raises(AlertNotSentError, match="no answer in time"):
        channel(api, timeouts=dataclasses.replace(SHORT, total=0.2)).send(MESSAGE)
    time.sleep(0.6)
    assert finished
    assert api.sent == []


def test_a_gateways_page_is_in_doubt_a_strangers_page_is_wrong(api: BotApi) -> None:
    api.faults = ["502", "page"]
    with pytest.raises(AlertInDoubtError, match="Telegram answered 502; it may have sent"):
        channel(api).send(MESSAGE)
    with pytest.raises(
        AlertRefusedError, match="localhost answered 200, and not as the Bot API does; correct api_base"
    ):
        channel(api).send(MESSAGE)


def test_the_token_goes_nowhere_else(api: BotApi) -> None:
    api.faults = ["redirect"]
    with pytest.raises(AlertRefusedError, match="localhost answered 307, and not as the Bot API does"):
        channel(api).send(MESSAGE)
    assert len(api.requests) == 1


def test_through_a_proxy_with_a_login(api: BotApi) -> None:
    with Proxy("ann:secret-of-ann") as proxy:
        secret = Secret(f"http://ann:secret-of-ann@{proxy.address}")
        assert channel(api, proxy=secret).send(MESSAGE).answer == "message 4711"
        wrong = Secret(f"http://ann:wrong@{proxy.address}")
        with pytest.raises(
            AlertRefusedError, match="answered 407, and not as the Bot API does; correct api_base or proxy"
        ):
            channel(api, proxy=wrong).send(MESSAGE)
        with pytest.raises(
            AlertNotSentError, match=r"through the proxy: the proxy refuses the connection \(407\)"
        ):
            channel(api, proxy=wrong, api_base="https://localhost:1").send(MESSAGE)
    with pytest.raises(AlertNotSentError, match="through the proxy: connection refused"):
        channel(api, proxy=secret).send(MESSAGE)


def test_the_token_is_in_no_text_whatever_is_logged(
    api: BotApi, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    import traceback

    caplog.set_level(logging.DEBUG)
    api.faults = ["echo", "reset", "502", "429 90", "page", ""]
    texts = [repr(channel(api)), channel(api).address]
    chained: list[BaseException | None] = []
    for _ in api.faults[:]:
        try:
            texts.append(channel(api).send(MESSAGE).answer)
        except Exception as error:
            chained.append(error.__context__)
            texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
    assert chained == [None] * 5
    assert MASKED in "".join(texts)  # what the server repeated
    assert "sendMessage" in caplog.text  # urllib3 logs, and what it logs is masked
    assert TOKEN not in "".join([*texts, caplog.text, *capfd.readouterr()])
    assert len(api.requests) == 6


# From the project


def test_a_channel_is_made_of_the_configuration(api: BotApi, tmp_path: Path) -> None:
    alerts = (
        TELEGRAM.replace('"-100"', '"{{ var.value.chat }} "')
        + f'api_base = "{api.url}/"\nmessage_thread_id = 7\n'
    )
    project = project_with(tmp_path, alerts + "\n[variables]\nchat = -100\n")
    api.chats["-100"] = Chat(topics=(7,))
    made = open_channel(project, project.alerts["failures"], LONG)
    assert made.address == "chat -100, topic 7"
    assert made.send(MESSAGE).answer == "message 4711"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("AAHdq", "AA/dq"), "token: is no bot's token"),
        (('"-100"', '"{{ var.value.chat }}"'), "chat_id: 'var.value.chat' is undefined"),
        (('"-100"', "\" {{ none or '' }} \""), "chat_id: renders to nothing"),
        (('"-100"', '"-100"\napi_base = "api.telegram.org"'), "api_base: is no URL"),
        (('"-100"', '"-100"\nproxy = "proxy:3128"'), "proxy: is no URL of an HTTP proxy"),
        (('"-100"', '"-100"\nproxy = "http://ann:pw@proxy:port"'), "proxy: is no URL of an HTTP proxy"),
    ],
)
def test_what_can_only_be_wrong_is_told_before_anything_is_sent(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    project = project_with(tmp_path, TELEGRAM.replace(*change))
    with pytest.raises(ConfigError) as caught:
        open_channel(project, project.alerts["failures"])
    assert str(caught.value).startswith(f"config/dwhctl.toml: alerts.failures.{problem}")
