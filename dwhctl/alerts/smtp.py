"""E-mail: a message to a list of people over SMTP, with an HTML and a text part."""

from __future__ import annotations

import base64
import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses, make_msgid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dwhctl.alerts.channels import Departure, Patience, Receipt, clipped, counted, shown
from dwhctl.core.errors import (
    AlertError,
    AlertInDoubtError,
    AlertNotSentError,
    AlertRefusedError,
    ConfigError,
)
from dwhctl.core.files import read_bytes
from dwhctl.core.links import AnswerTooLongError, Links, cause_of
from dwhctl.core.secrets import remember
from dwhctl.core.waiting import within
from dwhctl.core.words import nothing_shown, quoted

if TYPE_CHECKING:
    from io import BufferedReader

    from dwhctl.alerts.message import Message
    from dwhctl.core.secrets import Secret

#: SMTP takes many round trips, and some servers make unknown_sources wait.
TIMEOUT = Patience(total=60.0)
#: One reply of the server; of a greeting or a list of extensions a few hundred octets are usual.
_LONGEST_REPLY = 64 * 1024
#: A subject stays in its line: folded before its first word it would begin with a blank.
_POLICY = SMTP.clone(max_line_length=240)


class _Link(smtplib.SMTP):
    """A connection to the server that knows when a message's content goes out, and keeps the reply to it."""

    reply: tuple[int, bytes] = (0, b"")

    def __init__(self, links: Links, departure: Departure, *arguments: Any, **options: Any) -> None:
        self._links, self._departure = links, departure
        super().__init__(*arguments, **options)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        self._links.add(made)
        return made

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Replies(self.sock.makefile("rb"))
        if isinstance(self.file, _Replies):
            self.file.left = _LONGEST_REPLY
        return super().getreply()

    def send(self, s: Any) -> None:
        if isinstance(
            s, bytes
        ):  # commands are texts; with the content's first byte the server may take the mail
            self._departure.begin()
        super().send(s)

    def data(self, msg: Any) -> tuple[int, bytes]:
        self.reply = super().data(msg)
        return self.reply


class _TlsLink(smtplib.SMTP_SSL, _Link):
    """The same, encrypted from the first byte."""

    def __init__(self, links: Links, departure: Departure, *arguments: Any, **options: Any) -> None:
        self._links, self._departure = links, departure
        # SMTP_SSL calls SMTP's own __init__, not the next one's.
        smtplib.SMTP_SSL.__init__(self, *arguments, **options)


class _Replies:
    """The server's lines. smtplib bounds each of them, but not how many one reply may have."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.left = _LONGEST_REPLY

    def readline(self, most: int = -1) -> bytes:
        line = self._file.readline(most)
        self.left -= len(line)
        if self.left < 0:
            raise AnswerTooLongError
        return line

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class MailChannel:
    """A mail server, and whom it brings our mails to."""

    name: str
    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    sender: Address
    to: tuple[Address, ...]
    user: str | None = None
    password: Secret | None = field(default=None, repr=False)
    tls_cafile: Path | None = None
    timeout: Patience = TIMEOUT

    @property
    def address(self) -> str:
        """The recipients."""
        first = self.to[0].addr_spec
        more = len(self.to) - 1
        return (
            f"{first} and {counted(more, 'other')}" if more > 2 else ", ".join(a.addr_spec for a in self.to)
        )

    def send(self, message: Message) -> Receipt:
        """Send the message to all recipients; the receipt names those whom the server refused."""
        departure, links = Departure(), Links()
        error: Exception | None = None
        try:
            return within(self.timeout.total, lambda: self._deliver(message, departure, links), links.cut)
        except Exception as caught:
            error = caught
        finally:
            links.release()
        # Raised out here the error has no context: a traceback shows nothing that a server repeated.
        raise self._translate_error(error, in_doubt=departure.give_up())

    def _deliver(self, message: Message, departure: Departure, links: Links) -> Receipt:
        tls = None if self.security == "none" else ssl.create_default_context(cafile=self.tls_cafile)
        link = self._connect(tls, departure, links)
        try:
            if tls is not None and self.security == "starttls":
                link.starttls(context=tls)
            if self.user is not None and self.password is not None:
                _log_in(link, self.user, self.password.reveal())
            to = [each.addr_spec for each in self.to]
            refused = link.send_message(self._mail(message), self.sender.addr_spec, to)
            return self._receipt(link, refused)
        finally:
            _hang_up(link)

    def _connect(self, tls: ssl.SSLContext | None, departure: Departure, links: Links) -> _Link:
        # One timeout for all: a greeting may take longer than a connection (Postfix's postscreen waits 6 s).
        if tls is not None and self.security == "tls":
            return _TlsLink(links, departure, self.host, self.port, timeout=self.timeout.read, context=tls)
        return _Link(links, departure, self.host, self.port, timeout=self.timeout.read)

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage(policy=_POLICY)
        mail["Subject"] = clipped(shown(message.subject), 200)
        mail["From"] = self.sender
        mail["To"] = self.to
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = make_msgid(domain=self.sender.domain)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's out-of-office answers it
        mail.set_content(message.text)
        mail.add_alternative(message.html, subtype="html")
        return mail

    def _receipt(self, link: _Link, refused: dict[str, tuple[int, bytes]]) -> Receipt:
        taken = len(self.to) - len(refused)
        said = _said(*link.reply)
        answer = f"taken for {taken} of {len(self.to)}: {said}" if refused else said
        return Receipt(answer, refused=tuple(f"{who}: {_said(*why)}" for who, why in refused.items()))

    def _translate_error(self, error: Exception, *, in_doubt: bool) -> AlertError:
        where = f"{self.host}:{self.port}"
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            return _recipients_refused(where, error.recipients)
        if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code > 0:
            return _refused(where, error)
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
            hint = "name its authority by tls_cafile, or correct host and security"
            return AlertNotSentError(f"{where}: {cause_of(error)}; {hint}")
        return AlertNotSentError(f"{where}: {cause_of(error)}; check host, port and security")


def _log_in(link: _Link, user: str, password: str) -> None:
    if (user + password).isascii():
        link.login(user, password)
        return
    # smtplib logs in with ASCII only; RFC 4616 wants UTF-8.
    link.ehlo_or_helo_if_needed()
    code, said = link.docmd("AUTH", f"PLAIN {_base64(user, password)}")
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, said)


def _hang_up(link: _Link) -> None:
    """End the session: whatever happens now, the mail's fate is known."""
    try:
        if link.sock is not None:
            link.quit()
    except (smtplib.SMTPException, OSError):
        pass
    finally:
        link.close()


def _refused(where: str, error: smtplib.SMTPResponseException) -> AlertError:
    """What the server's code means: 4xx later, 5xx never."""
    said = _said(error.smtp_code, error.smtp_error)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        what, remedy = "refuses the login", "correct user and password"
    elif isinstance(error, smtplib.SMTPConnectError | smtplib.SMTPHeloError):
        what, remedy = "refuses the connection", "ask who runs the server whether this machine may send"
    elif isinstance(error, smtplib.SMTPSenderRefused):
        what, remedy = "refuses the sender", "correct from, or set user and password"
    else:
        what, remedy = "refuses the mail", "ask who runs the server"
    if error.smtp_code < 500:
        return AlertNotSentError(f"{where} {what} for now: {said}")
    return AlertRefusedError(f"{where} {what}: {said}; {remedy}")


def _recipients_refused(where: str, recipients: dict[str, tuple[int, bytes]]) -> AlertError:
    reasons = ", ".join(f"{who}: {_said(*why)}" for who, why in recipients.items())
    if any(code < 500 for code, _ in recipients.values()):
        return AlertNotSentError(f"{where} refuses every recipient for now: {reasons}")
    return AlertRefusedError(f"{where} refuses every recipient: {reasons}; correct to")


def _unsupported(said: str) -> str:
    if "STARTTLS" in said:
        return (
            'the server offers no STARTTLS; set security = "tls" (port 465), or "none" where the wire is safe'
        )
    return "the server offers no login that we know; drop user and password, or correct port and security"


def _said(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return clipped(shown(f"{code} {words}"), 300)


def check_authorities(path: Path, place: str) -> None:
    """Raise ConfigError for a file that holds no certificate or cannot be read."""
    try:
        read_bytes(path)  # ssl itself waits for ever at a FIFO
        ssl.create_default_context(cafile=path)
    except OSError as error:
        why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"{place}: the file {path} cannot be used ({why}); name the authority's PEM file"
        ) from None


def remember_login(user: str, password: str) -> None:
    """Hide the password also in the forms that a server may repeat it in."""
    for form in (base64.b64encode(password.encode()).decode(), _base64(user, password)):
        remember(form)


def _base64(user: str, password: str) -> str:
    """The login as AUTH PLAIN sends it."""
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@nothing_shown()
def addresses(texts: Sequence[str], place: str) -> tuple[Address, ...]:
    """Read addresses, several in a text with commas between. Raise ConfigError for what is none."""
    found = getaddresses([" ".join(text.split()) for text in texts if text.strip()])
    if not found:
        raise ConfigError(f"{place}: names no address; write name@example.com")
    by_spec = {spec: _address(name, spec, place) for name, spec in found}
    return tuple(by_spec.values())


def _address(name: str, spec: str, place: str) -> Address:
    user, at, domain = spec.rpartition("@")
    try:
        if user and at and domain:
            return Address(name, addr_spec=f"{user}@{domain.encode('idna').decode()}")
    except (MessageError, ValueError, IndexError):
        pass
    raise ConfigError(
        f"{place}: {quoted(spec or name)} is no address; write name@example.com, the name in ASCII"
    )
