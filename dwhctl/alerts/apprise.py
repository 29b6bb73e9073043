"""Apprise: a message to one of the services that the package Apprise knows. Source: https://github.com/caronc/apprise

Its URL holds secrets, and so may its log: nothing of that is shown, but what kind of failure it was.
"""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dwhctl.alerts.message import Message, Page, Receipt
from dwhctl.alerts.telegram import chat_message
from dwhctl.alerts.transport import Exchange, ExchangeFailure, Timeouts, asks_for_pause
from dwhctl.alerts.webhook import hide_address
from dwhctl.core.errors import (
    AlertError,
    AlertInDoubtError,
    AlertNotSentError,
    AlertRefusedError,
    ConfigError,
)
from dwhctl.core.links import mask_logs
from dwhctl.project.model import AppriseAlert, Project

if TYPE_CHECKING:
    from apprise import Apprise


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://\S+", re.IGNORECASE | re.ASCII)
_FURTHER = re.compile(r",[a-z][a-z0-9+.-]*://", re.IGNORECASE | re.ASCII)
_STATUS = re.compile(r"error=(\d{3})\b")
#: What urllib3 says of a connection that did not come about. Apprise writes the error into its log.
_NOT_CONNECTED = re.compile(
    r"NewConnectionError|ConnectTimeout|NameResolutionError|Failed to resolve|Failed to establish"
    r"|CERTIFICATE_VERIFY_FAILED|Connection refused"
)
_LOGGER = logging.getLogger("apprise")


@dataclass(frozen=True)
class AppriseChannel:
    """One service, by Apprise's URL."""

    alert: AppriseAlert
    scheme: str
    timeouts: Timeouts = field(default_factory=Timeouts)

    @classmethod
    def open(cls, project: Project, alert: AppriseAlert) -> AppriseChannel:  # noqa: ARG003
        """Check the URL's form and that the package is there; it is imported when a message is sent."""
        place = f"config/dwhctl.toml: alerts.{alert.name}"
        url = alert.url.reveal().strip()
        hide_address(url)
        match = _SCHEME.fullmatch(url)
        if match is None or _FURTHER.search(url):
            raise ConfigError(
                f"{place}.url: is no URL of Apprise for one service, as discord://ID/TOKEN; correct it"
            )
        if find_spec("apprise") is None:
            raise ConfigError(
                f"{place}: type = \"apprise\" needs a package that is not installed; pip install 'dwhctl[apprise]'"
            )
        return cls(alert, match[1].lower())

    @property
    def address(self) -> str:
        """The kind of service; the rest of the URL may be secret."""
        return f"{self.scheme}://"

    @staticmethod
    def message(page: Page, alert: AppriseAlert) -> Message:  # noqa: ARG004
        return chat_message(page)

    def send(self, message: Message) -> Receipt:
        """Send the message's plain text within the time limit."""
        mask_logs()
        log, exchange = _Log(), Exchange()
        service = self._service()
        _LOGGER.addHandler(log)
        try:
            exchange.begin_sending()  # which connection is the message's is not known
            result = exchange.run(
                self.timeouts.total, lambda: service.notify(body=message.text, title="", body_format="text")
            )
        finally:
            _LOGGER.removeHandler(log)
        failure = result if isinstance(result, ExchangeFailure) else None
        if failure is None and result:
            return Receipt("accepted")
        raise self._failure(log, failure)

    def _service(self) -> Apprise:
        """Return the service of the URL. Raise AlertRefusedError when Apprise cannot read it."""
        _LOGGER.propagate = False  # no handler of dwhctl or of a library shows what it says
        _LOGGER.setLevel(logging.DEBUG)
        with warnings.catch_warnings():
            # Its plugins import what Python has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            from apprise import Apprise, AppriseAsset, OverflowMode, PersistentStoreMode

            asset = AppriseAsset(
                app_id="dwhctl",
                http_redirects=False,
                storage_mode=PersistentStoreMode.MEMORY,
                plugin_paths=[],
                async_mode=False,
                secure_logging=True,
            )
            service = Apprise(asset=asset)
            added = Apprise.instantiate(
                self.alert.url.reveal().strip(), asset=asset, suppress_exceptions=True
            )
        if added is None:
            raise AlertRefusedError(
                f"Apprise cannot read the URL ({self.scheme}://...);"
                " correct it: https://github.com/caronc/apprise/wiki has the form of each service"
            )
        # A longer text than the service takes becomes several messages.
        added.overflow_mode = OverflowMode.SPLIT
        # Apprise's own defaults are 4 s each, and a URL may have other ones (cto, rto).
        added.socket_connect_timeout = min(added.socket_connect_timeout, self.timeouts.connect)
        added.socket_read_timeout = min(added.socket_read_timeout, self.timeouts.read)
        service.add(added)
        return service

    def _failure(self, log: _Log, failure: ExchangeFailure | None) -> AlertError:
        if failure is not None:
            if isinstance(failure.error, TimeoutError):
                return AlertInDoubtError(f"{self.scheme}://: no answer in time; the message may have arrived")
            return AlertInDoubtError(f"{self.scheme}://: Apprise failed with {type(failure.error).__name__}")
        if log.status == 429:
            return asks_for_pause(f"{self.scheme}://", None)
        if log.status is not None and log.status >= 500:
            return AlertInDoubtError(f"{self.scheme}:// answered {log.status}; it may have sent")
        if log.status is not None:
            return AlertRefusedError(f"{self.scheme}:// refuses ({log.status}); correct the URL")
        if log.is_not_connected:
            return AlertNotSentError(f"{self.scheme}:// cannot be reached; check network and URL")
        return AlertInDoubtError(
            f"{self.scheme}:// failed, and Apprise does not say at which step; the message may have arrived"
        )


class _Log(logging.Handler):
    """Reads from Apprise's records the status and the kind of failure, and keeps no text."""

    status: int | None = None
    is_not_connected = False

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if found := _STATUS.search(text):
            self.status = int(found[1])
        self.is_not_connected |= _NOT_CONNECTED.search(text) is not None
