"""What a slice costs its servers: statements, logins, round trips."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.support.projects import DAY
from tests.support.wire import a_wire, needs_faults

SLICES = 16
SERVERS = {f"mssql_{n}": [f"city_{n}_{m}" for m in range(SLICES // 2)] for n in range(2)}


@needs_faults
def test_a_slice_costs_two_statements_at_its_source_and_less_than_three_at_the_warehouse(
    tmp_path: Path,
) -> None:
    with a_wire(tmp_path, SERVERS, max_workers=2) as wire:
        wire.fill(20)
        for server in wire.own_servers:
            server.forget()
        done = wire.run("load", "--date", str(DAY), "--jobs", "2")
        assert done.returncode == 0, done.stderr
        assert len(wire.target_rows()) == 20 * SLICES
        for server in wire.own_sources.values():
            found = server.traffic
            assert found.logins == SLICES // 2
            assert found.statements == 2 * SLICES // 2, [one.sql for one in server.statements]
            # The prelogin, the login, two batches; and the prelogin by which the run asks whether the server is there.
            assert found.round_trips <= 4 * SLICES // 2 + 1
        assert wire.dwh is not None
        # A run's own work is no slice's: `create`, the table's columns, what is left of earlier runs.
        kinds = Counter(
            match[1]
            for one in wire.dwh.statements
            if (match := re.match(r"dwhctl:[^:]+:(stage|open|publish|drop):", one.application))
        )
        assert kinds["stage"] == 2 * SLICES
        # A worker stays logged in for the slices of a group, whose session has the label of the first of them.
        labels = {one.application for one in wire.dwh.statements if ":stage:" in one.application}
        assert len(labels) <= SLICES // 4, labels
        # All slices are one group of up to 64, published at once, unless the machine is slow.
        # A group of ten makes three statements a slice.
        commits = sum(one.sql == "COMMIT" and ":publish:" in one.application for one in wire.dwh.statements)
        groups = max(kinds["open"] // 2, commits)
        assert kinds.total() <= 2 * SLICES + 10 * groups, kinds
