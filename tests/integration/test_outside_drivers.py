"""The drivers' own tests against the test servers: what passed goes on passing (`docs/testing.md`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests import outside


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(outside.DRIVERS))
def test_the_drivers_own_tests(name: str, tmp_path: Path) -> None:
    driver = outside.DRIVERS[name]
    try:
        outcomes = outside.run(driver, tmp_path)
    except outside.Unavailable as reason:
        pytest.skip(str(reason))
    assert outside.differences(driver, outcomes) == []


@pytest.mark.parametrize("name", sorted(outside.DRIVERS))
def test_the_list_is_that_of_the_installed_driver(name: str) -> None:
    driver = outside.DRIVERS[name]
    _, passed = outside.read_pinned(driver)
    assert outside.differences(driver, dict.fromkeys(passed, "passed")) == []


def test_what_differs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outside, "_PINNED", tmp_path)
    driver = dataclasses.replace(outside.PYMSSQL)
    outside.write_pinned(driver, {"a::one": "passed", "a::two": "passed", "a::three": "failure"})
    assert outside.differences(driver, {"a::one": "passed", "a::two": "failure", "a::three": "passed"}) == [
        "passes no longer (failure): a::two",
        "passes now, add it to the list: a::three",
    ]
    assert outside.differences(driver, {"a::one": "passed"}) == ["passes no longer (did not run): a::two"]
    driver.pinned.write_text("# pymssql 0.1\na::one\n")
    [said] = outside.differences(driver, {"a::one": "passed"})
    assert "write it anew" in said
