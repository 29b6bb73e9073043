"""`dwhctl alert-test`: what came back from every channel, and no secret in what it says."""

from __future__ import annotations

import base64
import functools
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from dwhctl.alerts import channels
from dwhctl.alerts.transport import Timeouts
from dwhctl.cli.common.ending import run
from dwhctl.cli.main import dwhctl
from tests.servers.bot_api import TOKEN, BotApi, Chat, Proxy
from tests.servers.mail import MailServer
from tests.support.digests import project_with

PASSWORD = "pa55 w&rd/of the mail?"
PROXY_PASSWORD = "proxy#p@ss/word"
CHANNELS = """
[alerts.chat]
type = "telegram"
when = ["one_failed"]
token = {{ env = "TG_TOKEN" }}
chat_id = "-100"
api_base = "{api}"
proxy = {{ env = "TG_PROXY" }}

[alerts.mail]
type = "email"
when = ["all_success"]
host = "localhost"
port = {port}
tls_cafile = "ca.pem"
user = "dwh"
password = {{ env = "SMTP_PASSWORD" }}
from = "dwh@example.com"
to = ["ann@example.com", "bob@example.com"]
"""


class World:
    """A project with a chat behind a proxy and a mail server with a login."""

    def __init__(self, root: Path, api: BotApi, proxy: Proxy, mail: MailServer) -> None:
        self.root = root
        self.api = api
        self.proxy = proxy
        self.mail = mail

    def run(self, *arguments: str) -> int:
        return run(dwhctl, ["alert-test", *arguments, "--project", str(self.root)])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    authority = trustme.CA()
    api, proxy = BotApi(), Proxy(f"ann:{PROXY_PASSWORD}")
    mail = MailServer(authority, login=("dwh", PASSWORD))
    with api, proxy, mail:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        project_with(tmp_path, CHANNELS.format(api=api.url, port=mail.port))
        monkeypatch.setenv("TG_TOKEN", TOKEN)
        monkeypatch.setenv("TG_PROXY", f"http://ann:{quote(PROXY_PASSWORD, safe='')}@{proxy.address}")
        monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
        short = Timeouts(connect=5, read=1.0, total=10, longest_wait=1)
        monkeypatch.setattr(
            channels, "open_channel", functools.partial(channels.open_channel, timeouts=short)
        )
        yield World(tmp_path, api, proxy, mail)


def test_it_sends_a_real_message_and_says_what_came_back(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run("--format", "json") == 0
    chat, mail = json.loads(capsys.readouterr().out)
    assert chat["latency_ms"] > 0
    assert {**chat, "latency_ms": 0} == {
        "channel": "chat",
        "type": "telegram",
        "to": "chat -100",
        "ok": True,
        "latency_ms": 0,
        "answer": "message 4711",
        "reason": None,
    }
    assert (mail["to"], mail["answer"]) == (
        "ann@example.com, bob@example.com",
        "250 2.0.0 Ok: queued as 4A2B",
    )
    name = world.root.name
    assert world.api.sent[0].text.startswith(f"🔔 {name}: a test: orders: 3 slices failed\nThis is a test")
    assert (
        "orders: 2 shards on server_0\nserver_0: connection refused\nabakan, achinsk\n"
        in world.api.sent[0].text
    )
    assert world.mail.mails[0]["Subject"] == f"[dwhctl] {name}: a test: orders: 3 slices failed"
    assert len(world.proxy.requests) == 1


def test_one_that_fails_ends_with_1_and_says_what_to_do(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.api.chats = {}
    assert world.run() == 1
    out = capsys.readouterr().out
    assert "Telegram refuses: Bad Request: chat not found; correct chat_id; start the chat" in out
    assert "250 2.0.0 Ok: queued" in out
    assert world.run("-q", "--format", "csv") == 1
    header, line = capsys.readouterr().out.splitlines()
    assert header == "channel,type,to,ok,latency_ms,answer,reason"
    assert line.startswith("chat,telegram,chat -100,false,,,")


def test_a_recipient_who_is_refused_and_a_group_that_moved(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.mail.refused = {"bob@example.com": "550 no such user"}
    world.api.chats = {"-100": Chat(moved_to=-1007), "-1007": Chat()}
    assert world.run("mail", "--format", "json") == 1
    (mail,) = json.loads(capsys.readouterr().out)
    assert mail["reason"] == "refused: bob@example.com: 550 no such user"
    assert world.run("chat", "--format", "json") == 0
    (chat,) = json.loads(capsys.readouterr().out)
    assert chat["reason"] == 'the group has a new id: write chat_id = "-1007" into alerts.chat'


def test_a_missing_secret_costs_its_channel_only(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TG_TOKEN")
    assert world.run("--format", "json") == 1
    chat, mail = json.loads(capsys.readouterr().out)
    assert chat["reason"].startswith(
        "config/dwhctl.toml: alerts.chat.token: the environment variable TG_TOKEN is not"
    )
    assert mail["ok"] is True


def test_a_dry_run_prints_the_messages_and_sends_none(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run("--dry-run") == 0
    out = capsys.readouterr().out
    assert f"-- chat (telegram to chat -100)\n🔔 {world.root.name}: a test: orders: 3 slices failed\n" in out
    assert f"\nSubject: [dwhctl] {world.root.name}: a test: orders: 3 slices failed\n" in out
    assert world.run("--dry-run", "chat", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["text"].endswith("Look closer:\ndwhctl report failures --days 2")
    assert (world.api.requests, world.mail.mails) == ([], [])


def test_an_unknown_channel_and_none_at_all(
    world: World, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run("chet") == 2
    assert "Error: there is no channel 'chet'; did you mean 'chat'?" in capsys.readouterr().err
    empty = tmp_path_factory.mktemp("empty")
    project_with(empty, "")
    assert run(dwhctl, ["alert-test", "--project", str(empty)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: no channel is configured; add one to config/dwhctl.toml")
    assert 'token   = { env = "TG_TOKEN" }' in err


def test_config_check_renders_what_a_channel_would_send(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dwhctl, ["config", "check", "--project", str(world.root)]) == 0
    main = world.root / "config" / "dwhctl.toml"
    main.write_text(main.read_text().replace('"ann@example.com"', '"ann"') + 'template = "mine.jinja"\n')
    (world.root / "config" / "alerts").mkdir()
    (world.root / "config" / "alerts" / "mine.jinja").write_text("<p>\n{{ digest.reasons[0].message }}")
    capsys.readouterr()
    assert run(dwhctl, ["config", "check", "--project", str(world.root)]) == 2
    err = capsys.readouterr().err
    assert "alerts.mail.to: <3 characters, not shown> is no address" in err
    assert "config/alerts/mine.jinja: line 2: " in err


FAULTS = ("", "429 90", "echo", "reset", "hang", "502", "page")


def test_no_failure_shows_a_secret(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Every failure in turn, with --debug and everybody's log turned on."""
    log = logging.StreamHandler(sys.stderr)
    log.addFilter(lambda record: not record.name.startswith("mail."))  # the test's own SMTP server
    logging.getLogger().addHandler(log)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        codes = [_with_fault(world, fault) for fault in FAULTS]
        codes += [_with_mail_fault(world, fault) for fault in ("554 no", "451 later", "reset", "hang")]
        world.mail.login, world.mail.login_refusal = ("dwh", "other"), f"535 {_plain()} {PASSWORD}"
        codes.append(world.run("--debug", "mail"))
        world.proxy.login = "ann:other"
        codes += [
            world.run("--debug", "chat"),
            world.run("--debug", "--format", "json"),
            world.run("--dry-run", "-v"),
        ]
    finally:
        logging.getLogger().removeHandler(log)
        logging.getLogger().setLevel(level)
    assert codes == [0] + [1] * 13 + [0]
    out, err = capfd.readouterr()
    assert err.count("Traceback") + err.count("dwhctl.core.errors.Alert") > 10
    assert "sendMessage" in err  # the log was on
    for form in _forms():
        assert form not in out + err
        assert not _files_with(world.root, form)


def _with_fault(world: World, fault: str) -> int:
    world.api.faults = [fault]
    return world.run("--debug", "chat")


def _with_mail_fault(world: World, fault: str) -> int:
    world.mail.faults = {"DATA": fault}
    return world.run("--debug", "mail")


def _plain() -> str:
    return base64.b64encode(f"\0dwh\0{PASSWORD}".encode()).decode()


def _forms() -> set[str]:
    secrets = (TOKEN, PASSWORD, PROXY_PASSWORD)
    forms = {_plain(), base64.b64encode(f"ann:{PROXY_PASSWORD}".encode()).decode(), TOKEN.partition(":")[2]}
    for secret in secrets:
        forms |= {secret, quote(secret, safe=""), quote(secret), base64.b64encode(secret.encode()).decode()}
    return forms


def _files_with(root: Path, text: str) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
