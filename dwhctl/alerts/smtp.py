"""E-mail: a message to a list of people over SMTP, with an HTML and a text part."""

from __future__ import annotations

import base64
import re
import smtplib
import socket
import ssl
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses, make_msgid
from html.parser import HTMLParser
from io import BufferedReader
from typing import Any

from dwhctl.alerts.message import Message, Page, Receipt, clipped, shown
from dwhctl.alerts.transport import Exchange, ExchangeFailure, Timeouts, check_authorities
from dwhctl.core.errors import (
    AlertError,
    AlertInDoubtError,
    AlertNotSentError,
    AlertRefusedError,
    ConfigError,
)
from dwhctl.core.links import AnswerTooLongError, cause_of
from dwhctl.core.secrets import remember
from dwhctl.core.words import counted, nothing_shown, quoted
from dwhctl.project.model import EmailAlert, Project
from dwhctl.project.templates import render_text

#: SMTP takes many round trips, and some servers make unknown senders wait.
TIMEOUTS = Timeouts(total=60.0)
#: One reply of the server; of a greeting or a list of extensions a few hundred octets are usual.
_LONGEST_REPLY = 64 * 1024
#: A subject stays in its line: folded before its first word it would begin with a blank.
_POLICY = SMTP.clone(max_line_length=240)
#: How many reasons a mail has, and shards of each.
_REASONS = 60


class _Connection(smtplib.SMTP):
    """A connection to the server that records when a message's content goes out, and keeps the reply to it."""

    reply: tuple[int, bytes] = (0, b"")

    def __init__(self, exchange: Exchange, *arguments: Any, **options: Any) -> None:
        self._exchange = exchange
        super().__init__(*arguments, **options)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        self._exchange.add(made)
        return made

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Replies(self.sock.makefile("rb"))
        if isinstance(self.file, _Replies):
            self.file.left = _LONGEST_REPLY
        return super().getreply()

    def send(self, s: Any) -> None:
        # Commands are texts. With the content's first byte the server may take the mail.
        if isinstance(s, bytes):
            self._exchange.begin_sending()
        super().send(s)

    def data(self, msg: Any) -> tuple[int, bytes]:
        self.reply = super().data(msg)
        return self.reply


class _TlsConnection(smtplib.SMTP_SSL, _Connection):
    def __init__(self, exchange: Exchange, *arguments: Any, **options: Any) -> None:
        self._exchange = exchange
        # SMTP_SSL calls SMTP's own __init__, not the next class's.
        smtplib.SMTP_SSL.__init__(self, *arguments, **options)


class _Replies:
    """The server's lines. smtplib bounds each of them, but not how many one reply may have."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.left = _LONGEST_REPLY
        self.close = file.close

    def readline(self, most: int = -1) -> bytes:
        line = self._file.readline(most)
        self.left -= len(line)
        if self.left < 0:
            raise AnswerTooLongError
        return line


@dataclass(frozen=True)
class MailChannel:
    """A mail server, and the recipients of its mails."""

    alert: EmailAlert
    sender: Address
    to: tuple[Address, ...]
    timeouts: Timeouts = TIMEOUTS

    @classmethod
    def open(cls, project: Project, alert: EmailAlert) -> MailChannel:
        """Check the keys and render the addresses. Raise ConfigError."""
        place = f"config/dwhctl.toml: alerts.{alert.name}"
        if alert.user is not None and alert.password is not None:
            password = alert.password.reveal()
            # A server may repeat the login in these forms.
            for form in (base64.b64encode(password.encode()).decode(), _base64(alert.user, password)):
                remember(form)
        if alert.tls_cafile is not None:
            check_authorities(alert.tls_cafile, f"{place}.tls_cafile")
        sender = addresses([render_text(project, alert.sender, f"{place}.from")], f"{place}.from")
        to = [render_text(project, text, f"{place}.to") for text in alert.to]
        return cls(alert, sender[0], addresses(to, f"{place}.to"))

    @property
    def address(self) -> str:
        names = [recipient.addr_spec for recipient in self.to]
        return f"{names[0]} and {counted(len(names) - 1, 'other')}" if len(names) > 3 else ", ".join(names)

    @staticmethod
    def message(page: Page, alert: EmailAlert) -> Message:  # noqa: ARG004
        """Render the page; its title is the subject."""
        html = page(_REASONS)
        title, text = read(html)
        return Message.titled(title or text, html, text)

    def send(self, message: Message) -> Receipt:
        """Send the message to all recipients; the receipt lists those that the server refused."""
        exchange = Exchange()
        result = exchange.run(self.timeouts.total, lambda: self._deliver(message, exchange))
        if isinstance(result, ExchangeFailure):
            raise self._translate_error(result.error, in_doubt=result.in_doubt)
        return result

    def _deliver(self, message: Message, exchange: Exchange) -> Receipt:
        alert = self.alert
        tls = None if alert.security == "none" else ssl.create_default_context(cafile=alert.tls_cafile)
        # One timeout for all: a greeting may take longer than a connection (Postfix's postscreen waits 6 s).
        options = {"timeout": self.timeouts.read}
        connection = (
            _TlsConnection(exchange, alert.host, alert.port, context=tls, **options)
            if alert.security == "tls"
            else _Connection(exchange, alert.host, alert.port, **options)
        )
        try:
            if tls is not None and alert.security == "starttls":
                connection.starttls(context=tls)
            if alert.user is not None and alert.password is not None:
                _log_in(connection, alert.user, alert.password.reveal())
            to = [recipient.addr_spec for recipient in self.to]
            refused = connection.send_message(self._mail(message), self.sender.addr_spec, to)
            reply = _reply(*connection.reply)
            answer = f"taken for {len(to) - len(refused)} of {len(to)}: {reply}" if refused else reply
            return Receipt(answer, refused=tuple(f"{who}: {_reply(*why)}" for who, why in refused.items()))
        finally:
            _close(connection)

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage(policy=_POLICY)
        mail["Subject"] = clipped(shown(message.subject), 200)
        mail["From"] = self.sender
        mail["To"] = self.to
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = make_msgid(domain=self.sender.domain)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office reply
        mail.set_content(message.text)
        mail.add_alternative(message.html, subtype="html")
        return mail

    def _translate_error(self, error: Exception, *, in_doubt: bool) -> AlertError:
        where = f"{self.alert.host}:{self.alert.port}"
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            reasons = ", ".join(f"{who}: {_reply(*why)}" for who, why in error.recipients.items())
            code = min(code for code, _ in error.recipients.values())
            return _refusal(where, "every recipient", code, reasons, "correct to")
        if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code > 0:
            what, remedy = next((what, remedy) for kind, what, remedy in _REFUSALS if isinstance(error, kind))
            reply = _reply(error.smtp_code, error.smtp_error)
            return _refusal(where, what, error.smtp_code, reply, remedy)
        if isinstance(error, smtplib.SMTPNotSupportedError):
            return AlertRefusedError(f"{where}: {_unsupported(str(error))}")
        if isinstance(error, MessageError | UnicodeError):
            return AlertRefusedError(
                f"{where}: no mail can be made for these addresses: {type(error).__name__}"
            )
        if in_doubt:
            return AlertInDoubtError(
                f"{where}: {cause_of(error)}; the mail was on its way and may have arrived"
            )
        if isinstance(error, ssl.SSLError):
            hint = "write its authority's file as tls_cafile, or correct host and security"
            return AlertNotSentError(f"{where}: {cause_of(error)}; {hint}")
        return AlertNotSentError(f"{where}: {cause_of(error)}; check host, port and security")


def _log_in(connection: _Connection, user: str, password: str) -> None:
    if (user + password).isascii():
        connection.login(user, password)
        return
    # smtplib logs in with ASCII only; RFC 4616 wants UTF-8.
    connection.ehlo_or_helo_if_needed()
    code, reply = connection.docmd("AUTH", f"PLAIN {_base64(user, password)}")
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, reply)


def _close(connection: _Connection) -> None:
    """End the session. An error is of no interest: the server has the mail or not."""
    with closing(connection), suppress(smtplib.SMTPException, OSError):
        if connection.sock is not None:
            connection.quit()


#: What the server refused, and what to do about it; the first class that fits.
_REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    (smtplib.SMTPAuthenticationError, "the login", "correct user and password"),
    (smtplib.SMTPConnectError, "the connection", "ask who runs the server whether this machine may send"),
    (smtplib.SMTPHeloError, "the connection", "ask who runs the server whether this machine may send"),
    (smtplib.SMTPSenderRefused, "the sender", "correct from, or set user and password"),
    (smtplib.SMTPResponseException, "the mail", "ask who runs the server"),
)


def _refusal(where: str, what: str, code: int, reply: str, remedy: str) -> AlertError:
    if code < 500:  # a later attempt may succeed
        return AlertNotSentError(f"{where} refuses {what} for now: {reply}")
    return AlertRefusedError(f"{where} refuses {what}: {reply}; {remedy}")


def _unsupported(text: str) -> str:
    if "STARTTLS" in text:
        return (
            'the server offers no STARTTLS; set security = "tls" (port 465), or "none" where the wire is safe'
        )
    return "the server offers no login that we know; drop user and password, or correct port and security"


def _reply(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return clipped(shown(f"{code} {words}"), 300)


def _base64(user: str, password: str) -> str:
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@nothing_shown()
def addresses(texts: Sequence[str], place: str) -> tuple[Address, ...]:
    """Read addresses, several in a text with commas between. Raise ConfigError for what is none."""
    found = getaddresses([" ".join(text.split()) for text in texts if text.strip()])
    if not found:
        raise ConfigError(f"{place}: has no address; write name@example.com")
    by_spec = {spec: _address(name, spec, place) for name, spec in found}
    return tuple(by_spec.values())


def _address(name: str, spec: str, place: str) -> Address:
    user, at, domain = spec.rpartition("@")
    with suppress(MessageError, ValueError, IndexError):
        if user and at and domain:
            return Address(name, addr_spec=f"{user}@{domain.encode('idna').decode()}")
    raise ConfigError(
        f"{place}: {quoted(spec or name)} is no address; write name@example.com, the name in ASCII"
    )


#: Newlines before and after a tag.
_BREAKS = {
    **dict.fromkeys(("div", "ul", "ol", "li", "tr", "pre", "hr", "br"), (1, 1)),
    **dict.fromkeys(("h1", "h2", "h3", "h4"), (2, 1)),
    **dict.fromkeys(("p", "table", "blockquote"), (2, 2)),
}
_UNSEEN = {"style", "script", "title", "head"}
_SPACES = re.compile(r"[ \t\n\r\f]+")
_EMPTY_LINES = re.compile(r"\n{3,}")


def read(html: str) -> tuple[str, str]:
    """Return the page's title and its text."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = "\n".join(line.strip(" ") for line in "".join(reader.text).split("\n"))
    return _SPACES.sub(" ", "".join(reader.title)).strip(), _EMPTY_LINES.sub("\n\n", lines).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.text: list[str] = []
        self._inside: list[str] = []
        self._breaks = 0  # newlines that come before the next text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._breaks = max(self._breaks, _BREAKS.get(tag, (0, 0))[0])
        if tag == "li":
            self._write("- ")
        elif tag in {"td", "th"}:
            self._write("  ")
        if tag in _UNSEEN or tag == "pre":
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._breaks = max(self._breaks, _BREAKS.get(tag, (0, 0))[1])
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "title":
            self.title.append(data)
        elif inside == "pre":
            self._write(data)
        elif inside not in _UNSEEN:
            self._write(_SPACES.sub(" ", data))

    def _write(self, text: str) -> None:
        if self._breaks and not text.isspace():
            self.text.append("\n" * self._breaks)
            self._breaks = 0
        if not self._breaks:
            self.text.append(text)
