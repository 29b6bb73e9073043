"""What a failure of TLS means, and what to do about it: the words of the drivers differ, the remedies do not."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwhctl.project.connections import NetworkConnection

#: The words of libpq and of vertica-python for a server without TLS.
_NO_TLS = re.compile("does not support SSL|SSL requested but disabled")
#: Of libpq and of OpenSSL for a certificate of another server, and for one that is not trusted.
_WRONG_NAME = re.compile("does not match host name|(?:Hostname|IP address) mismatch|is not valid for")
_NOT_TRUSTED = re.compile("certificate verify failed|root certificate file")
#: Of OpenSSL for two sides without a version or cipher in common. A lost connection is not meant.
_NO_HANDSHAKE = re.compile(
    "handshake failure|protocol version|unsupported protocol|wrong version number", re.IGNORECASE
)


def authorities(connection: NetworkConnection) -> Path | None:
    """Give the file of authorities that the connection is to check certificates by; None when it checks none."""
    words = connection.tls_words
    if connection.tls not in words.checked:
        return None
    written: Path | None = getattr(connection, words.ca_key) if words.ca_key else None
    systems = ssl.get_default_verify_paths().cafile
    return written or (Path(systems) if systems else None)


def remedy(said: str, connection: NetworkConnection) -> str | None:
    """Say what to do about a failed connection; None when the driver's words are about something other than TLS."""
    if _NO_TLS.search(said):
        return no_tls(connection)
    key = f"connections.{connection.name}"
    if _WRONG_NAME.search(said):
        return (
            f"the server's certificate is for another name, so nothing was sent: write in {key} a host that the"
            " certificate lists, or have a certificate made that lists this one"
        )
    if _NOT_TRUSTED.search(said):
        return (
            "the server's certificate is not trusted, so nothing was sent: put the certificate of the authority that"
            f" made it into a file, and the file's path into {key}.{connection.tls_words.ca_key}"
        )
    return "the TLS handshake failed: the server must speak TLS 1.2" if _NO_HANDSHAKE.search(said) else None


def no_tls(connection: NetworkConnection) -> str:
    """Say what a server without TLS means and what to do."""
    words, key = connection.tls_words, f"connections.{connection.name}"
    return (
        f'the server offers no TLS, and {key} asks for it ({words.key} = "{connection.tls}"), so nothing was sent: turn'
        f' TLS on at the server, or write {words.key} = "{words.off}" in {key}; then password and rows travel in clear'
    )
