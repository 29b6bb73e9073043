"""The process of the server: HTTP in, chdb out. Its only argument is a JSON object.

It does what clickhouse-connect needs of ClickHouse's HTTP interface: the query in the URL or the body, settings as
parameters, `query_id`, the answer's format, exceptions as status, header and text. Each request has a connection of its
own to the engine. The engine gives queries ids of its own: the client's is put into a comment of the query, and read
there by statements about `system.processes`.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
from chdb import ChdbError

ORDER: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
FAULTS: list[dict[str, Any]] = []
LOCK = threading.Lock()
_OWN = {
    "query", "query_id", "database", "default_format", "wait_end_of_query", "session_id", "user", "password",
    "compress",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms", "client_protocol_version", "decompress",
    "enable_http_compression", "role", "session_timeout", "session_check", "quota_key", "buffer_size", "stacktrace",
}  # fmt: skip
_ID_IN_COMMENT = r"extract(query, '^/\\*id=(.*?)\\*/')"
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)
_INSERT_FORMAT = re.compile(r"\A(INSERT\s+INTO\s.*?)\s+FORMAT\s+(\w+)\s*\Z", re.IGNORECASE | re.DOTALL)
_ANSWERS = re.compile(
    r"\A\s*(?:--[^\n]*\n|/\*.*?\*/|\s)*\(?\s*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXPLAIN|EXISTS|KILL|CHECK)\b",
    re.I | re.S,
)
_CODE = re.compile(r"Code: (\d+)")


class LostError(Exception):
    """The connection is to be dropped."""


class Handler(BaseHTTPRequestHandler):
    """One request at a time, over a connection that stays open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a ping or a query."""
        self.do_POST()

    def do_POST(self) -> None:
        """Run one statement."""
        body = self._body()
        asked = urlsplit(self.path)
        given = dict(parse_qsl(asked.query, keep_blank_values=True))
        if asked.path == "/fault":
            b"".join(body)
            with LOCK:
                FAULTS.append({**given, "times": int(given["times"])})
            return self._answer(200, b"")
        try:
            if not self._known(given):
                b"".join(body)
                text = "Code: 516. DB::Exception: dwh: Authentication failed. (AUTHENTICATION_FAILED)"
                return self._refuse(text, 403)
            self._run(given, body)
        except LostError:
            self.close_connection = True
        except (ChdbError, RuntimeError) as error:
            with suppress(OSError):
                for _ in body:
                    pass
            self._refuse(str(error))

    def _known(self, given: dict[str, str]) -> bool:
        user, password = given.get("user"), given.get("password", "")
        if (header := self.headers.get("Authorization", "")).startswith("Basic "):
            user, _, password = base64.b64decode(header[6:]).decode().partition(":")
        user = self.headers.get("X-ClickHouse-User", user)
        password = self.headers.get("X-ClickHouse-Key", password)
        return (user, password) == (ORDER["user"], ORDER["password"])

    def _run(self, given: dict[str, str], body: Iterator[bytes]) -> None:
        sql = given.get("query", "")
        if (insert := _INSERT_FORMAT.match(sql)) is None:
            rest = b"".join(body).decode()
            sql = f"{sql}\n{rest}" if sql else rest
        fault = _fault_of(sql)
        if fault == "drop":
            raise LostError
        db = chdb.connect(ORDER["folder"] + "/data")
        try:
            _prepare(db, given)
            marked = f"/*id={given.get('query_id', '')}*/"
            if insert is not None:
                rows = _insert(db, marked + insert[1], insert[2], body)
                answer, form = b"", None
            else:
                answer, form, rows = _query(db, marked, sql, given)
        finally:
            db.close()
        if fault == "lose":
            raise LostError
        if fault == "hang":
            time.sleep(3600)
        self._answer(200, answer, form, rows)

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().strip() or b"0", 16):
                piece = self.rfile.read(size)
                if len(piece) < size:
                    raise LostError
                yield piece
                self.rfile.readline()
            self.rfile.readline()
        elif length := int(self.headers.get("Content-Length") or 0):
            yield self.rfile.read(length)

    def _refuse(self, text: str, status: int = 500) -> None:
        found = _CODE.search(text)
        body = text.encode()
        self.send_response(status)
        self.send_header("X-ClickHouse-Exception-Code", found[1] if found else "1002")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, status: int, body: bytes, form: str | None = None, rows: int = 0) -> None:
        self.send_response(status)
        if form is not None:
            self.send_header("X-ClickHouse-Format", form)
        self.send_header("X-ClickHouse-Summary", json.dumps({"written_rows": str(rows)}))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _fault_of(sql: str) -> str | None:
    with LOCK:
        for fault in FAULTS:
            if fault["times"] > 0 and re.search(fault["match"], sql):
                fault["times"] -= 1
                return str(fault["kind"])
    return None


def _prepare(db: Any, given: dict[str, str]) -> None:
    settings = {**ORDER["profile"], **{name: value for name, value in given.items() if name not in _OWN}}
    last = {"readonly": settings.pop("readonly")} if "readonly" in settings else {}
    if given.get("database"):
        db.query(f"USE `{given['database']}`")
    for some in (settings, last):
        if some:
            quoted = {
                name: str(value).replace("\\", "\\\\").replace("'", "\\'") for name, value in some.items()
            }
            db.query("SET " + ", ".join(f"{name} = '{value}'" for name, value in quoted.items()))


def _query(db: Any, marked: str, sql: str, given: dict[str, str]) -> tuple[bytes, str | None, int]:
    form = given.get("default_format", "TabSeparated")
    if (match := _FORMAT.search(sql)) and _ANSWERS.match(sql):
        form, sql = match[1], sql[: match.start()]
    if "system.processes" in sql or sql.lstrip().upper().startswith("KILL"):
        sql = re.sub(r"\bquery_id\b", _ID_IN_COMMENT, sql)
    answer = db.query(marked + sql, form)
    return answer.bytes() or b"", form if _ANSWERS.match(sql) else None, 0


def _insert(db: Any, sql: str, form: str, body: Iterator[bytes]) -> int:
    inserter = db.send_insert(sql, form)
    try:
        for piece in body:
            inserter.append(piece)
        return int(inserter.finish().rows_written or 0)
    except BaseException:
        with suppress(Exception):
            inserter.cancel()
        raise


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serve until the process is ended, or its parent is gone."""
    keep = chdb.connect(ORDER["folder"] + "/data")
    server = _Server(("127.0.0.1", ORDER["port"]), Handler)
    if ORDER["certificate"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ORDER["certificate"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_port, flush=True)
    server.serve_forever()
    keep.close()


if __name__ == "__main__":
    main()
