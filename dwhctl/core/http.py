"""HTTP through requests over connections that another thread can end."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    import socket

    from urllib3 import PoolManager

    from dwhctl.core.links import Links


class EndableSession(requests.Session):
    """A session that takes nothing from the environment, and reads no redirect: requests would read its whole body."""

    def __init__(self, links: Links) -> None:
        super().__init__()
        self.trust_env = False
        for scheme in ("http://", "https://"):
            self.mount(scheme, Adapter(links))

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        return None


class Adapter(HTTPAdapter):
    """Makes connections that an exchange can end."""

    def __init__(self, links: Links) -> None:
        self._pools = _pools(links)
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _pools(links: Links) -> dict[str, Any]:
    class Endable:
        _copy: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()  # type: ignore[misc]
            self._copy = links.add(made)
            return made

        def close(self) -> None:
            super().close()  # type: ignore[misc]
            if self._copy is not None:
                links.note_closed(self._copy)
                self._copy = None

    class Plain(Endable, HTTPConnection):
        pass

    class Encrypted(Endable, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def retry_after(text: str) -> float | None:
    """Return the seconds of a Retry-After, which holds seconds or a date. None for neither."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        # Dates of HTTP are of UTC, also without the word GMT.
        return max((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
