"""The whole of a run, of slices or of reports.

plan ▶ take the locks ▶ reap dead runs ▶ loop ▶ result ▶ write the alerts ▶ release the locks ▶ send alerts and pings
"""

from __future__ import annotations

import queue
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from dwhctl.core.errors import InternalError, SessionsError, StateDirError, WorkersError
from dwhctl.core.waiting import caught_signals
from dwhctl.notify.run import run_notifier
from dwhctl.runtime.events import RunEnded, RunResult
from dwhctl.runtime.failures import group_failures
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.log import logged_run
from dwhctl.runtime.prepare import targets_of
from dwhctl.runtime.run_context import RunContext, limits_of, new_run_id
from dwhctl.runtime.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dwhctl.alerts.digest import RunKind
    from dwhctl.core.errors import ExitCode
    from dwhctl.engine.scheduler import Scheduler
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.runtime.events import Listener
    from dwhctl.sessions.store import SessionStore


class Run(ABC):
    """One run: what it holds until its end, and its loop."""

    kind: ClassVar[RunKind]

    def __init__(self, project: Project, command: str, wait: float) -> None:
        self.id = new_run_id()
        self.project = project
        self.command = command
        self.result = RunResult(self.id)
        self.state = StateDir(project.state_dir)
        self.slots = Slots(self.state.slots, limits_of(project))
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        #: The next run has something to reap, though this one ends in order.
        self.leaves_lock = False
        self._wait = wait

    @abstractmethod
    def prepare(self) -> None:
        """Make the plan. Raise ConfigError or UsageError; touch nothing."""

    @abstractmethod
    def locks(self) -> Mapping[str, str]:
        """Return the names of the locks of its work, each with what is done under it."""

    @abstractmethod
    def work(self) -> None:
        """Do it, with the locks held: publish the event of the start, make the loop, and give it to `loop`."""

    def check(self, store: SessionStore) -> None:  # noqa: B027 - few runs have something to check
        """Refuse the run, now that its locks are held."""

    def unknown_loads(self, store: SessionStore) -> Sequence[Load]:  # noqa: ARG002
        """Return the loads whose tables may hold etl_ids that the sessions table does not know of."""
        return ()

    def carry_out(
        self, listen: Listener, names: Sequence[str], *, pings: bool = True, scheduled: bool = False
    ) -> RunResult:
        """Run from the plan to the alerts; `names` are those of its loads or reports.

        Raise ConfigError or UsageError before anything is touched, LockHeldError when another run has a lock of its
        work, StateDirError, SessionsError when the sessions database cannot be used at the start, and Interrupted.
        """
        with (
            logged_run(self.project, self.id, self.command, listen) as log,
            run_notifier(
                self.project, self.command, names, log, self.kind, pings=pings, scheduled=scheduled
            ) as notifier,
        ):
            self.prepare()
            self.listen = notifier.listen
            with caught_signals() as self._signals, ExitStack() as stack:
                self._enter(stack)
                began = time.monotonic()
                self.work()
                self.result.seconds = time.monotonic() - began
                self.result.groups = group_failures(self.project, self.result.failures)
                self.listen(RunEnded(self.result))
                notifier.write(self.store, self.result)
            # Its locks are free: a channel that hangs holds up no other run.
            self.result.pings = notifier.ping()
            self.result.alerts = notifier.send()
        return self.result

    def _enter(self, stack: ExitStack) -> None:
        """Take what the run holds until its end: the locks of its work, sessions, its run lock. Reap dead runs."""
        self.targets = targets_of(self.project, f"dwhctl:{self.id}")
        context = RunContext(
            self.id,
            self.command,
            self.project,
            self.state,
            self.slots,
            self.targets,
            tell=self.listen,
            leaves_lock=self._leaves_work,
            check=self.check,
            unknown=self.unknown_loads,
        )
        self.store = context.enter(stack, self.locks(), self._wait)
        #: Why a load or report may not start: a dead run's sessions of it could not be closed.
        self.blocked = context.blocked

    def _leaves_work(self) -> bool:
        """Return whether the next run has something to reap."""
        return bool(self.leaves_lock or self.result.stopped is not None or self.result.in_doubt)

    def loop(self, scheduler: Scheduler[Any, Any, Any]) -> None:
        """Run the loop to its end. From here on a signal is an event of the loop."""
        self._signals.listener = self._stop_soon
        try:
            self.result.signal = scheduler.run()
            if self.result.signal is None:
                scheduler.finish()
            else:
                scheduler.stop()
        except (SessionsError, StateDirError, WorkersError, InternalError) as error:
            self.result.stopped = str(error)
            self.result.signal = self._signals.received
        finally:
            scheduler.end()

    def _stop_soon(self, code: ExitCode) -> None:
        """Take a signal: the loop may be waiting for the sessions database."""
        self.store.hurry()
        self.events.put(code)
