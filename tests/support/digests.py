"""Digests and channels for tests."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path

from dwhctl.alerts.digest import Digest, Reason, Recovery
from dwhctl.alerts.message import Message
from dwhctl.project.model import Alert, Project
from dwhctl.project.read import read_project
from tests.support.projects import Sandbox

DAY = date(2020, 7, 14)
TELEGRAM = """
[alerts.failures]
type = "telegram"
when = ["one_failed"]
token = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
chat_id = "-100"
"""
MAIL = """
[alerts.mail]
type = "email"
when = ["all_success"]
host = "localhost"
from = "DWH <dwh@example.com>"
to = ["ann@example.com"]
"""
#: A bad morning: 150 shards, three reasons.
DIGEST = Digest(
    subject="failed",
    project="dwh",
    command="dwhctl load --date today --lookback 1",
    run_id="20200714T060001-4f1c",
    days=(DAY,),
    done=109,
    total=150,
    reasons=(
        Reason(
            "orders",
            "mssql_1",
            "ConnectError",
            "mssql_1: connection refused",
            tuple(f"city_{number}" for number in range(38)),
            (DAY,),
            streak=3,
            since=date(2020, 7, 12),
        ),
        Reason(
            "orders",
            "mssql_0",
            "SchemaDriftError",
            "column price: the source has <nvarchar(10)>, the target NUMERIC & more",
            ("chita",),
            (DAY,),
            streak=1,
            since=DAY,
        ),
        Reason("calls", "dwh", "TargetBusyError", "lock timeout", ("omsk", "tomsk"), (DAY,)),
    ),
    recoveries=(Recovery("orders", ("tver",)),),
    look="dwhctl report failures --days 2",
)
MESSAGE = Message("[dwhctl] dwh: orders failed", "<b>failed</b>\na &lt; b", "failed\na < b")


def project_with(folder: Path, alerts: str, **files: str) -> Project:
    """Write a small project with these channels, and templates `NAME.jinja`, and read it."""
    sandbox = Sandbox(folder).write()
    main = folder / "config" / "dwhctl.toml"
    main.write_text(f"{main.read_text()}\n{alerts}")
    for name, text in files.items():
        sandbox.put(f"config/alerts/{name}.jinja", text)
    return read_project(folder)


def channels_in(alerts: str) -> tuple[Project, dict[str, Alert]]:
    """Give a project with these channels that needs no file any more, and the channels by name."""
    with tempfile.TemporaryDirectory() as folder:
        project = project_with(Path(folder), alerts)
    return project, dict(project.alerts)
