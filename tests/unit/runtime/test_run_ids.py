"""The id of a run."""

from __future__ import annotations

import re
import time

from dwhctl.runtime.run_context import new_run_id


def test_ids_of_one_second_sort_by_their_time() -> None:
    ids = []
    for _ in range(30):
        ids.append(new_run_id())
        time.sleep(0.006)
    assert ids == sorted(ids)
    assert all(re.fullmatch(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}", run_id) for run_id in ids)
