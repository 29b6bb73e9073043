"""No password travels in clear beyond this machine unless the configuration says so; what a failure of TLS says."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import ConnectError, DwhctlError, SessionsError, TlsError
from dwhctl.core.secrets import Secret
from dwhctl.project.connections import NetworkConnection
from dwhctl.systems.mssql import client as mssql_link
from dwhctl.systems.mssql.system import MssqlConnection
from dwhctl.systems.postgres import client as postgres_link
from dwhctl.systems.postgres.console import PostgresCursor
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.vertica import client as vertica
from dwhctl.systems.vertica.system import VerticaConnection
from tests.cli_support import dwh
from tests.postgres import PostgresServer
from tests.servers.tds import TdsServer
from tests.servers.vertica import VerticaServer
from tests.support.tls import BEYOND, PASSWORD, Authority, Recorder, refusing_tls, tls_for_postgres

MODELS: dict[str, Any] = {
    "postgres": PostgresConnection,
    "vertica": VerticaConnection,
    "mssql": MssqlConnection,
}
SYSTEMS = pytest.mark.parametrize("system", MODELS)
#: The explicit word that switches TLS off, and one that takes it where it is.
OFF = {"postgres": {"sslmode": "disable"}, "vertica": {"tlsmode": "disable"}, "mssql": {"encryption": "off"}}
IF_THERE = {
    "postgres": {"sslmode": "prefer"},
    "vertica": {"tlsmode": "prefer"},
    "mssql": {"encryption": "request"},
}


def connection(system: str, port: int, host: str | None = BEYOND, **keys: Any) -> Any:
    """A project's connection to a server."""
    given = {
        "name": "it",
        "host": host,
        "port": port,
        "user": "u",
        "database": "d",
        "password": Secret(PASSWORD),
    }
    return MODELS[system](**{**given, "connect_timeout": timedelta(seconds=5), **keys})


def connect(one: NetworkConnection) -> None:
    """Connect as a run does, and hang up."""
    if isinstance(one, PostgresConnection):
        postgres_link.connect(one, "SELECT 1", timedelta(seconds=5)).close()
    elif isinstance(one, VerticaConnection):
        session = vertica.VerticaClient(one, "test", timedelta(seconds=5))
        session.open()
        session.close()
    else:
        assert isinstance(one, MssqlConnection)
        mssql_link.connect(one, one.database, None, login_known=False).close()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with refusing_tls() as running:
        yield running


# A server that refuses TLS


@SYSTEMS
def test_a_server_that_refuses_tls_gets_no_password(system: str, recorder: Recorder) -> None:
    one = connection(system, recorder.port)
    with pytest.raises(SessionsError if system == "postgres" else TlsError) as caught:
        connect(one)
    assert recorder.heard
    assert not recorder.knows_the_password
    assert caught.value.permanent
    ((key, word),) = OFF[system].items()
    for part in (
        "the server offers no TLS",
        "turn TLS on at the server",
        f'{key} = "{word}" in connections.it',
    ):
        assert part in str(caught.value)


@SYSTEMS
@pytest.mark.parametrize("keys", [OFF, IF_THERE], ids=["off", "if there"])
def test_an_explicit_word_switches_it_off(
    system: str, keys: dict[str, dict[str, str]], recorder: Recorder
) -> None:
    with pytest.raises(DwhctlError):
        connect(connection(system, recorder.port, **keys[system]))
    assert recorder.knows_the_password


@SYSTEMS
def test_a_server_of_this_machine_may_have_no_tls(system: str, recorder: Recorder) -> None:
    with pytest.raises(DwhctlError):
        connect(connection(system, recorder.port, host="127.0.0.1"))
    assert recorder.knows_the_password


@SYSTEMS
def test_one_server_beyond_this_machine_is_enough(system: str, recorder: Recorder) -> None:
    hosts = (f"127.0.0.1:{recorder.port}", f"{BEYOND}:{recorder.port}")
    with pytest.raises(DwhctlError):
        connect(connection(system, 0, host=None, hosts=hosts))
    assert recorder.heard
    assert not recorder.knows_the_password


def test_an_ad_hoc_query_sends_no_password_either(recorder: Recorder) -> None:
    with pytest.raises(TlsError, match=r'no TLS.*sslmode = "disable"'):
        PostgresCursor(connection("postgres", recorder.port), write=False).open()
    assert not recorder.knows_the_password


def test_a_server_that_is_down_may_come_back_beside_one_without_tls(recorder: Recorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = gone.getsockname()[1]
    for system in ("vertica", "mssql"):
        hosts = (f"{BEYOND}:{dead}", f"{BEYOND}:{recorder.port}")
        with pytest.raises(ConnectError) as caught:
            connect(connection(system, 0, host=None, hosts=hosts))
        assert not caught.value.permanent


def test_connections_test_says_it_in_words(
    tmp_path: Path, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").mkdir()
    at = f'host = "{BEYOND}"\nport = {recorder.port}\nuser = "u"\ndatabase = "d"\npassword = "{PASSWORD}"'
    tables = "\n".join(f'[connections.{system}]\ntype = "{system}"\n{at}' for system in MODELS)
    (tmp_path / "config/dwhctl.toml").write_text(f'[sessions]\nconnection = "postgres"\n{tables}\n')
    assert dwh("connections", "test", "--format", "json", "--project", tmp_path) == 1
    out, err = capfd.readouterr()
    assert out.count("the server offers no TLS") == 3
    assert PASSWORD not in out + err
    assert not recorder.knows_the_password


# A server with TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other.pem")


@pytest.fixture
def over_tls(
    authority: Authority, postgres_server: PostgresServer, postgres_database: str
) -> Iterator[Callable[..., PostgresConnection]]:
    """The tests' PostgreSQL behind TLS, with a certificate for 127.0.0.1 and localhost."""
    if not postgres_server.host.startswith("/"):
        pytest.skip("the server of DWHCTL_TEST_POSTGRES is not reached by a socket")
    file = f"{postgres_server.host}/.s.PGSQL.{postgres_server.port}"
    with tls_for_postgres(authority.context("127.0.0.1", "localhost"), file) as port:
        login = {"user": postgres_server.user, "database": postgres_database}
        yield lambda **keys: connection("postgres", port, **{"host": "127.0.0.1", **login, **keys})


def test_postgresql_over_tls(
    over_tls: Callable[..., PostgresConnection], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither leads elsewhere nor downgrades.
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.9")
    for keys in (
        {"host": BEYOND},
        {"host": "localhost"},
        {"sslrootcert": authority.file},
        {"sslmode": "verify-full", "sslrootcert": authority.file, "host": "localhost"},
        {"sslmode": "verify-ca", "sslrootcert": authority.file, "host": BEYOND},
    ):
        one = postgres_link.connect(over_tls(**keys), "SELECT 1", timedelta(seconds=5))
        assert one.info.ssl_in_use
        one.close()
    monkeypatch.undo()  # the fixtures of the test's database connect without us


NOT_TRUSTED, OTHER_NAME = "certificate is not trusted, so nothing was sent", "certificate is for another name"


def test_a_certificate_of_postgresql_that_is_not_accepted(
    over_tls: Callable[..., PostgresConnection], authority: Authority, other: Authority
) -> None:
    for keys, words in (
        ({"sslmode": "verify-full", "sslrootcert": other.file}, NOT_TRUSTED),
        ({"sslmode": "verify-full"}, NOT_TRUSTED),  # the system's authorities
        ({"sslrootcert": authority.file, "host": BEYOND}, OTHER_NAME),
    ):
        with pytest.raises(SessionsError, match=words):
            connect(over_tls(**keys))
        with pytest.raises(TlsError, match=words):
            PostgresCursor(over_tls(**keys), write=False).open()


def test_a_certificate_of_vertica_that_is_not_accepted(other: Authority) -> None:
    with VerticaServer(tls=True) as server:
        connect(server.connection(host=BEYOND, tlsmode=None, tls_cafile=None))
        refused: list[tuple[dict[str, Any], str]] = [
            ({"tls_cafile": other.file}, NOT_TRUSTED),
            ({"tlsmode": "verify-full", "tls_cafile": None}, NOT_TRUSTED),
            ({"host": BEYOND}, OTHER_NAME),
        ]
        for keys, words in refused:
            with pytest.raises(TlsError, match=words):
                connect(server.connection(**{"tlsmode": None, **keys}))


def test_sql_server_over_tls(
    authority: Authority, other: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/security.md says of freetds.conf: there the driver can be told to check certificates."""
    conf = tmp_path / "freetds.conf"
    with TdsServer(tls=True) as server:
        server.tls_context = authority.context("127.0.0.1", "localhost")
        connect(server.connection(host=BEYOND))
        monkeypatch.setenv("FREETDSCONF", str(conf))
        conf.write_text(f"[global]\nca file = {authority.file}\ncheck certificate hostname = yes\n")
        connect(server.connection(encryption="require"))
        with pytest.raises(TlsError, match=r"the TLS handshake failed: .*freetds\.conf"):
            connect(server.connection(host=BEYOND))
        conf.write_text(f"[global]\nca file = {other.file}\n")
        with pytest.raises(TlsError, match="the TLS handshake failed"):
            connect(server.connection(encryption="require"))


def test_the_environment_of_freetds_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "dump"
    with TdsServer(tls=True) as server:
        for name, value in (
            ("TDSHOST", "127.0.0.9"),
            ("TDSPORT", "9"),
            ("TDSVER", "5.0"),
            ("TDSDUMP", str(dump)),
            ("TDSDUMPCONFIG", str(dump)),
        ):
            monkeypatch.setenv(name, value)
        connect(server.connection(host=BEYOND))
    assert not dump.exists()
