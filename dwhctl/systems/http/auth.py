"""How requests log in: bearer, api_key, http_basic and oauth2_client_credentials."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from dwhctl.core.errors import LoginRefusedError
from dwhctl.core.secrets import Secret, remember
from dwhctl.systems.http.keys import ApiKeyAuth, BearerAuth, HttpBasicAuth, OAuth2Auth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dwhctl.systems.http.system import HttpConnection

#: A token is fetched again so long before it expires, and after so long when the server does not say.
_EARLY_SECONDS = 30.0
_UNSAID_SECONDS = 3600.0

_Key = tuple[str, str, str, tuple[tuple[str, str], ...]]
#: The tokens of this process, and when they expire, by what they were asked for with: each slice has its own source.
_TOKENS: dict[_Key, tuple[str, float]] = {}


class Login:
    """The credentials of a connection as parts of a request."""

    def __init__(
        self, connection: HttpConnection, post: Callable[[str, Mapping[str, str], Mapping[str, str]], Any]
    ) -> None:
        self._name = connection.name
        self._auth = connection.auth
        self._post = post
        self._token = ""

    def headers(self) -> dict[str, str]:
        """Return the headers that log in. Raise AttemptError when a token cannot be had."""
        auth = self._auth
        if isinstance(auth, BearerAuth):
            return {"Authorization": f"Bearer {auth.token.reveal()}"}
        if isinstance(auth, HttpBasicAuth):
            user = auth.username.reveal() if isinstance(auth.username, Secret) else auth.username
            return _basic(user, auth.password.reveal() if auth.password else "")
        if isinstance(auth, OAuth2Auth):
            return {"Authorization": f"Bearer {self._access_token(auth)}"}
        if isinstance(auth, ApiKeyAuth) and auth.location == "header":
            return {auth.name: auth.api_key.reveal()}
        if isinstance(auth, ApiKeyAuth) and auth.location == "cookie":
            return {"Cookie": f"{auth.name}={quote(auth.api_key.reveal(), safe='')}"}
        return {}

    def params(self) -> dict[str, str]:
        """Return the parameters of the query that log in."""
        auth = self._auth
        if isinstance(auth, ApiKeyAuth) and auth.location in ("query", "param"):
            return {auth.name: auth.api_key.reveal()}
        return {}

    def forget_token(self) -> bool:
        """Fetch another token for the next request, unless another source has; tell whether there was one to forget."""
        refused, self._token = self._token, ""
        if (
            isinstance(self._auth, OAuth2Auth)
            and _TOKENS.get(key := _key(self._auth), ("", 0.0))[0] == refused
        ):
            _TOKENS.pop(key, None)
        return bool(refused)

    def _access_token(self, auth: OAuth2Auth) -> str:
        key = _key(auth)
        self._token, expires = _TOKENS.get(key, ("", 0.0))
        if not self._token or time.monotonic() >= expires:
            secret, in_body = auth.client_secret.reveal(), auth.client_authentication == "body"
            form = {
                "grant_type": "client_credentials",
                **({"client_id": auth.client_id, "client_secret": secret} if in_body else {}),
                **_data(auth),
            }
            # RFC 6749, 2.3.1: both are encoded as in a form before they become user and password.
            login = {} if in_body else _basic(quote_plus(auth.client_id), quote_plus(secret))
            answer = self._post(auth.access_token_url, form, login)
            token = answer.get("access_token") if isinstance(answer, dict) else None
            if not isinstance(token, str) or not token:
                raise LoginRefusedError(
                    f"connection {self._name}: the answer of access_token_url has no access_token", self._name
                )
            remember(token)
            seconds = _lasts(answer.get("expires_in"))
            _TOKENS[key] = token, time.monotonic() + max(seconds - _EARLY_SECONDS, seconds / 2)
            self._token = token
        return self._token


def _lasts(said: object) -> float:
    """Return the seconds of `expires_in`, which some servers write as a text."""
    try:
        seconds = float(said) if isinstance(said, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return _UNSAID_SECONDS
    return seconds if 0 < seconds < 10**9 else _UNSAID_SECONDS


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _data(auth: OAuth2Auth) -> dict[str, str]:
    given = auth.access_token_request_data
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in given.items()}


def _key(auth: OAuth2Auth) -> _Key:
    data = tuple(sorted(_data(auth).items()))
    return auth.access_token_url, auth.client_id, auth.client_secret.reveal(), data
