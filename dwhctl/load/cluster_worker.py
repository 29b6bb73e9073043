"""What a Dask worker does with an order: it checks that it may work on it, stages the slice, and watches its task.

The order travels as bytes: Dask shows and logs the `repr` of what a task is called with. Secrets are read on the
parent's machine and travel with it, so the connection to the scheduler must be encrypted.
"""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dwhctl import __version__
from dwhctl.core.secrets import Secret, mask, mask_python
from dwhctl.core.start import protect_memory_and_files
from dwhctl.load.worker_process import modules_of, stage_in_worker
from dwhctl.runtime.messages import TargetTable

if TYPE_CHECKING:
    from dwhctl.runtime.messages import StageOrder, StageResult

#: How often a worker looks whether its task was cancelled, and how long the scheduler may take to answer it.
_WATCH_SECONDS = 0.3
_ANSWER_SECONDS = 30.0
_KILLED = 1
#: What must be of one version everywhere: the packages that messages go through, and those that make a value's text.
PACKAGES = (
    *("dwhctl", "dask", "distributed", "cloudpickle", "numpy", "pyarrow", "pgpq", "duckdb"),
    *("pymssql", "mssql-python", "psycopg2-binary", "vertica-python", "clickhouse-connect"),
)


@dataclass(frozen=True, slots=True)
class SealedOrder:
    """An order with its secrets, and the version of dwhctl that wrote it. `claim` is the event that its start sets.

    `packages` are the versions on the parent's machine.
    """

    version: str
    claim: str
    data: bytes = field(repr=False)
    packages: dict[str, str | None] = field(default_factory=dict, repr=False)


class Refusal(Struct, frozen=True):
    """Why a worker did not work on an order."""

    why: str


class _Pickler(pickle.Pickler):
    """Writes secrets themselves: the variables and files that they are read from are on the parent's machine."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Secret):
            return _secret, (value.reveal(), value.place)
        if isinstance(value, TargetTable):
            # Not as it pickles itself: once for all orders, with references to its secrets.
            return TargetTable, value.values
        return NotImplemented


def _secret(text: str, place: str) -> Secret:
    secret = Secret(text, kind="environment")
    secret.place = place
    return secret


def seal(order: StageOrder, claim: str) -> SealedOrder:
    """Return the order as it travels. Raise ConfigError when a secret cannot be read."""
    data = io.BytesIO()
    _Pickler(data).dump(order)
    return SealedOrder(__version__, claim, data.getvalue(), own_packages())


def own_packages() -> dict[str, str | None]:
    """Return the versions of `PACKAGES` and of Python in this process; None for a package that is not installed."""
    from distributed.versions import get_package_info

    return dict(get_package_info(PACKAGES))


def difference(found: dict[str, str | None], own: dict[str, str | None]) -> str | None:
    """Return which version differs from this run's, as "has X 1, this run has X 2", or None.

    A package that only one side has is none: an attempt that needs it is refused by `_missing`.
    """
    python, expected = (".".join(str(each["python"]).split(".")[:2]) for each in (found, own))
    if python != expected:
        return f"has Python {python}, this run has {expected}"
    if found.get("dwhctl") is None:
        return "has no dwhctl"
    for name in PACKAGES:
        version, wanted = found.get(name), own.get(name)
        if version != wanted and version and wanted:
            return f"has {name} {version}, this run has {wanted}"
    return None


def run_order(sealed: SealedOrder) -> StageResult | Refusal:
    """Stage the slice of an order, at most once: Dask runs a task again whose result is lost with its worker."""
    from distributed import get_worker

    worker = get_worker()
    try:
        refusal = _misfit(worker, sealed)
        if refusal is None:
            mask_python()
            protect_memory_and_files()
            order = pickle.loads(sealed.data)  # noqa: S301 - the parent's, over TLS
            refusal = _missing(worker, order)
        if refusal is None:
            _import(order)
            refusal = _claim(worker, sealed)
        if refusal is None and not _is_wanted(worker, worker.get_current_task()):
            refusal = Refusal("the attempt was cancelled before it began")
    except Exception as error:
        refusal = Refusal(mask(f"{type(error).__name__}: {error}"))
    if refusal is not None:
        return refusal
    with _watched(worker):
        return stage_in_worker(order)


def _misfit(worker: Any, sealed: SealedOrder) -> Refusal | None:
    if sealed.version != __version__:
        return Refusal(
            f"the Dask worker {worker.address} has dwhctl {__version__}, this run has {sealed.version}; install"
            " the same version on the workers"
        )
    if sealed.packages and (what := difference(own_packages(), sealed.packages)):
        return Refusal(f"the Dask worker {worker.address} {what}; install the same version on all")
    if worker.state.nthreads != 1:
        return Refusal(
            f"the Dask worker {worker.address} has {worker.state.nthreads} threads; start it with --nthreads 1"
        )
    return None


def _missing(worker: Any, order: StageOrder) -> Refusal | None:
    """Return the refusal of an order whose connections need a package that this worker lacks: that of an extra."""
    from dwhctl.project.connections import SYSTEMS

    for connection in (order.source, order.table.connection):
        driver = getattr(connection, "driver", None) or SYSTEMS[connection.type].driver or "dwhctl"
        package = driver.partition(".")[0].replace("-", "_")
        if find_spec(package) is None:
            return Refusal(
                f"the Dask worker {worker.address} has no package {package}, which the connection"
                f" {connection.name} needs; install the extras of this machine on all workers"
            )
    return None


def _import(order: StageOrder) -> None:
    """Import what the attempt needs before it counts as started: the first one of a process would take seconds."""
    for name in ("dwhctl.load.extract", *modules_of({order.source.type}, {order.table.connection.type})):
        import_module(name)


def _claim(worker: Any, sealed: SealedOrder) -> Refusal | None:
    if _answer(worker, worker.scheduler.event_is_set(name=sealed.claim)):
        return Refusal(
            f"the result was lost with its Dask worker; {worker.address} does not work on it again"
        )
    _answer(worker, worker.scheduler.event_set(name=sealed.claim))
    return None


def _answer(worker: Any, question: Coroutine[Any, Any, Any]) -> Any:
    """Return the scheduler's answer, from the thread of a task."""
    loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop
    return asyncio.run_coroutine_threadsafe(question, loop).result(_ANSWER_SECONDS)


@contextmanager
def _watched(worker: Any) -> Iterator[None]:
    """End the process when the task in the block is cancelled: its parent ended it, or is gone.

    Dask lets a function go on that was cancelled. The nanny starts the worker again.
    """
    key = worker.get_current_task()
    watch = _Watch(lambda: _is_wanted(worker, key))
    threading.Thread(target=watch.run, name="watch", daemon=True).start()
    try:
        yield
    finally:
        watch.end()


def _is_wanted(worker: Any, key: Any) -> bool:
    """Return whether the scheduler still waits for the task."""
    task = worker.state.tasks.get(key)
    return worker.status.name in ("running", "paused") and task is not None and task.state == "executing"


class _Watch:
    """Ends the process once `is_wanted` is false, unless the task ended before."""

    def __init__(self, is_wanted: Callable[[], bool]) -> None:
        self._is_wanted = is_wanted
        self._ended = threading.Event()
        self._mutex = threading.Lock()

    def run(self) -> None:
        while not self._ended.wait(_WATCH_SECONDS):
            with self._mutex:
                if not self._ended.is_set() and not self._is_wanted():
                    os._exit(_KILLED)

    def end(self) -> None:
        with self._mutex:
            self._ended.set()
