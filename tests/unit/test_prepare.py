"""A target table that cannot hold dwhctl's own fields is refused before data moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.projects import CREATE, Sandbox


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("etl_source VARCHAR", "etl_source BIGINT", "etl_source is BIGINT"),
        ("etl_id BIGINT", "etl_id VARCHAR", "etl_id is VARCHAR"),
        ("hash_id BIGINT", "hash_id VARCHAR", "hash_id is VARCHAR"),
        ("hash_id BIGINT", "hash_id INTEGER", "hash_id is INTEGER"),
        (", hash_id BIGINT", "", "no column hash_id"),
    ],
)
def test_service_fields_are_checked(tmp_path: Path, right: str, wrong: str, named: str) -> None:
    assert right in CREATE
    report = Sandbox(tmp_path, create=CREATE.replace(right, wrong)).write().fill().load()
    assert (report.loaded, report.failed) == (0, 3)
    assert all(named in failed.failure.message for failed in report.failures)
