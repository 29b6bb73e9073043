"""Alerts: the channels that a run's digest is sent to."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .fields import (
    AlertFile,
    Host,
    Listed,
    ProjectPath,
    SomeTexts,
    SomeTime,
    TableWithoutUrls,
    Text,
    Texts,
    given,
)
from .secrets import Secret

Occasion = Literal["all_success", "one_failed", "all_done", "sla_miss"]


def _id_text(value: Any) -> Any:
    # Telegram's chats are numbers; both 123 and "123" are what people write.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def chat_problem(chat: str) -> str | None:
    """Why this is no chat of Telegram, or None. It is not shown: it may be a token in the wrong place."""
    if re.fullmatch(r"-?\d+|@\w+", chat):
        return None
    return "is no chat; write its number, as -1001762374628, or a public chat's name, as @reports"


def _chat(chat: str) -> str:
    problem = None if "{" in chat else chat_problem(chat)  # a template is looked at when it is rendered
    if problem:
        raise ValueError(problem)
    return chat


class _Alert(TableWithoutUrls):
    """What every channel has."""

    name: str = given("the channel's name")
    when: Annotated[tuple[Occasion, ...], Listed, Field(min_length=1)] = Field(
        description="When a digest is sent; `one_failed` tells the recovery as well.",
        examples=[["one_failed", "sla_miss"]],
    )
    loads: Texts = Field(
        (),
        description="Only of these loads (and `reports`) it is told; with neither key of all.",
        examples=[["orders"]],
    )
    reports: Texts = Field(
        (),
        description="Only of these reports (and `loads`) it is told; with neither key of all.",
        examples=[["city_orders"]],
    )
    repeat_after: SomeTime = Field(
        timedelta(hours=24),
        description="A failure that is still the same is told again after this time.",
        examples=["24h"],
    )
    template: AlertFile | None = Field(
        None,
        description="A template of your own, relative to `config/alerts/`.",
        examples=["telegram_failures.jinja"],
    )


class TelegramAlert(_Alert):
    """A Telegram chat."""

    type: Literal["telegram"] = Field("telegram", description="The kind of channel.", examples=["telegram"])
    token: Secret = Field(description="The bot's token.", examples=[{"env": "TG_TOKEN"}])
    chat_id: Annotated[Text, BeforeValidator(_id_text), AfterValidator(_chat)] = Field(
        description="The chat; a template.", examples=["{{ var.value.failures_chat }}"]
    )
    api_base: Text = Field(
        "https://api.telegram.org", description="Where the API is.", examples=["https://api.telegram.org"]
    )
    proxy: Secret | None = Field(
        None,
        description="A proxy's URL, which may hold a password; the environment's HTTPS_PROXY is not used.",
        examples=[{"env": "TG_PROXY"}],
    )
    tls_cafile: ProjectPath | None = Field(
        None,
        description="The authorities that the host's certificate may come from; default: those of the package certifi.",
        examples=["config/proxy-ca.pem"],
    )
    message_thread_id: int | None = Field(None, description="The topic of a forum chat.", examples=[7])


class EmailAlert(_Alert):
    """A mail to a list of people."""

    type: Literal["email"] = Field("email", description="The kind of channel.", examples=["email"])
    host: Host = Field(description="The mail server.", examples=["smtp.example.com"])
    port: int = Field(587, ge=1, le=65_535, description="Its port.", examples=[587])
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How the connection is encrypted.", examples=["tls"]
    )
    tls_cafile: ProjectPath | None = Field(
        None,
        description="The authorities that the server's certificate may come from; default: the system's.",
        examples=["config/mail-ca.pem"],
    )
    user: Text | None = Field(None, description="The user to log in as.", examples=["dwh"])
    password: Secret | None = Field(None, description="The password.", examples=[{"env": "SMTP_PASSWORD"}])
    sender: Text = Field(alias="from", description="The sender; a template.", examples=["dwh@example.com"])
    to: SomeTexts = Field(
        description="The recipients; templates, each for one address or several with commas between.",
        examples=[["{{ var.value.all_the_kings_men }}"]],
    )

    @model_validator(mode="after")
    def _a_login_is_whole(self) -> EmailAlert:
        if (self.user is None) != (self.password is None):
            missing = "user" if self.user is None else "password"
            raise ValueError(
                f"{missing}: is missing; a login has a user and a password: add it, or drop both"
            )
        return self


Alert = TelegramAlert | EmailAlert

ALERT_TYPES: dict[str, type[Alert]] = {"telegram": TelegramAlert, "email": EmailAlert}
