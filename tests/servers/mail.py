"""A real SMTP server (aiosmtpd) that keeps what it is given, with STARTTLS or TLS, logins and faults."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
import threading
import warnings
from collections.abc import Coroutine
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Self

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

_NEVER = 30.0


@dataclass
class MailServer:
    """The server. `faults` says what it does at `MAIL` and at the end of the content, `refused` whom it does not know.

    A fault is `hang`, `reset`, `slow` (half a second), or the answer itself, as `451 try later`.
    """

    authority: trustme.CA | None = None
    tls: bool = False
    """From the first byte, instead of STARTTLS."""
    login: tuple[str, str] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    login_refusal: str | None = None
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    _server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._now(self._listen())
        return self

    def __exit__(self, *_exception: object) -> None:
        self._now(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join(_NEVER)
        self._loop.close()

    @property
    def port(self) -> int:
        """Its port on localhost."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def _now(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_NEVER)

    async def _listen(self) -> asyncio.Server:
        context = self._context() if self.authority else None
        options: dict[str, Any] = {"tls_context": None if self.tls else context}
        if self.login is not None:
            options |= {"authenticator": self._authenticate, "auth_required": True, "auth_require_tls": False}
        return await self._loop.create_server(
            lambda: self._protocol(options),
            "127.0.0.1",
            0,
            ssl=context if self.tls else None,
        )

    def _protocol(self, options: dict[str, Any]) -> SMTP:
        with warnings.catch_warnings(
            action="ignore", category=UserWarning
        ):  # of logins without TLS: on loopback
            return SMTP(self, hostname="localhost", loop=self._loop, **options)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next round

    def _context(self) -> ssl.SSLContext:
        assert self.authority is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(context)
        return context

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, login: object
    ) -> AuthResult:
        assert isinstance(login, LoginPassword)
        assert self.login is not None
        known = (login.login.decode(), login.password.decode()) == self.login
        return AuthResult(success=known, handled=False, message=None if known else self.login_refusal)

    # The hooks of aiosmtpd

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        fault = await _fault(server, self.faults.get("MAIL"))
        if fault:
            return fault
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        fault = self.faults.get("DATA")
        if fault is None or fault in {
            "hang",
            "reset",
        }:  # in these cases the mail is taken, and nobody is told
            mail = email.message_from_bytes(content, policy=email.policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
            self.envelopes.append(envelope)
            self.encrypted.append(bool(session.ssl) or self.tls)
        return await _fault(server, fault) or "250 2.0.0 Ok: queued as 4A2B"


async def _fault(server: SMTP, fault: str | None) -> str | None:
    if fault == "reset":
        assert isinstance(server.transport, asyncio.Transport)
        server.transport.abort()
        return "250 unheard"
    if fault == "hang":
        await asyncio.sleep(_NEVER)
    if fault == "slow":
        await asyncio.sleep(0.5)
        return None
    return fault
