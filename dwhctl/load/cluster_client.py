"""What a run asks of a Dask scheduler: connect and check, place an order, see where it is worked on, end that.

Source: https://distributed.dask.org/en/stable/ and the package distributed, 2026.8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dwhctl.core.errors import WorkersError
from dwhctl.core.secrets import mask
from dwhctl.core.words import one_line
from dwhctl.load.cluster_worker import PACKAGES, SealedOrder, difference, own_packages, run_order
from dwhctl.project.days import format_duration
from dwhctl.project.model import DASK_REMEDY

if TYPE_CHECKING:
    from dwhctl.project.model import ExecutorTable

#: What a connection to Dask raises that is lost, hangs or was never made.
LOST = (OSError, TimeoutError)
_ALLOWED_FAILURES = "distributed.scheduler.allowed-failures"
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 10.0
_PAUSE_SECONDS = 1.0
#: A worker without a heartbeat for so long, and a hundredth of a second more for each worker of the cluster, is silent:
#: stopped, or its machine is gone. Heartbeats are 0.5 s apart, in a cluster of N workers up to N / 200 + 1 s.
_SILENT_SECONDS = 5.0
_SILENT_SECONDS_EACH = 0.01
_CLOSE_SECONDS = 2.0
#: A task that goes on after this many cancellations, so many seconds apart, is left.
_MOST_CANCELS = 3
_CANCEL_SECONDS = 0.5
#: The longest wait until Dask has ended a worker: the nanny kills it after four seconds.
_END_SECONDS = 20.0
_OF_DASK = ("python", "dask", "distributed", "cloudpickle")
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application")


class ClusterClient:
    """A connection to a scheduler. Its methods are for one event loop."""

    def __init__(self, executor: ExecutorTable, name: str) -> None:
        self._executor = executor
        self._name = name
        self._waited = format_duration(executor.wait)
        self._client: Any = None
        self._heard: list[str] = []
        self._silent: list[str] = []

    async def connect(self) -> None:
        """Connect to the scheduler, as soon as it answers, and check it. Raise WorkersError."""
        _log_as_libraries_do()
        self._check_files()
        seconds = self._executor.wait.total_seconds()
        until = time.monotonic() + seconds
        while True:
            try:
                await self._open(min(seconds, _CONNECT_SECONDS))
                await self._check()
                return
            except LOST as error:
                await self.close()
                if _is_refused_certificate(error):
                    raise WorkersError(
                        f"this run and the Dask scheduler {self._executor.scheduler} do not accept each other's"
                        f" certificates ({_reason(error)}); correct ca, cert and key of [executor]"
                    ) from None
                if time.monotonic() >= until:
                    raise WorkersError(
                        f"the Dask scheduler {self._executor.scheduler} did not answer within {self._waited}"
                        f" ({_reason(error)}); start it, correct [executor], or run with --executor local"
                    ) from None
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _open(self, seconds: float) -> None:
        from distributed import Client

        make: Any = Client
        client = make(
            self._executor.scheduler,
            security=self._security(),
            asynchronous=True,
            set_as_default=False,
            timeout=seconds,
            name=self._name,
        )
        try:
            # Dask's own timeout ends when the other side has accepted the connection.
            self._client = await _in_time(client, seconds)
        finally:
            if self._client is None:
                await _close(client)

    def _check_files(self) -> None:
        """Raise WorkersError for files of [executor] that cannot be used; Dask would try again until the end."""
        import ssl

        table = self._executor
        if not table.is_encrypted:
            return
        assert table.ca is not None
        assert table.cert is not None
        what = f"ca {table.ca}"
        try:
            context = ssl.create_default_context(cafile=table.ca)
            what = f"cert {table.cert} with key {table.key}"
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(table.cert, table.key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise WorkersError(
                f"[executor] {what} cannot be used ({_reason(error)}); they are PEM files, and the key has no"
                " passphrase"
            ) from None

    async def _check(self) -> None:
        await self._check_scheduler()
        workers = await self._identities()
        self._check_workers(workers)
        await asyncio.gather(*(self._check_version(address) for address in workers))

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    @property
    def is_connected(self) -> bool:
        """Whether the connection was not lost since it was made."""
        return self._client is not None and self._client.status == "running"

    def _security(self) -> Any:
        from distributed import Security

        table, make = self._executor, Security
        if not table.is_encrypted:
            return None
        files = {"tls_ca_file": table.ca, "tls_client_cert": table.cert, "tls_client_key": table.key}
        made: Any = make(**{key: str(path) for key, path in files.items()}, require_encryption=True)  # type: ignore[no-untyped-call]
        return made

    async def _check_scheduler(self) -> None:
        """Raise WorkersError for a scheduler of other versions, or one that repeats tasks."""
        from dask import config
        from distributed.versions import get_package_info

        own = own_packages()
        found = await _in_time(self._client.run_on_scheduler(get_package_info, PACKAGES))
        # It unpacks no order, and needs none of the other packages.
        if what := difference({**own, **{name: found.get(name) for name in _OF_DASK}}, own):
            raise WorkersError(
                f"the Dask scheduler {self._executor.scheduler} {what}; install the same version on all"
            )
        allowed = await _in_time(self._client.run_on_scheduler(config.get, _ALLOWED_FAILURES))
        if allowed != 0:
            raise WorkersError(
                f"the Dask scheduler {self._executor.scheduler} repeats the task of a dead worker up to {allowed}"
                f" times, but dwhctl itself decides on retries; start the scheduler with {_ALLOWED_FAILURES}: 0 (in its"
                " environment: DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0)"
            )

    @staticmethod
    def _check_workers(workers: dict[str, Any]) -> None:
        """Raise WorkersError for a worker that works on several attempts at once, or cannot be ended."""
        for address, worker in workers.items():
            if worker["nthreads"] != 1:
                raise WorkersError(
                    f"the Dask worker {address} has {worker['nthreads']} threads, and one attempt is one process;"
                    " start the workers with --nthreads 1, and more of them with --nworkers"
                )
            if worker["nanny"] is None:
                raise WorkersError(
                    f"the Dask worker {address} has no nanny, so no deadline could end its work; start the workers"
                    " without --no-nanny"
                )

    async def _check_version(self, address: str) -> None:
        from distributed.versions import get_package_info

        try:
            answers = await _in_time(
                self._client.run(get_package_info, PACKAGES, workers=[address], on_error="return")
            )
        except LOST:
            return  # it hangs or has just left: an attempt there ends at its deadline
        found = answers.get(address)
        if isinstance(found, dict) and (what := difference(found, own_packages())):
            raise WorkersError(f"the Dask worker {address} {what}; install the same version on all")

    async def _identities(self) -> dict[str, Any]:
        answer = await _in_time(self._client.scheduler.identity(n_workers=-1))
        return dict(answer["workers"])

    async def size(self) -> int:
        """Return how many workers can take an attempt, and note which of them are silent. Raise one of `LOST`."""
        workers = await self._identities()
        seen = {address: worker["last_seen"] for address, worker in workers.items()}
        # By the clock of the scheduler, as far as a worker shows it.
        since = max(seen.values(), default=0.0) - _SILENT_SECONDS - _SILENT_SECONDS_EACH * len(seen)
        self._heard = [address for address in seen if seen[address] >= since]
        self._silent = [address for address in seen if seen[address] < since]
        return sum(workers[address]["status"] == "running" for address in self._heard)

    def place(self, sealed: SealedOrder, key: str) -> Any:
        """Give an order to the scheduler, and return Dask's future. A silent worker does not get it."""
        others = {"workers": self._heard, "allow_other_workers": True} if self._silent else {}
        return self._client.submit(run_order, sealed, key=key, pure=False, retries=0, **others)

    async def take_back(self, task: Any) -> bool:
        """Cancel a task that waits at a silent worker, and return whether it does. Raise one of `LOST`."""
        places = await _in_time(self._client.processing()) if self._silent else {}
        if not any(task.key in places.get(address, ()) for address in self._silent):
            return False
        await _in_time(task.cancel())
        return True

    async def has_started(self, sealed: SealedOrder) -> bool:
        """Return whether a worker has begun with an order. Raise one of `LOST`."""
        if not self.is_connected:
            raise OSError("the connection to the scheduler was lost")
        return bool(await _in_time(self._client.scheduler.event_is_set(name=sealed.claim)))

    async def forget(self, sealed: SealedOrder) -> None:
        """Remove the claim of an order that no worker works on any more."""
        if self.is_connected:
            with suppress(*LOST):
                await _in_time(self._client.scheduler.event_clear(name=sealed.claim))

    async def end(self, task: Any, sealed: SealedOrder) -> None:
        """Cancel a task, and restart the worker that executes it. Raise one of `LOST` when it may still be executed."""
        if not self.is_connected:
            return  # a worker ends itself when it has lost the scheduler
        places = await _in_time(self._client.processing())
        at = [address for address, keys in places.items() if task.key in keys]
        started = await self.has_started(sealed)
        await _in_time(task.cancel())
        if at and started:
            await self._restart(at)
        await self.forget(sealed)

    async def _restart(self, addresses: list[str]) -> None:
        """Restart workers, and return when their processes have ended."""
        # Client.restart_workers would also wait until the new processes are ready.
        restarted = self._client.scheduler.restart_workers(
            workers=addresses,
            timeout=_END_SECONDS,
            wait_for_workers=False,
            on_error="return",
            stimulus_id=f"dwhctl-{time.time()}",
        )
        answer = await _in_time(restarted, _END_SECONDS + _ANSWER_SECONDS)
        if unended := [address for address in addresses if answer.get(address, "OK") != "OK"]:
            raise TimeoutError(f"{', '.join(unended)} did not end within {_END_SECONDS:.0f} s")


def cluster_problem(executor: ExecutorTable) -> str | None:
    """Connect to a cluster as a load does, and return why it could not use it, or None."""
    if find_spec("distributed") is None:
        return f"the executor dask needs a package that is not installed; {DASK_REMEDY}"

    async def look() -> None:
        client = ClusterClient(executor, "dwhctl-check")
        try:
            await client.connect()
            if not await client.size():
                raise WorkersError(f"the Dask scheduler {executor.scheduler} has no worker; start workers")
        finally:
            await client.close()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(look())
    except WorkersError as error:
        return str(error)
    except Exception as error:
        return unusable(executor, error)
    finally:
        close_loop(loop)
    return None


def unusable(executor: ExecutorTable, error: Exception) -> str:
    """Return what to say of an error that is none of a connection, as when the port is another program's."""
    return f"the Dask cluster {executor.scheduler} cannot be used: {type(error).__name__}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    return one_line(mask(str(error) or str(error.__cause__ or "") or type(error).__name__))


def _is_refused_certificate(error: BaseException) -> bool:
    from distributed.comm.core import FatalCommClosedError

    return isinstance(error, FatalCommClosedError)


async def end_tasks(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: code of a library may swallow a cancellation that meets a result."""
    for _ in range(_MOST_CANCELS):
        if not (left := {task for task in tasks if not task.done()}):
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_CANCEL_SECONDS)


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """End every task of an event loop that had a connection to Dask, and close it with all its sockets.

    A connection whose making is cancelled has no owner yet: only the loop knows its socket.
    """

    async def end() -> Any:
        from tornado.ioloop import IOLoop

        await end_tasks(asyncio.all_tasks() - {asyncio.current_task()})
        return IOLoop.current()

    tornado_loop = loop.run_until_complete(end())
    loop.run_until_complete(loop.shutdown_asyncgens())
    tornado_loop.close(all_fds=True)


async def _close(client: Any) -> None:
    try:
        with suppress(Exception):
            async with asyncio.timeout(2 * _CLOSE_SECONDS):
                await client.close(timeout=_CLOSE_SECONDS)
    finally:
        client.status = "closed"  # it would close again, when it is collected


async def _in_time(question: Awaitable[Any], seconds: float = _ANSWER_SECONDS) -> Any:
    # asyncio.wait_for of Python 3.11 swallows a cancellation that meets the answer.
    async with asyncio.timeout(seconds):
        return await question


def _log_as_libraries_do() -> None:
    """Have Dask log into the run's log: it gives its loggers handlers for stderr."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
