"""A channel is one class and one line of registration; its errors decide what becomes of a message."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from dwhctl.alerts.channels import CHANNELS, REFUSED_PAUSE, open_channel, send
from dwhctl.alerts.message import Message, Page, Receipt
from dwhctl.alerts.outbox import DeliveryState, Result
from dwhctl.alerts.transport import Timeouts
from dwhctl.core.errors import AlertInDoubtError, AlertNotSentError, AlertRefusedError, ConfigError
from dwhctl.core.secrets import MASKED, remember
from dwhctl.project.model import Project
from tests.support.digests import DIGEST, TELEGRAM, channels_in

PROJECT, ALERTS = channels_in(TELEGRAM)
USUAL = Timeouts()


@dataclass(frozen=True)
class Board:
    """A channel as a module would have it."""

    name: str
    timeouts: Timeouts = USUAL
    sent: ClassVar[list[Message]] = []
    answers: ClassVar[list[Exception | Receipt]] = []

    @classmethod
    def open(cls, project: Project, alert: Any) -> Board:
        return cls(alert.name)

    @property
    def address(self) -> str:
        return f"board {self.name}"

    @staticmethod
    def message(page: Page, alert: Any) -> Message:
        html = page(2)
        return Message.titled(html, html, html)

    def send(self, message: Message) -> Receipt:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.sent.append(message)
        return answer


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    Board.sent.clear()
    monkeypatch.setitem(CHANNELS, "telegram", Board)


def test_a_registered_class_renders_and_sends() -> None:
    Board.answers[:] = [Receipt("pinned", migrated_to="7", refused=("ann: full",))]
    result = send(PROJECT, ALERTS["failures"], DIGEST)
    answer = "pinned; the chat has moved: set chat_id to 7; refused for ann: full"
    assert result == Result(DeliveryState.SENT, answer)
    (message,) = Board.sent
    assert "orders, calls: 41 slices failed" in message.subject
    assert "... and 1 more reason" in message.text, "as many reasons as the channel asked for"
    opened = open_channel(PROJECT, ALERTS["failures"], Timeouts(read=1))
    assert opened == Board("failures", Timeouts(read=1))


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (AlertRefusedError("no"), Result(DeliveryState.REFUSED, "no", REFUSED_PAUSE)),
        (
            AlertNotSentError("later", timedelta(minutes=5)),
            Result(DeliveryState.QUEUED, "later", timedelta(minutes=5)),
        ),
        (ConfigError("unset"), Result(DeliveryState.QUEUED, "unset")),
        (AlertInDoubtError("lost"), Result(DeliveryState.UNKNOWN, "lost")),
        (
            ZeroDivisionError("5f-secret"),
            Result(DeliveryState.UNKNOWN, f"a defect in dwhctl: ZeroDivisionError: {MASKED}"),
        ),
    ],
)
def test_each_error_has_its_result(error: Exception, result: Result) -> None:
    remember("5f-secret")
    Board.answers[:] = [error]
    assert send(PROJECT, ALERTS["failures"], DIGEST) == result
