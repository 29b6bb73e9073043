"""DuckDB instances for the servers, each used by one server after another: to make one takes 15 to 30 ms of CPU."""

from __future__ import annotations

import atexit
import weakref
from collections import defaultdict
from collections.abc import Callable

import duckdb

Step = Callable[[duckdb.DuckDBPyConnection], object]

#: The instances that no server uses, by how they are made.
_spare: dict[Callable[[], duckdb.DuckDBPyConnection], list[duckdb.DuckDBPyConnection]] = defaultdict(list)
#: More servers than this at once are rare, and an instance holds memory.
_MOST = 4


def engine_for(
    owner: object, make: Callable[[], duckdb.DuckDBPyConnection], empty: Step
) -> duckdb.DuckDBPyConnection:
    """Return an instance as `make` makes it, for as long as `owner` lives. `empty` removes what a server made in it."""
    spare = _spare[make]
    engine = spare.pop() if spare else make()
    weakref.finalize(owner, _take_back, engine, spare, empty)
    return engine


def _take_back(
    engine: duckdb.DuckDBPyConnection, spare: list[duckdb.DuckDBPyConnection], empty: Step
) -> None:
    try:
        if len(spare) < _MOST:
            empty(engine)
            spare.append(engine)
            return
    except duckdb.Error:
        # Something holds it: the next server gets another one.
        pass
    # DuckDB complains at the end of the process about connections that are open then.
    engine.close()


@atexit.register
def _close_all() -> None:
    global _MOST
    _MOST = 0
    for engines in _spare.values():
        while engines:
            engines.pop().close()
