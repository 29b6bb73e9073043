"""The knocker: threads of the parent that find out whether a source is there. No worker waits for a dead one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwhctl.errors import AttemptError, ConnectError
from dwhctl.runs.values import Failure
from dwhctl.sources import knock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dwhctl.project.model import Connection
    from dwhctl.runs.slots import Slot, Slots


@dataclass(frozen=True, slots=True)
class Knocked:
    """A source gave a sign of life, or none."""

    connection: str
    failure: Failure | None = None


class Knocker:
    """Knocks at sources, each in a thread that nobody waits for. `tell` takes a Knocked for each, in that thread."""

    def __init__(
        self, connections: Mapping[str, Connection], slots: Slots, tell: Callable[[Knocked], None]
    ) -> None:
        self._connections = connections
        self._slots = slots
        self._tell = tell

    def knock(self, name: str) -> None:
        """Knock, under a slot of the connection. Where other runs use all of them it is there."""
        slot = self._slots.try_take(name)
        if slot is None:
            self._tell(Knocked(name))
            return
        threading.Thread(target=self._knock, args=(name, slot), name="knocker", daemon=True).start()

    def _knock(self, name: str, slot: Slot) -> None:
        failure = None
        try:
            knock(self._connections[name])
        except AttemptError as error:
            failure = Failure.of(error)
        except Exception as error:
            # Whatever it was: a knock without an answer would be waited for without end.
            reason = f"connection {name} cannot be reached: {type(error).__name__}: {error}"
            failure = Failure.of(ConnectError(reason, connection=name))
        finally:
            slot.release()
        self._tell(Knocked(name, failure))
