"""Channels: what a message goes out by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from dwhctl.errors import ConfigError
from dwhctl.project.alerts import chat_problem
from dwhctl.project.model import EmailAlert, TelegramAlert
from dwhctl.project.templates import render_text

from . import smtp, telegram
from .receipt import Receipt

if TYPE_CHECKING:
    from dwhctl.project.model import Alert, Project

    from .bounded import Patience
    from .message import Message

__all__ = ["Channel", "Receipt", "open_channel"]


class Channel(Protocol):
    """A way out."""

    @property
    def address(self) -> str:
        """Where messages go, in words, without secrets."""
        ...

    def send(self, message: Message) -> Receipt:
        """Send the message.

        Raise AlertRefusedError (never will be), AlertNotSentError (surely was not), AlertInDoubtError (may have been).
        """
        ...


def open_channel(project: Project, alert: Alert, patience: Patience | None = None) -> Channel:
    """Open the channel: its templates rendered, its secrets at hand. Raise ConfigError; nothing is connected yet."""
    if isinstance(alert, EmailAlert):
        mail = _mail(project, alert)
        return replace(mail, patience=patience) if patience else mail
    chat = _telegram(project, alert)
    return replace(chat, patience=patience) if patience else chat


def _telegram(project: Project, alert: TelegramAlert) -> telegram.TelegramChannel:
    proxy = alert.proxy.reveal() if alert.proxy else None
    telegram.check_keys(alert.name, alert.token.reveal(), alert.api_base, proxy)
    if alert.tls_cafile is not None:
        smtp.check_authorities(alert.tls_cafile, f"config/dwhctl.toml: alerts.{alert.name}.tls_cafile")
    place = f"config/dwhctl.toml: alerts.{alert.name}.chat_id"
    chat_id = render_text(project, alert.chat_id, place).strip()
    if not chat_id:
        raise ConfigError(f"{place}: renders to nothing; it is the chat's number, or @name of a channel")
    if problem := chat_problem(chat_id):
        raise ConfigError(f"{place}: {problem}")
    return telegram.TelegramChannel(
        alert.name,
        alert.token,
        chat_id,
        alert.api_base,
        alert.proxy,
        alert.message_thread_id,
        alert.tls_cafile,
    )


def _mail(project: Project, alert: EmailAlert) -> smtp.MailChannel:
    place = f"config/dwhctl.toml: alerts.{alert.name}"
    if alert.user is not None and alert.password is not None:
        smtp.remember_login(alert.user, alert.password.reveal())
    if alert.tls_cafile is not None:
        smtp.check_authorities(alert.tls_cafile, f"{place}.tls_cafile")
    sender = smtp.addresses([render_text(project, alert.sender, f"{place}.from")], f"{place}.from")
    to = [render_text(project, each, f"{place}.to") for each in alert.to]
    return smtp.MailChannel(
        alert.name,
        alert.host,
        alert.port,
        alert.security,
        sender[0],
        smtp.addresses(to, f"{place}.to"),
        alert.user,
        alert.password,
        alert.tls_cafile,
    )
