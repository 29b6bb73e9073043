"""The mail channel against a real SMTP server."""

from __future__ import annotations

import base64
import dataclasses
import email.utils
import socket
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from dwhctl.alerts.channels import open_channel
from dwhctl.alerts.message import Message, Receipt
from dwhctl.alerts.smtp import MailChannel, addresses
from dwhctl.alerts.transport import Timeouts
from dwhctl.core.errors import (
    AlertError,
    AlertInDoubtError,
    AlertNotSentError,
    AlertRefusedError,
    ConfigError,
)
from dwhctl.core.secrets import MASKED, Secret
from dwhctl.project.model import EmailAlert
from tests.servers.mail import MailServer
from tests.support.digests import MAIL, MESSAGE, project_with

LONG = Timeouts(read=20, total=40)
#: For what never comes.
SHORT = Timeouts(read=0.4, total=40)
LOGIN = ("dwh", "пароль: p&s/w0rd?")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def plain() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


def channel(
    folder: Path, server_port: int, keys: str = 'security = "none"', change: tuple[str, str] = ("", "")
) -> MailChannel:
    alerts = f"{MAIL.replace(*change) if change[0] else MAIL}port = {server_port}\n{keys}\n"
    project = project_with(folder, alerts)
    made = open_channel(project, project.alerts["mail"], LONG)
    assert isinstance(made, MailChannel)
    return made


def starttls(ca_file: Path) -> str:
    return f'tls_cafile = "{ca_file}"\nuser = "{LOGIN[0]}"\npassword = "{LOGIN[1]}"'


def test_a_mail_arrives_with_both_parts(tmp_path: Path, plain: MailServer) -> None:
    message = Message("Отчёты 📈 & <more>", "<p>строка &lt; 1</p>", "строка < 1\n.\n..точка")
    receipt = channel(tmp_path, plain.port).send(message)
    assert receipt == Receipt("250 2.0.0 Ok: queued as 4A2B")
    (mail,) = plain.mails
    assert mail["Subject"] == "Отчёты 📈 & <more>"
    assert (mail["From"], mail["To"]) == ("DWH <dwh@example.com>", "ann@example.com")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@example.com>")
    assert abs(email.utils.parsedate_to_datetime(mail["Date"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert mail.get_content_type() == "multipart/alternative"
    text, html = mail.iter_parts()
    assert text.get_content().splitlines() == ["строка < 1", ".", "..точка"]
    assert (html.get_content_type(), html.get_content().strip()) == ("text/html", "<p>строка &lt; 1</p>")


def test_two_mails_have_two_ids(tmp_path: Path, plain: MailServer) -> None:
    made = channel(tmp_path, plain.port)
    made.send(MESSAGE)
    made.send(MESSAGE)
    assert len({mail["Message-ID"] for mail in plain.mails}) == 2


def test_several_recipients_from_templates_each_once(tmp_path: Path, plain: MailServer) -> None:
    to = 'to = ["{{ var.value.all }}", "Bob <bob@example.com>", "ann@example.com"]\n'
    variables = '[variables]\nall = "ann@example.com, \\"Doe, Jo\\" <jo@example.com>"\n'
    made = channel(
        tmp_path, plain.port, f'security = "none"\n{variables}', ('to = ["ann@example.com"]\n', to)
    )
    assert made.address == "ann@example.com, jo@example.com, bob@example.com"
    made.send(MESSAGE)
    assert plain.envelopes[0].rcpt_tos == ["ann@example.com", "jo@example.com", "bob@example.com"]
    assert plain.mails[0]["To"] == 'ann@example.com, "Doe, Jo" <jo@example.com>, Bob <bob@example.com>'


def test_who_is_refused_is_told_and_the_others_get_it(tmp_path: Path, plain: MailServer) -> None:
    plain.refused = {"bob@example.com": "550 no such user", "jo@example.com": "452 mailbox full"}
    many = 'to = ["ann@example.com", "bob@example.com", "jo@example.com"]\n'
    receipt = channel(tmp_path, plain.port, change=('to = ["ann@example.com"]\n', many)).send(MESSAGE)
    assert receipt.answer == "taken for 1 of 3: 250 2.0.0 Ok: queued as 4A2B"
    assert receipt.refused == ("bob@example.com: 550 no such user", "jo@example.com: 452 mailbox full")
    assert plain.envelopes[0].rcpt_tos == ["ann@example.com"]


def test_starttls_with_a_login(tmp_path: Path, authority: trustme.CA, ca_file: Path) -> None:
    with MailServer(authority, login=LOGIN) as server:
        channel(tmp_path, server.port, starttls(ca_file)).send(MESSAGE)
        assert server.encrypted == [True]


def test_tls_from_the_first_byte_with_a_login(tmp_path: Path, authority: trustme.CA, ca_file: Path) -> None:
    with MailServer(authority, tls=True, login=LOGIN) as server:
        channel(tmp_path, server.port, starttls(ca_file) + '\nsecurity = "tls"').send(MESSAGE)
        assert server.encrypted == [True]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, authority: trustme.CA, security: str) -> None:
    with MailServer(authority, tls=security == "tls") as server:
        with pytest.raises(
            AlertNotSentError,
            match=r"certificate is not trusted: .*; write its authority's file as tls_cafile",
        ):
            channel(tmp_path, server.port, f'security = "{security}"').send(MESSAGE)
        assert server.mails == []


def test_no_starttls_no_mail(tmp_path: Path, plain: MailServer) -> None:
    with pytest.raises(AlertRefusedError, match='the server offers no STARTTLS; set security = "tls"'):
        channel(tmp_path, plain.port, "").send(MESSAGE)
    with pytest.raises(AlertNotSentError, match="TLS failed"):
        channel(tmp_path, plain.port, 'security = "tls"').send(MESSAGE)
    assert plain.mails == []


def test_a_wrong_password(tmp_path: Path, authority: trustme.CA, ca_file: Path) -> None:
    with MailServer(authority, login=(LOGIN[0], "other")) as server:
        made = channel(tmp_path, server.port, starttls(ca_file))
        with pytest.raises(AlertRefusedError, match=r"refuses the login: 535 .*; correct user and password"):
            made.send(MESSAGE)
        server.login_refusal = "454 4.7.0 Temporary authentication failure"
        with pytest.raises(AlertNotSentError, match="refuses the login for now: 454"):
            made.send(MESSAGE)


def test_a_server_without_logins_and_one_that_wants_one(tmp_path: Path, plain: MailServer) -> None:
    login = 'security = "none"\nuser = "a"\npassword = "password-of-a"'
    with pytest.raises(AlertRefusedError, match="the server offers no login that we know"):
        channel(tmp_path, plain.port, login).send(MESSAGE)
    with (
        MailServer(login=LOGIN) as server,
        pytest.raises(
            AlertRefusedError, match=r"refuses the sender: 530 .*; correct from, or set user and password"
        ),
    ):
        channel(tmp_path, server.port).send(MESSAGE)


@pytest.mark.parametrize(
    ("faults", "refused", "error", "said"),
    [
        ({"MAIL": "550 not from here"}, {}, AlertRefusedError, "refuses the sender: 550 not from here"),
        ({"MAIL": "451 try later"}, {}, AlertNotSentError, "refuses the sender for now: 451 try later"),
        ({"DATA": "554 spam"}, {}, AlertRefusedError, "refuses the mail: 554 spam"),
        ({"DATA": "452 disk full"}, {}, AlertNotSentError, "refuses the mail for now: 452 disk full"),
        (
            {},
            {"ann@example.com": "550 no such user"},
            AlertRefusedError,
            "refuses every recipient: ann@example.com: 550",
        ),
        (
            {},
            {"ann@example.com": "450 greylisted"},
            AlertNotSentError,
            "refuses every recipient for now: ann@",
        ),
        ({"MAIL": "reset"}, {}, AlertNotSentError, "the connection broke"),
        ({"MAIL": "hang"}, {}, AlertNotSentError, "no answer in time"),
        ({"DATA": "reset"}, {}, AlertInDoubtError, "the connection broke; the mail was on its way"),
        (
            {"DATA": "hang"},
            {},
            AlertInDoubtError,
            "no answer in time; the mail was on its way and may have arrived",
        ),
    ],
)
def test_what_the_server_says_or_does_not(
    tmp_path: Path,
    plain: MailServer,
    faults: dict[str, str],
    refused: dict[str, str],
    error: type[AlertError],
    said: str,
) -> None:
    plain.faults, plain.refused = faults, refused
    started = time.monotonic()
    made = channel(tmp_path, plain.port)
    with pytest.raises(error) as caught:
        dataclasses.replace(made, timeouts=SHORT if "hang" in faults.values() else LONG).send(MESSAGE)
    assert type(caught.value) is error
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"localhost:{plain.port}")
    assert caught.value.__context__ is None
    assert time.monotonic() - started < 10
    assert len(plain.mails) == (error is AlertInDoubtError)


def test_nobody_listens_or_nobody_speaks(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(AlertNotSentError, match="connection refused; check host, port and security"):
            channel(tmp_path, bound.getsockname()[1]).send(MESSAGE)
        bound.listen()
        silent = dataclasses.replace(channel(tmp_path, bound.getsockname()[1]), timeouts=SHORT)
        with pytest.raises(AlertNotSentError, match="no answer in time; check host, port and security"):
            silent.send(MESSAGE)


def test_a_total_ends_what_every_single_wait_allows(tmp_path: Path, plain: MailServer) -> None:
    plain.faults = {"DATA": "hang"}
    made = dataclasses.replace(channel(tmp_path, plain.port), timeouts=Timeouts(read=20, total=1.0))
    started = time.monotonic()
    with pytest.raises(AlertInDoubtError, match="no answer in time"):
        made.send(MESSAGE)
    assert time.monotonic() - started < 10


def test_who_gave_up_sends_no_more(tmp_path: Path, plain: MailServer) -> None:
    plain.faults = {"MAIL": "slow"}
    made = dataclasses.replace(channel(tmp_path, plain.port), timeouts=Timeouts(read=5, total=0.2))
    with pytest.raises(AlertNotSentError, match="no answer in time"):
        made.send(MESSAGE)
    time.sleep(0.6)
    assert plain.mails == []
    dataclasses.replace(made, timeouts=Timeouts()).send(MESSAGE)
    assert len(plain.mails) == 1


def test_a_domain_outside_ascii_goes_out_as_the_wire_wants_it(tmp_path: Path, plain: MailServer) -> None:
    channel(tmp_path, plain.port, change=('"ann@example.com"', '"ann@пример.рф"')).send(MESSAGE)
    assert plain.envelopes[0].rcpt_tos == ["ann@xn--e1afmkfd.xn--p1ai"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            ('"ann@example.com"', '"ann"'),
            "to: <3 characters, not shown> is no address; write name@example.com, the name in ASCII",
        ),
        (('"ann@example.com"', "\"{{ none or '' }}\""), "to: has no address; write name@example.com"),
        (('"ann@example.com"', '"анна@example.com"'), "to: <16 characters, not shown> is no address"),
        (('"DWH <dwh@example.com>"', '"dwh"'), "from: <3 characters, not shown> is no address"),
        (('"ann@example.com"', '"{{ var.value.all }}"'), "to: 'var.value.all' is undefined"),
    ],
)
def test_what_is_no_address_is_told_before_anything_is_sent(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        channel(tmp_path, 25, change=change)
    assert str(caught.value).startswith(f"config/dwhctl.toml: alerts.mail.{problem}")


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(
        ConfigError, match=r"alerts\.mail\.tls_cafile: the file .*none\.pem cannot be used \(it holds no"
    ):
        channel(tmp_path, 25, 'tls_cafile = "none.pem"')


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('user = "dwh"', "alerts.mail.password: is missing; a login has a user and a password"),
        ('tls_cafile = "no.pem"', "alerts.mail.tls_cafile: the file <6 characters, not shown> is missing"),
        ('template = "no.jinja"', "alerts.mail.template: the file <22 characters, not shown> is missing"),
    ],
)
def test_keys_that_do_not_fit(tmp_path: Path, keys: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project_with(tmp_path, f"{MAIL}{keys}\n")
    assert str(caught.value).startswith(f"config/dwhctl.toml: {problem}")


def test_a_server_that_repeats_the_login_shows_nothing(
    tmp_path: Path, authority: trustme.CA, ca_file: Path
) -> None:
    user, password = LOGIN
    plain_login = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    single = base64.b64encode(password.encode()).decode()
    with MailServer(authority, login=(user, "other")) as server:
        server.login_refusal = f"535 bad: {plain_login} {single} {quote(password)}"  # its answers are ASCII
        made = channel(tmp_path, server.port, starttls(ca_file))
        with pytest.raises(AlertRefusedError, match="refuses the login") as caught:
            made.send(MESSAGE)
    shown = "".join(traceback.format_exception(caught.value)[-1:])
    assert shown.count(MASKED) == 3
    shown += repr(made)
    for form in (plain_login, single, password, "p&s/w0rd", quote(password)):
        assert form not in shown


def test_a_channels_repr_shows_no_password() -> None:
    to = addresses(["ann@example.com"], "to")
    alert = EmailAlert(
        name="mail",
        when=("one_failed",),
        host="h",
        sender="ann@example.com",
        to=("ann@example.com",),
        user="u",
        password=Secret("hidden-password"),
    )
    assert "hidden-password" not in repr(MailChannel(alert, to[0], to))
