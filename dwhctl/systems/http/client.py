"""One request at a time to an HTTP API: bounded in time and size, retried, and never answered by half a body.

A body is read whole, checked against the length that the server gives, and decompressed into a file before anyone sees
it. The environment is not asked: neither ~/.netrc nor HTTPS_PROXY nor REQUESTS_CA_BUNDLE.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
import zlib
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import requests
from msgspec.structs import replace
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    wait_random_exponential,
)
from urllib3.exceptions import HTTPError, NewConnectionError

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    LoginRefusedError,
    QueryError,
    SourceBusyError,
    SourceError,
    TlsError,
)
from dwhctl.core.faults import reach
from dwhctl.core.http import EndableSession, retry_after
from dwhctl.core.links import Links, cause_of, mask_logs
from dwhctl.core.secrets import Secret, mask
from dwhctl.core.waiting import within
from dwhctl.core.words import one_line
from dwhctl.systems.http.auth import Login
from dwhctl.systems.http.budget import Budget
from dwhctl.systems.http.keys import is_clear, parse_rate, parse_size
from dwhctl.systems.http.request import (
    CHUNK,
    LOGIN,
    REFUSAL_OCTETS,
    TRANSIENT,
    Answer,
    Call,
    joined,
    octets_of,
    origin,
    plain,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dwhctl.project.endpoint import ResponseAction
    from dwhctl.systems.http.system import HttpConnection

#: A body stays in memory up to this size.
_IN_MEMORY = 8 * 2**20
_MOST_REDIRECTS = 5
_ATTEMPTS = 6
#: How much of a refusal's body is shown.
_SHOWN = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: A server that refuses for a while, and does not say for how long, is asked again after some such time.
_WAIT = wait_random_exponential(multiplier=0.5, max=20)


class Client:
    """The requests of one source. Used by one thread, but for `interrupt`."""

    def __init__(self, connection: HttpConnection, timeout: float | None, state_dir: Path | None) -> None:
        self._connection = connection
        longest = connection.answer_timeout.total_seconds()
        self._seconds = longest if timeout is None else min(timeout, longest)
        self._most = parse_size(connection.max_body)
        self._give_up = threading.Event()
        self._answered = False
        #: The last error that another request right away would not change.
        self._final: AttemptError | None = None
        self._links = Links()
        self._session: requests.Session | None = None
        limit = parse_rate(connection.rate_limit) if connection.rate_limit else None
        most_wait = math.inf if timeout is None else timeout
        self._budget = Budget(connection.name, limit, state_dir, longest, self._give_up, most_wait)
        self._folder = state_dir
        self._login = Login(connection, self._post_form)
        mask_logs()

    def fetch(
        self,
        method: str,
        call: Call,
        *,
        form: bool = False,
        accept: str = "application/json",
        actions: Sequence[ResponseAction] = (),
    ) -> Answer:
        """Send a request until it is answered by something that no retry changes. Raise AttemptError."""
        attempts = Retrying(
            retry=retry_if_exception(self._is_worth_another),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=_WAIT,
            sleep=sleep_using_event(self._give_up),
            reraise=True,
        )
        answer: Answer = attempts(self._fetch, method, call, form, accept, actions)
        return answer

    def _is_worth_another(self, error: BaseException) -> bool:
        if not isinstance(error, AttemptError) or error.permanent or self._give_up.is_set():
            return False
        # The first connection is the business of the circuit breaker.
        return error is not self._final and (self._answered or not isinstance(error, ConnectError))

    def _fetch(
        self, method: str, call: Call, form: bool, accept: str, actions: Sequence[ResponseAction]
    ) -> Answer:
        answer = self._logged_in(method, call, form, accept)
        meaning = answer.meaning(actions)
        # Some servers answer an expired token with 403; the next attempt has another.
        refused = answer.status in LOGIN and meaning is None
        if refused and self._login.forget_token() and answer.status == 401:
            answer.body.close()
            answer = self._logged_in(method, call, form, accept)
            meaning = answer.meaning(actions)
        if meaning == "retry" or (answer.is_refusal and meaning is None):
            with answer.body:
                raise self._put_off(answer) if meaning else self._refusal(answer)
        self._answered = True
        return answer

    def _logged_in(self, method: str, call: Call, form: bool, accept: str) -> Answer:
        headers = {"Accept": accept, **self._own_headers(), **call.headers, **self._login.headers()}
        present = {name for name, _ in parse_qsl(urlsplit(call.url).query)}
        params = {name: value for name, value in self._login.params().items() if name not in present}
        return self._send(method, replace(call, params={**call.params, **params}), headers, form=form)

    def _own_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for name, value in self._connection.headers.items():
            headers[name] = value.reveal() if isinstance(value, Secret) else value
        return headers

    def _post_form(self, url: str, form: Mapping[str, str], login: Mapping[str, str]) -> Any:
        answer = self._send("POST", Call(url, {}, form), {"Accept": "application/json", **login}, form=True)
        with answer.body:
            if answer.status not in (200, 201):
                raise self._refusal(answer, "access_token_url: ")
            try:
                return json.loads(answer.text())
            except (ValueError, RecursionError):
                raise SourceError(f"{self._where}: access_token_url gave no JSON") from None

    def _send(self, method: str, call: Call, headers: Mapping[str, str], *, form: bool) -> Answer:
        """Send one request, and follow redirects: the login stays with its server."""
        for _ in range(_MOST_REDIRECTS + 1):
            answer, location = self._exchange(method, call, headers, form=form)
            if location is None:
                return answer
            answer.body.close()
            url = joined(call.url, location)
            here, there = origin(call.url), origin(url)
            if there[0] not in ("http", "https"):
                raise QueryError(f"{self._where}: a redirect to no HTTP server; correct base_url")
            if here[0] == "https" and there[0] == "http":
                raise QueryError(f"{self._where}: a redirect from https to http, which would travel in clear")
            if method != "GET" and (answer.status not in (307, 308) or here != there):
                raise QueryError(
                    f"{self._where}: a redirect of a {method}; write base_url so that there is none"
                )
            if there != here:
                self._refuse_in_clear(here[1], url)
                headers = {name: value for name, value in headers.items() if name == "Accept"}
            call = replace(call, url=url, params={})
        raise QueryError(f"{self._where}: more than {_MOST_REDIRECTS} redirects; correct base_url or path")

    def _refuse_in_clear(self, here: str, url: str) -> None:
        """Refuse a redirect to another server without TLS, where that server is not of this machine like ours."""
        if urlsplit(url).scheme == "http" and (is_clear(url) or is_clear(f"http://{here}/")):
            raise QueryError(f"{self._where}: a redirect to another server without TLS; correct base_url")

    def _exchange(
        self, method: str, call: Call, headers: Mapping[str, str], *, form: bool
    ) -> tuple[Answer, str | None]:
        """Send one request and read its answer to the end; give it, and where a redirect leads."""
        if self._give_up.is_set():
            raise SourceError("interrupted")
        try:
            counted = self._budget.begin()
        except SourceBusyError as error:
            self._final = error
            raise
        ended = threading.Event()

        def end() -> None:
            if not ended.is_set():
                ended.set()
                self._budget.end(counted)

        self._links.forget_closed()
        folder = str(self._folder) if self._folder else None
        body = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115 - the answer's
        try:
            reach("http.request")
            exchanged = within(
                self._seconds,
                lambda: self._transfer(method, call, headers, form, body, end),
                self._links.cut,
            )
            if self._give_up.is_set():
                # An ended connection may look like the end of the body.
                raise SourceError("interrupted")
            return exchanged
        except TimeoutError:
            body.close()
            self._renew()
            raise self._timed_out() from None
        except BaseException as error:
            body.close()
            if isinstance(error, requests.RequestException | HTTPError | OSError | zlib.error | UnicodeError):
                raise self._translated(error) from None
            raise
        finally:
            end()

    def _transfer(
        self,
        method: str,
        call: Call,
        headers: Mapping[str, str],
        form: bool,
        body: IO[bytes],
        end: Any,
    ) -> tuple[Answer, str | None]:
        kind = {} if form or call.body is None else {"Content-Type": "application/json"}
        with self._open_session().request(
            method,
            call.url,
            params=plain(call.params),
            data=octets_of(call, form=form),
            headers={**kind, **headers, "Accept-Encoding": "gzip"},
            timeout=(self._connection.connect_timeout.total_seconds(), self._seconds),
            allow_redirects=False,
            stream=True,
        ) as response:
            end()
            known = {name.title(): value for name, value in response.headers.items()}
            if response.status_code in (429, 503):
                self._keep_hold(known)
            most = self._most if response.status_code < 300 else REFUSAL_OCTETS
            is_whole = bool(response.raw.chunked) or response.raw.length_remaining is not None
            size = self._read(response, body, most, cut=response.status_code >= 300)
            answer = Answer(response.status_code, response.headers, body, size, is_whole)
            return answer, known.get("Location") if response.status_code in _REDIRECTS else None

    def _read(self, response: requests.Response, body: IO[bytes], most: int, *, cut: bool) -> int:
        """Write the decompressed body; of a refusal the beginning will do, and what can be read of it."""
        size = 0
        try:
            for chunk in self._unpacked(response):
                size += len(chunk)
                if size > most:
                    if cut:
                        break
                    raise QueryError(
                        f"{self._where}: the answer is larger than max_body = {self._connection.max_body!r}; ask for"
                        " smaller pages, or raise max_body"
                    )
                body.write(chunk)
        except (QueryError, HTTPError, zlib.error):
            if not cut:
                raise
        body.seek(0)
        return size

    def _unpacked(self, response: requests.Response) -> Iterator[bytes]:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        chunks = response.raw.stream(CHUNK, decode_content=False)
        if encoding in ("gzip", "x-gzip"):
            return unpacked(chunks)
        if encoding not in ("identity", ""):
            raise QueryError(
                f"{self._where}: the answer is packed with {encoding[:20]!r}, which was not asked for"
            )
        return chunks

    def _keep_hold(self, headers: Mapping[str, str]) -> None:
        """Let all processes leave the server alone for as long as it says."""
        if (seconds := retry_after(headers.get("Retry-After", ""))) is not None:
            self._budget.hold(seconds)

    def _put_off(self, answer: Answer) -> AttemptError:
        """Return the error for an answer that the load says to ask for again."""
        self._keep_hold(answer.headers)
        words = self._refusal(answer).args[0].removesuffix("; correct auth")
        return SourceBusyError(f"{words} (response_actions say to try again)")

    def _open_session(self) -> requests.Session:
        if self._session is None:
            self._session = EndableSession(self._links)
            ca_file = self._connection.ca_file
            self._session.verify = str(ca_file) if ca_file is not None else True
        return self._session

    def _renew(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session, self._links = None, Links()
        if self._give_up.is_set():
            self._links.cut()

    @property
    def _where(self) -> str:
        return f"connection {self._connection.name}"

    def _timed_out(self) -> AttemptError:
        if self._give_up.is_set():
            return SourceError("interrupted")
        words = f"{self._where}: no whole answer within {self._seconds:g} s (answer_timeout)"
        self._final = SourceError(words)
        return self._final

    def _translated(self, error: BaseException) -> AttemptError:
        """Return what a failure means; the words of requests hold the URL, and with it its parameters."""
        if self._give_up.is_set():
            return SourceError("interrupted")
        cause, name = cause_of(error), self._connection.name
        if isinstance(error, requests.exceptions.SSLError):
            remedy = "put the certificate of its authority into a file, and the file's path into ca_file"
            return TlsError(f"{self._where}: {cause}; {remedy}", name)
        refused = isinstance(error, requests.exceptions.ConnectionError) and _never_connected(error)
        if refused or isinstance(error, requests.exceptions.ConnectTimeout):
            return ConnectError(f"{self._where}: {cause}", name)
        if isinstance(error, zlib.error):
            cause = "the packed body is damaged"
        unsendable = requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError
        if isinstance(error, unsendable) and isinstance(error.args[0], HTTPError):
            return QueryError(
                f"{self._where}: the answer has a header that contradicts itself, as two lengths do"
            )
        if isinstance(error, unsendable):
            return QueryError(
                f"{self._where}: the request has a URL or header that cannot be sent; correct base_url, headers or auth"
                " (a header holds Latin letters, digits and signs)"
            )
        return SourceError(f"{self._where}: {cause}; the answer is not whole, and nothing of it is used")

    def _refusal(self, answer: Answer, what: str = "") -> AttemptError:
        """Return the error that an answer's status means."""
        # Below 400 an answer is no explanation: it holds rows, or a token.
        said = one_line(mask(answer.text()))[:_SHOWN] if answer.status >= 400 else ""
        words = f"{self._where}: {what}the server answered {answer.status}{f': {said}' if said else ''}"
        if answer.status in LOGIN or (what and 400 <= answer.status < 500 and answer.status not in TRANSIENT):
            return LoginRefusedError(f"{words}; correct auth", self._connection.name)
        if answer.status == 429:
            return SourceBusyError(words)
        if answer.status in TRANSIENT or answer.status >= 500:
            return SourceError(words)
        return QueryError(words)

    def refused(self, answer: Answer) -> AttemptError:
        """Return the error for an answer that is no page."""
        return self._refusal(answer)

    def interrupt(self) -> None:
        """From another thread: end the request that runs, and every wait."""
        self._give_up.set()
        self._links.cut()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._links.release()
        self._budget.close()


def _never_connected(error: BaseException) -> bool:
    return isinstance(getattr(error.args[0] if error.args else None, "reason", None), NewConnectionError)
