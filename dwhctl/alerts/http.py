"""One POST over HTTP to a host that is not trusted: bounded in time and memory, and given nothing that is not its own.

The answer is read up to a limit and never decompressed. No redirect is followed. The environment is not asked:
neither ~/.netrc nor HTTPS_PROXY nor REQUESTS_CA_BUNDLE; proxy and authorities come from the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

from dwhctl.alerts.channels import Patience
from dwhctl.core.http import Session
from dwhctl.core.links import Links, mask_logs
from dwhctl.core.waiting import within

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back. `body` is empty when it was longer than allowed, or compressed though we asked for plain."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Way:
    """How to get there: through an HTTP proxy, trusting these authorities in place of the usual ones."""

    proxy: str | None = None
    tls_cafile: Path | None = None


def post(
    url: str, body: Any, headers: Mapping[str, str], timeout: Patience, way: Way | None = None, most: int = 0
) -> HttpResponse:
    """Send the body and read at most `most` bytes of the answer.

    Raise TimeoutError after `timeout.total` seconds: the connection is ended then. Raise what requests raises.
    """
    links = Links()
    chosen = way or Way()
    try:
        return within(
            timeout.total, lambda: _exchange(url, body, headers, timeout, chosen, most, links), links.cut
        )
    finally:
        links.release()


def _exchange(
    url: str,
    body: Any,
    headers: Mapping[str, str],
    timeout: Patience,
    way: Way,
    most: int,
    links: Links,
) -> HttpResponse:
    mask_logs()
    with (
        Session(links) as session,
        session.post(
            url,
            data=body,
            headers={**headers, "Accept-Encoding": "identity"},
            proxies={"http": way.proxy, "https": way.proxy} if way.proxy else None,
            verify=str(way.tls_cafile) if way.tls_cafile else True,
            timeout=(timeout.connect, timeout.read),
            allow_redirects=False,  # a redirect would carry the secret in the URL to another host
            stream=True,
        ) as response,
    ):
        return HttpResponse(response.status_code, _read(response, most))


def _read(response: requests.Response, most: int) -> bytes:
    if not most or response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        return b""
    body: bytes = response.raw.read(most + 1, decode_content=False)
    return body if len(body) <= most else b""
