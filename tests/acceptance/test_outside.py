"""What a tester from outside found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.projects import DAY, EXTRACT, Sandbox

SECRET = "T0kenT0ken42"  # noqa: S105 - the test's own


@pytest.mark.parametrize("arguments", [(), ("--inline",)], ids=["worker", "inline"])
def test_a_secret_in_a_driver_s_message_is_masked_in_the_session_s_comment(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The parent renders a secret variable into the SQL; the worker, whose driver quotes it, does not know it."""
    sandbox = Sandbox(
        tmp_path,
        servers={"server_0": ["abakan"]},
        extract=EXTRACT.replace("customer", "{{ var.value.token }}", 1),
    ).write()
    main = tmp_path / "config" / "dwhctl.toml"
    main.write_text(f'{main.read_text()}\n[variables]\ntoken = {{ env = "TOKEN" }}\n')
    sandbox.fill()

    ended = sandbox.run("load", "--date", str(DAY), *arguments, env={"TOKEN": SECRET})

    assert ended.returncode == 1
    assert SECRET not in ended.stdout + ended.stderr
    [session] = sandbox.sessions_newest_first()
    assert session.comment is not None
    assert "********" in session.comment
    assert SECRET not in session.comment
