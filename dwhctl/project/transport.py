"""Which secrets of a project travel in clear, or to a server whose certificate is not checked: for `config check`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from dwhctl.errors import ConfigError

from .alerts import Alert, EmailAlert
from .connections import BEYOND, NetworkConnection, PostgresConnection, TlsWords, is_local
from .loads import Load, Report
from .model import Project
from .secrets import Secret

_MOST_NAMES = 5


def in_clear(project: Project) -> Iterator[str]:
    """Say what travels in clear beyond this machine."""
    for words, word, names in _by_word(project):
        if word == words.off:
            yield f'{names}: {words.key} = "{word}": password and rows travel in clear; {_remedy(words)}'
        elif word == words.local:
            yield f"{names}: {_half_way(words)}; {_remedy(words)}"
    yield from _of_environment(project)
    for alert in project.alerts.values():
        yield from _of_alert(alert)
    works: list[Load | Report] = [*project.loads.values(), *project.reports.values()]
    for work in works:
        if work.ping_url is not None and _is_clear(_url(work.ping_url)):
            yield f'{work.ping_url.place}: the address, which is the secret, travels in clear; write "https://..."'


def unchecked(project: Project) -> Iterator[str]:
    """Say which servers get a password over TLS without a check of who they are."""
    for words, word, names in _by_word(project):
        if word != BEYOND:
            continue
        said = f"{names}: encrypted, but the server's certificate is not checked"
        if words.ca_key is None:
            yield f"{said}: dwhctl has no key for it; dwhctl docs security#tls says what the driver can do"
        else:
            yield f"{said}; {_remedy(words)}"


def _by_word(project: Project) -> Iterator[tuple[TlsWords, str, str]]:
    """Give every TLS word in use beyond this machine, with the names of the connections that have it."""
    groups: dict[tuple[TlsWords, str], list[str]] = defaultdict(list)
    for one in project.connections.values():
        if isinstance(one, NetworkConnection) and not one.is_local:
            groups[one.tls_words, _effective(one)].append(one.name)
    for (words, word), names in groups.items():
        yield words, word, _listed(names)


def _effective(connection: NetworkConnection) -> str:
    # libpq checks a certificate by the authorities that it is given, whatever the word.
    given = isinstance(connection, PostgresConnection) and connection.sslrootcert is not None
    return "verify-ca" if given and connection.tls == BEYOND else connection.tls


def _listed(names: list[str]) -> str:
    shown = (
        names
        if len(names) <= _MOST_NAMES
        else [*names[: _MOST_NAMES - 1], f"{len(names) - _MOST_NAMES + 1} more"]
    )
    return f"connections {', '.join(shown)}" if len(names) > 1 else f"connection {names[0]}"


def _half_way(words: TlsWords) -> str:
    if words.ca_key is None:
        return f'{words.key} = "{words.local}": rows travel in clear, and the password where the server has no TLS'
    return f'{words.key} = "{words.local}": password and rows travel in clear where the server has no TLS'


def _remedy(words: TlsWords) -> str:
    if words.ca_key is None:
        return f'write {words.key} = "{BEYOND}"'
    return f'write {words.key} = "{words.checked[-1]}" with {words.ca_key}'


def _of_environment(project: Project) -> Iterator[str]:
    word = os.environ.get("PGSSLMODE")
    names = [
        each.name
        for each in project.connections.values()
        if isinstance(each, PostgresConnection) and each.sslmode is None and word not in (None, each.tls)
    ]
    if names:
        yield f"environment: PGSSLMODE is not read; write sslmode in {_listed(names)}"


def _of_alert(alert: Alert) -> Iterator[str]:
    place = f"config/dwhctl.toml: alerts.{alert.name}"
    if isinstance(alert, EmailAlert):
        if alert.security == "none" and alert.password is not None and not is_local(alert.host):
            yield f'{place}.security: "none": the password travels in clear; write "starttls" or "tls"'
        return
    if _is_clear(_split(alert.api_base)):
        yield f'{place}.api_base: the token travels in clear; write "https://..."'
    proxy = _url(alert.proxy)
    if proxy is not None and proxy.password and _is_clear(proxy):
        yield f'{place}.proxy: the password travels in clear to the proxy; write "https://..." if the proxy has TLS'


def _is_clear(url: SplitResult | None) -> bool:
    return url is not None and url.scheme == "http" and not is_local(url.hostname or "")


def _url(secret: Secret | None) -> SplitResult | None:
    try:
        return _split(secret.reveal()) if secret is not None else None
    except ConfigError:
        return None  # it is told of where secrets are read


def _split(text: str) -> SplitResult | None:
    try:
        return urlsplit(text.strip())
    except ValueError:
        return None
