"""The executor's configuration, what an order carries to a Dask worker, and what a cluster is refused for."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import pytest
from cryptography.hazmat.primitives import serialization
from tornado.iostream import IOStream

from dwhctl import __version__
from dwhctl.core.errors import ConfigError, UsageError, WorkersError
from dwhctl.core.secrets import Secret
from dwhctl.load import cluster_client, cluster_worker, run
from dwhctl.load.attempts import slice_jobs
from dwhctl.load.cluster import DaskCluster
from dwhctl.load.cluster_client import ClusterClient, close_loop, cluster_problem
from dwhctl.load.cluster_worker import Refusal, SealedOrder, run_order, seal
from dwhctl.load.run import executor_of, plan_load
from dwhctl.project.model import ExecutorTable, Project
from dwhctl.runtime.messages import TargetTable
from dwhctl.runtime.plan import LoadRequest
from dwhctl.systems.postgres.system import PostgresConnection
from tests.support.cluster import Cluster
from tests.support.projects import DAY, Sandbox

FILES = 'ca = "config/ca.pem"\ncert = "config/cert.pem"\nkey = "config/key.pem"\n'


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    sandbox = Sandbox(tmp_path).write()
    for name in ("ca", "cert", "key"):
        sandbox.put(f"config/{name}.pem", "")
    return sandbox


def project_with(sandbox: Sandbox, executor: str) -> Project:
    path = sandbox.root / "config/dwhctl.toml"
    path.write_text(path.read_text() + f"\n[executor]\n{executor}\n")
    return sandbox.project()


def request(**options: Any) -> LoadRequest:
    return LoadRequest(days=(DAY,), **options)


def dask_at(address: str) -> str:
    return f'type = "dask"\nscheduler = "{address}"\n'


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('type = "dask"', "executor.scheduler: is missing"),
        (dask_at("dask:8786"), "executor.scheduler: is not an address"),
        (dask_at("http://dask:8786"), "executor.scheduler: is not an address"),
        (dask_at("tls://user:password@dask:8786"), "executor.scheduler: is not an address"),
        (dask_at("tls://dask:8786"), "executor.ca: is missing"),
        (dask_at("tls://dask:8786") + FILES.replace("key.pem", "nokey.pem"), "nokey.pem is missing"),
        (dask_at("tcp://dask:8786"), "anyone who reaches the port runs programs"),
        (dask_at("tcp://10.0.0.1:8786") + FILES, "use tls://"),
        ('type = "ray"', 'expected one of "local", "dask"'),
    ],
)
def test_what_is_refused_in_the_configuration(sandbox: Sandbox, table: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project_with(sandbox, table)
    assert says in str(caught.value)
    assert "password" not in str(caught.value)


def test_what_is_not_encrypted_is_warned_of(sandbox: Sandbox) -> None:
    warnings = project_with(sandbox, dask_at("tcp://dask:8786") + "insecure = true").warnings
    assert [line for line in warnings if "executor.insecure" in line]


@pytest.mark.parametrize("table", [dask_at("tcp://127.0.0.1:8786"), dask_at("tls://dask:8786") + FILES])
def test_loopback_and_tls_are_good(sandbox: Sandbox, table: str) -> None:
    project = project_with(sandbox, table)
    assert not [line for line in project.warnings if "insecure" in line]
    assert executor_of(project, request()).type == "dask"


def test_the_options_win(sandbox: Sandbox) -> None:
    project = project_with(sandbox, dask_at("tls://dask:8786") + FILES)
    assert executor_of(project, request(executor="local")).type == "local"
    assert executor_of(project, request(inline=True)).type == "local"
    moved = executor_of(project, request(scheduler="tls://other:8786"))
    assert (moved.scheduler, moved.ca) == ("tls://other:8786", project.root / "config/ca.pem")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"executor": "dask"}, "--scheduler is missing"),
        ({"scheduler": "tls://dask:8786"}, "add --executor dask"),
        ({"executor": "dask", "inline": True}, "give one of them"),
        ({"executor": "dask", "scheduler": "tls://dask:8786"}, r"\[executor\] ca is missing"),
        ({"executor": "dask", "scheduler": "tcp://dask:8786"}, "runs programs on the workers"),
    ],
)
def test_options_that_do_not_fit(sandbox: Sandbox, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        executor_of(sandbox.project(), request(**options))


def test_without_the_package_it_says_what_to_install(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'dwhctl\[dask\]'"):
        executor_of(project_with(sandbox, dask_at("tcp://localhost:8786")), request())


def test_files_of_this_machine_are_refused_for_workers_on_others(sandbox: Sandbox) -> None:
    project = project_with(sandbox, dask_at("tls://dask:8786") + FILES)
    assert "shared_state" in project.warnings[-1]
    with pytest.raises(UsageError, match=r"connection server_0 is of type duckdb.*shared_state = true"):
        plan_load(project, request())
    assert plan_load(project, request(executor="local")).slices


def test_a_shared_file_system_may_be_declared(sandbox: Sandbox) -> None:
    project = project_with(sandbox, dask_at("tls://dask:8786") + FILES + "shared_state = true")
    assert plan_load(project, request()).slices


def test_a_slice_that_is_alone_is_staged_by_a_worker_on_another_machine(sandbox: Sandbox) -> None:
    """A direct write waits in its worker for the parent's order to commit, and a task of Dask takes none."""
    plan = plan_load(sandbox.project(), request(shards=("abakan",)))
    targets: Any = {"warehouse": SimpleNamespace(writes_directly=True)}
    assert [job.direct for job in slice_jobs(plan, targets, local=True)] == [True]
    assert [job.direct for job in slice_jobs(plan, targets, local=False)] == [False]


def test_an_order_travels_with_its_secrets_and_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_PARENT", "Geheim_of_the_parent")
    secret = Secret.of({"env": "OF_THE_PARENT"})
    secret.place = "connections.dwh.password"
    order: Any = {"source": {"password": secret}}
    sealed = seal(order, "claim")
    monkeypatch.delenv("OF_THE_PARENT")
    arrived = pickle.loads(sealed.data)["source"]["password"]
    assert (arrived.reveal(), arrived.place) == ("Geheim_of_the_parent", "connections.dwh.password")
    assert "Geheim" not in repr(sealed) + repr(arrived)
    with pytest.raises(ConfigError, match=r"connections\.dwh\.password"):
        seal(order, "claim")


def test_the_target_travels_with_its_secrets_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run pickles its tables once for the workers of its machine, with references to their secrets."""
    monkeypatch.setenv("OF_THE_PARENT", "Geheim_of_the_parent")
    password = Secret.of({"env": "OF_THE_PARENT"})
    dwh = PostgresConnection(
        name="dwh", type="postgres", host="dwh", user="etl", password=password, database="dwh"
    )
    table = TargetTable(dwh, "stage.orders", (), tmp_path, timedelta(minutes=7))
    here = pickle.loads(pickle.dumps(table))
    order: Any = {"table": table}
    sealed = seal(order, "claim")
    monkeypatch.delenv("OF_THE_PARENT")
    arrived = pickle.loads(sealed.data)["table"]
    assert arrived.connection.password.reveal() == "Geheim_of_the_parent"
    assert (arrived.name, arrived.state_dir, arrived.timeout) == ("stage.orders", tmp_path, table.timeout)
    assert here == table
    with pytest.raises(ConfigError, match="OF_THE_PARENT"):
        here.connection.password.reveal()


@pytest.fixture
def cluster() -> Iterator[distributed.LocalCluster]:
    """A scheduler and one worker in this process, as Dask starts them when nothing is configured."""
    made: Any = partial(
        distributed.LocalCluster, host="127.0.0.1", protocol="tcp", worker_dashboard_address=None
    )
    with made(n_workers=0, processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def executor_at(address: str) -> ExecutorTable:
    return ExecutorTable(type="dask", scheduler=address, wait=timedelta(seconds=1))


def refusal(address: str) -> str:
    """Connect as a run does, and return why the cluster cannot be used."""
    table = executor_at(address)
    changed = threading.Event()
    connected = DaskCluster(table, "run", changed.set)
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            connected.check()
            time.sleep(0.02)
    except WorkersError as error:
        assert changed.wait(5), "the loop over slices is woken"
        return str(error)
    finally:
        connected.close()
    raise AssertionError("the cluster is not refused")


def test_clusters_that_cannot_do_the_work(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address = cluster.scheduler_address
    assert "ALLOWED_FAILURES=0" in refusal(address)
    assert "ALLOWED_FAILURES=0" in str(cluster_problem(executor_at(address)))
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        assert "has had no worker for 1s; start workers" in refusal(address)
        assert "has no worker; start workers" in str(cluster_problem(executor_at(address)))
        cluster.scale(1)
        cluster.wait_for_workers(1)
        assert "has no nanny" in refusal(address)
    cluster.close()
    assert "did not answer within 1s" in refusal(address)


def test_closing_ends_the_thread_also_when_an_answer_comes_at_that_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python 3.11's `asyncio.wait_for` swallows a cancellation that meets the result: the run connected again."""
    closing: list[threading.Thread] = []

    async def answer() -> int:
        if not closing:
            closing.append(threading.Thread(target=connection.close))
            closing[0].start()
            time.sleep(0.2)  # the loop has the request to close and the answer at once
        return 1

    async def connect(_: ClusterClient) -> None:
        await asyncio.sleep(0.1)

    monkeypatch.setattr(ClusterClient, "connect", connect)
    monkeypatch.setattr(ClusterClient, "size", lambda _: cluster_client._in_time(answer()))
    monkeypatch.setattr(ClusterClient, "is_connected", True)
    connection = DaskCluster(executor_at("tcp://127.0.0.1:1"), "run", lambda: None)
    connection._thread.join(3)
    assert not connection._thread.is_alive()
    closing[0].join()


def test_an_event_loop_is_closed_with_its_tasks_and_sockets() -> None:
    """A task that swallows a cancellation, and a connection that no one owns, as a cancelled handshake leaves it."""
    loop = asyncio.new_event_loop()
    swallowed: list[str] = []

    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        swallowed.append("once")
        await asyncio.sleep(60)

    async def leave(port: int) -> tuple[asyncio.Task[None], socket.socket]:
        task = asyncio.ensure_future(stubborn())
        stream = IOStream(socket.socket())
        await stream.connect(("127.0.0.1", port))
        stream.set_close_callback(lambda: None)  # it listens
        return task, stream.socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        task, connection = loop.run_until_complete(leave(server.getsockname()[1]))
        close_loop(loop)
        assert swallowed
        assert task.cancelled()
        assert connection.fileno() == -1
        assert loop.is_closed()


@pytest.mark.parametrize(
    ("worker", "says"),
    [({"nthreads": 4, "nanny": "tls://x"}, "--nthreads 1"), ({"nthreads": 1, "nanny": None}, "--no-nanny")],
)
def test_workers_that_cannot_do_the_work(worker: dict[str, Any], says: str) -> None:
    with pytest.raises(WorkersError, match=f"tls://10.0.0.2:4711 has .*{says}"):
        ClusterClient._check_workers({"tls://10.0.0.2:4711": worker})


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"dwhctl": "0.0.9"}, f"has dwhctl 0.0.9, this run has {__version__}"),
        ({"dwhctl": None}, "has no dwhctl"),
        ({"python": "3.9.1.final.0"}, f"has Python 3.9, this run has 3.{sys.version_info.minor}"),
        ({"distributed": "2020.1"}, "has distributed 2020.1, this run has"),
        ({"pyarrow": "1.0"}, "has pyarrow 1.0, this run has"),
        ({"clickhouse-connect": None, "python": "{python}.99.final.0"}, None),
    ],
)
def test_workers_with_other_versions_are_refused(found: dict[str, Any], says: str | None) -> None:
    """Another package may make other text of a value, and so another hash id."""
    if "python" in found:
        found["python"] = found["python"].replace("{python}", f"3.{sys.version_info.minor}")

    async def answer(*_: Any, workers: list[str], **__: Any) -> dict[str, object]:
        return {workers[0]: {**cluster_worker.own_packages(), **found}}

    client = ClusterClient(ExecutorTable(), "run")
    client._client = SimpleNamespace(run=answer)
    with pytest.raises(WorkersError, match=f"tls://10.0.0.2:4711 {says}") if says else nullcontext():
        asyncio.run(client._check_version("tls://10.0.0.2:4711"))


def test_a_worker_without_heartbeats_gets_no_order_and_gives_its_own_back() -> None:
    placed: list[dict[str, Any]] = []
    cancelled: list[str] = []

    async def identity(**_: Any) -> dict[str, Any]:
        return {"workers": workers}

    async def processing() -> dict[str, Sequence[str]]:
        return {"tls://a": ("waits here",), "tls://b": ("runs there",)}

    def task(key: str) -> Any:
        async def cancel() -> None:
            cancelled.append(key)

        return SimpleNamespace(key=key, cancel=cancel)

    client = ClusterClient(ExecutorTable(), "run")
    client._client = SimpleNamespace(
        scheduler=SimpleNamespace(identity=identity),
        processing=processing,
        submit=lambda *_, **options: placed.append(options),
    )
    workers = {f"tls://{name}": {"status": "running", "last_seen": 100.0} for name in "abc"}
    sealed = SealedOrder("", "claim", b"")
    for last_seen, silent in [(95.0, False), (94.0, True), (99.5, False)]:
        workers["tls://a"]["last_seen"] = last_seen
        assert asyncio.run(client.size()) == 3 - silent
        client.place(sealed, "key")
        assert placed[-1].get("workers") == (["tls://b", "tls://c"] if silent else None)
        assert asyncio.run(client.take_back(task("runs there"))) is False
        assert asyncio.run(client.take_back(task("waits here"))) is silent
    assert cancelled == ["waits here"]


def test_a_scheduler_of_another_version_is_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {**cluster_worker.own_packages(), "distributed": "2020.1"}
    monkeypatch.setattr(cluster_client, "own_packages", lambda: own)
    says = str(cluster_problem(executor_at(cluster.scheduler_address)))
    assert f"the Dask scheduler {cluster.scheduler_address} has distributed " in says
    assert "this run has 2020.1; install the same version on all" in says


def test_without_a_scheduler_a_load_ends_with_exit_code_1(sandbox: Sandbox) -> None:
    """And leaves nothing of it: what ran before ends, and the next run starts."""
    sandbox.fill(3)
    project_with(sandbox, dask_at("tcp://127.0.0.1:1") + 'wait = "1s"')
    began = time.monotonic()
    report = sandbox.load(inline=False)
    assert "the Dask scheduler tcp://127.0.0.1:1 did not answer within 1s" in str(report.stopped)
    assert "start it, correct [executor], or run with --executor local" in str(report.stopped)
    assert report.exit_code == 1
    assert time.monotonic() - began < 30
    assert not [thread for thread in threading.enumerate() if thread.name == "dask"]
    assert sandbox.load(only_missing=True).exit_code == 0
    assert sandbox.target_rows()


@contextmanager
def a_port(answer: bytes | None) -> Iterator[str]:
    """A port of this machine that is no scheduler's: it says nothing, or the same to everyone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    open_.append(server.accept()[0])
                    if answer is not None:
                        open_[-1].sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in open_:
            each.close()


def test_a_port_that_accepts_and_is_silent_ends_the_wait() -> None:
    """Dask's own timeout ends with the connection, and a run without workers waited without end."""
    with a_port(None) as port:
        began = time.monotonic()
        assert "did not answer within 1s (TimeoutError); start it" in str(
            cluster_problem(executor_at(f"tcp://{port}"))
        )
        assert time.monotonic() - began < 5


def test_the_port_of_another_program_is_named() -> None:
    with a_port(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        says = str(cluster_problem(executor_at(f"tcp://{port}")))
    assert f"the Dask cluster tcp://{port} cannot be used: " in says


def test_without_the_package_a_check_of_the_cluster_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was an internal error, of the end of a connection that was never begun."""
    for name in ("distributed", "tornado.ioloop"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'dwhctl[dask]'" in str(cluster_problem(executor_at("tcp://127.0.0.1:1")))


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> list[Cluster]:
    """The files of two clusters."""
    both = [Cluster(tmp_path_factory.mktemp(name), 1) for name in ("own", "other")]
    for each in both:
        each.make_certificates()
    return both


def tls_executor(address: str, files: dict[str, str], **other: str) -> ExecutorTable:
    given = {name: Path(path) for name, path in {**files, **other}.items()}
    # An error that cannot pass is not waited for.
    return ExecutorTable(type="dask", scheduler=address, wait=timedelta(seconds=30), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [(("ca",), "certificate does not match"), (("cert", "key"), "UNKNOWN_CA")],
)
def test_certificates_of_another_authority_are_refused_at_once(
    authorities: list[Cluster], wrong: tuple[str, ...], says: str
) -> None:
    own, other = authorities
    keys: Any = {
        f"tls_{part}_{name}": own.files[name] for part in ("scheduler", "client") for name in ("cert", "key")
    }
    security = distributed.Security(tls_ca_file=own.files["ca"], require_encryption=True, **keys)  # type: ignore[no-untyped-call]
    made: Any = partial(distributed.LocalCluster, host="127.0.0.1", protocol="tls", security=security)
    with made(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        began = time.monotonic()
        executor = tls_executor(
            cluster.scheduler_address, own.files, **{name: other.files[name] for name in wrong}
        )
        problem = str(cluster_problem(executor))
        assert "do not accept each other's certificates" in problem
        assert says in problem
        assert "correct ca, cert and key of [executor]" in problem
        assert time.monotonic() - began < 5


@pytest.mark.long
def test_the_certificates_of_the_docs_pass_the_strict_check_of_python_3_13(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/cluster.md").read_text(encoding="utf-8")
    commands = page[page.index("openssl req -x509") :].partition("```")[0]
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    parts = [f"{part}.pem" for part in ("scheduler", "worker", "client")]
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", *parts]
    shown = subprocess.run(verify, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


def test_files_that_cannot_be_used_are_named(authorities: list[Cluster], tmp_path: Path) -> None:
    own, other = authorities
    (tmp_path / "no.pem").write_text("no pem")
    key = serialization.load_pem_private_key(Path(own.files["key"]).read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"Geheim")
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "locked.pem").write_bytes(key.private_bytes(*pem, encryption))
    for name, path in [
        ("ca", tmp_path / "no.pem"),
        ("cert", tmp_path / "no.pem"),
        ("key", Path(other.files["key"])),
        ("key", tmp_path / "locked.pem"),
    ]:
        problem = str(cluster_problem(tls_executor("tls://127.0.0.1:1", own.files, **{name: str(path)})))
        assert str(path) in problem
        assert "cannot be used" in problem
        assert "they are PEM files, and the key has no passphrase" in problem


def test_an_order_that_needs_a_package_which_the_worker_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, missing = SimpleNamespace(address="tls://10.0.0.2:4711"), "pymssql"
    connection = SimpleNamespace(name="erp", type="mssql", driver="pymssql")
    order: Any = SimpleNamespace(
        source=connection, table=SimpleNamespace(connection=SimpleNamespace(name="dwh", type="clickhouse"))
    )
    monkeypatch.setattr(cluster_worker, "find_spec", lambda name: None if name == missing else object())
    for missing, of in [("pymssql", "erp"), ("mssql_python", "erp"), ("clickhouse_connect", "dwh")]:
        connection.driver = missing.replace("_", "-") if of == "erp" else "pymssql"
        refusal = cluster_worker._missing(worker, order)
        assert refusal is not None
        assert f"tls://10.0.0.2:4711 has no package {missing}, which the connection {of} needs" in refusal.why
    missing = ""
    assert cluster_worker._missing(worker, order) is None


def test_an_order_is_worked_on_once(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask runs a task again whose result is lost with its worker; the rows would be staged twice."""
    monkeypatch.setattr(cluster_worker, "stage_in_worker", lambda order: f"staged {order}")
    # The worker is this process.
    for name in ("mask_python", "protect_memory_and_files"):
        monkeypatch.setattr(cluster_worker, name, lambda: None)
    monkeypatch.setattr(cluster_worker, "_missing", lambda worker, order: None)
    monkeypatch.setattr(cluster_worker, "_import", lambda order: None)
    cluster.scale(1)
    sealed = seal("the slice", "claim")  # type: ignore[arg-type]
    with distributed.Client(cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        first, second = (client.submit(run_order, sealed, pure=False).result() for _ in range(2))
        assert first == "staged the slice"
        assert isinstance(second, Refusal)
        assert "does not work on it again" in second.why
        other = SealedOrder("0.0.9", "another claim", sealed.data)
        third = client.submit(run_order, other, pure=False).result()
        assert "install the same version" in third.why
        packages = {**sealed.packages, "pyarrow": "1.0"}
        fourth = client.submit(
            run_order, dataclasses.replace(sealed, claim="a third", packages=packages), pure=False
        )
        assert "this run has 1.0; install the same version on all" in fourth.result().why


def test_an_attempt_starts_when_its_worker_has_imported_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The timeout of the first attempts of a cluster ran while their workers imported."""
    done: list[str] = []
    worker = SimpleNamespace(
        state=SimpleNamespace(nthreads=1), get_current_task=lambda: "", address="tls://10.0.0.2:1"
    )
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(cluster_worker, "import_module", done.append)
    for name in ("mask_python", "protect_memory_and_files"):
        monkeypatch.setattr(cluster_worker, name, lambda: None)

    def claim(*_: Any) -> Refusal:
        done.append("start")
        return Refusal("enough")

    monkeypatch.setattr(cluster_worker, "_claim", claim)
    of = [SimpleNamespace(type=each) for each in ("mssql", "vertica")]
    order: Any = SimpleNamespace(source=of[0], table=SimpleNamespace(connection=of[1]))
    assert run_order(seal(order, "claim")) == Refusal("enough")
    assert {"dwhctl.load.extract", "pymssql", "vertica_python"} <= set(done[: done.index("start")])


def test_a_cancelled_attempt_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    ended = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()
        raise SystemExit  # of this thread

    monkeypatch.setattr(os, "_exit", leave)
    wanted = True
    watch = cluster_worker._Watch(lambda: wanted)

    def run() -> None:
        with suppress(SystemExit):
            watch.run()

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.4)
    assert not codes
    wanted = False
    assert ended.wait(5)
    thread.join()
    done = cluster_worker._Watch(lambda: False)
    done.end()
    done.run()
    assert len(codes) == 1, "a task that has ended ends no process"


def test_what_is_not_a_secret_is_pickled_as_always() -> None:
    data = io.BytesIO()
    cluster_worker._Pickler(data).dump({"a": Path("b"), "c": (1, None)})
    assert pickle.loads(data.getvalue()) == {"a": Path("b"), "c": (1, None)}
