"""Where the page goes: the file after each run, `dwhctl page`, and the server."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dwhctl.core.errors import DwhctlError, UsageError
from dwhctl.page.render import write_page
from dwhctl.page.server import PageServer, parse_address, serving
from tests.cli_support import dwh
from tests.support import pages
from tests.support.projects import DAY, Sandbox


def with_page(root: Path, path: str = "page.html") -> Sandbox:
    sandbox = Sandbox(root).write()
    toml = root / "config/dwhctl.toml"
    toml.write_text(f'{toml.read_text()}\n[page]\npath = "{path}"\n')
    return sandbox


def test_every_run_and_watch_write_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = with_page(tmp_path).fill(shards=["abakan", "achinsk"])
    page = tmp_path / "page.html"
    options = ("--project", str(tmp_path))
    assert dwh("load", "--date", str(DAY), "--inline", "--retries", "0", *options) == 1
    assert "chita" in page.read_text()
    assert "1 shard fails" in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o644
    sandbox.fill(shards=["chita"])
    assert dwh("load", "--date", str(DAY), "--inline", "--only-missing", *options) == 0
    assert "Nothing fails." in page.read_text()
    for command in (("watch",), ("page",)):
        page.unlink()
        assert dwh(*command, *options) == 0
        assert page.read_text().startswith("<!doctype html>")
    assert dwh("load", "--date", str(DAY), "--dry-run", *options) == 0
    assert [path.name for path in tmp_path.glob(".page*")] == []
    assert "warning" not in capsys.readouterr().err


def test_a_page_that_cannot_be_written_fails_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_page(tmp_path, "missing/page.html").fill()
    assert dwh("load", "--date", str(DAY), "--inline", "--project", str(tmp_path)) == 0
    errors = capsys.readouterr().err
    assert errors.count("warning: the page") == 1
    assert "make the folder" in errors
    assert "the run itself is not affected" in errors
    assert dwh("page", "--project", str(tmp_path)) == 1


def test_a_defect_of_the_page_fails_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_page(tmp_path).fill()

    def broken(*_: object) -> str:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("dwhctl.page.render.page_html", broken)
    assert dwh("load", "--date", str(DAY), "--inline", "--project", str(tmp_path)) == 0
    assert "warning: the page cannot be written: ZeroDivisionError" in capsys.readouterr().err


def test_the_command_says_where_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sandbox(tmp_path).write()
    options = ("--project", str(tmp_path))
    assert dwh("page", *options) == 2
    assert "--output FILE, or path" in capsys.readouterr().err
    assert dwh("page", "--output", str(tmp_path / "a.html"), *options) == 0
    assert "Nothing was loaded yet." in (tmp_path / "a.html").read_text()
    assert "written: " in capsys.readouterr().out
    assert dwh("page", "--output", "-", *options) == 0
    assert capsys.readouterr().out.endswith("</html>")
    assert dwh("page", "--output", "-", "--serve", "0", *options) == 2
    assert dwh("page", "--allow-remote", *options) == 2


def test_only_regular_files_and_links_are_replaced(tmp_path: Path) -> None:
    project = Sandbox(tmp_path / "project").write().project()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DwhctlError, match="not a regular file"):
        write_page(project, tmp_path / "fifo")
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "link.html").symlink_to(tmp_path / "theirs")
    write_page(project, tmp_path / "link.html")
    assert (tmp_path / "theirs").read_text() == "kept"
    assert (tmp_path / "link.html").read_text().startswith("<!doctype html>")
    assert not (tmp_path / "link.html").is_symlink()


# Over HTTP


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("127.0.0.9:80", ("127.0.0.9", 80)),
    ],
)
def test_an_address_of_this_machine(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["0.0.0.0:80", "192.0.2.1:80", "[::]:80", "example.com:80", "host", "1:", "1:70000", "9" * 5000]
)
def test_any_other_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--serve .*(--allow-remote|has no port)"):
        parse_address(text)


def test_another_address_needs_a_word() -> None:
    assert parse_address("0.0.0.0:80", allow_remote=True) == ("0.0.0.0", 80)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    project = pages.make(tmp_path, shards=6, servers=2).project()
    pages.fill(project, pages.server_down, pages.DAYS[-2:])
    with serving(project, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: PageServer, method: str = "GET", path: str = "/", host: str | None = None
) -> tuple[int, bytes]:
    with closing(
        http.client.HTTPConnection("127.0.0.1", int(server.server_address[1]), timeout=20)
    ) as client:
        client.request(method, path, headers={"Host": host} if host else {})
        answer = client.getresponse()
        assert answer.getheader("Server") == "dwhctl "
        return answer.status, answer.read()


def test_the_server_only_shows_the_page(server: PageServer) -> None:
    status, body = ask(server)
    assert status == 200
    assert b"city_000" in body
    assert ask(server, "HEAD") == (200, b"")
    assert ask(server, path="/?x=1")[0] == 200
    assert ask(server, path="/../../etc/hostname")[0] == 404
    assert ask(server, "POST")[0] == 501
    assert ask(server, "DELETE")[0] == 501
    # Another site's name that leads to this machine.
    assert ask(server, host="example.com")[0] == 421
    assert ask(server, host="localhost:99")[0] == 200
    assert ask(server, host="LocalHost")[0] == 200


@pytest.mark.parametrize(("version", "status"), [(b"1.0", b"200"), (b"1.1", b"421")])
def test_a_monitor_that_speaks_http_1_0_needs_no_host(
    server: PageServer, version: bytes, status: bytes
) -> None:
    with closing(
        socket.create_connection(("127.0.0.1", int(server.server_address[1])), timeout=20)
    ) as client:
        client.sendall(b"HEAD / HTTP/" + version + b"\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.0 " + status


def test_a_port_in_use_is_wrong_usage(server: PageServer, tmp_path: Path) -> None:
    port = int(server.server_address[1])
    project = Sandbox(tmp_path / "other").write().project()
    with pytest.raises(UsageError, match="choose another port"), serving(project, "127.0.0.1", port):
        pass
