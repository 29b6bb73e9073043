"""What failed, grouped by reason, with what to correct and the command that follows."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from msgspec.structs import replace

from dwhctl.alerts.delivery import with_own_commands
from dwhctl.alerts.digest import Digest, Reason
from dwhctl.cli.main import dwhctl
from dwhctl.core.errors import About, ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.project.model import Project
from dwhctl.project.names import PROPOSED, in_project, is_proposed
from dwhctl.project.read import read_project
from dwhctl.runtime.events import FailedSlice
from dwhctl.runtime.failures import Failures, group_failures, retry_reports, retry_slices
from dwhctl.runtime.messages import Failure
from dwhctl.sessions.task_states import FailingTask, UnsuccessfulSlice
from dwhctl.sessions.values import State
from tests.support.projects import Sandbox

DAY = date(2020, 7, 14)
SHARDS = tuple(f"city_{number:03}" for number in range(150))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    servers = {f"server_{number}": SHARDS[number * 50 : (number + 1) * 50] for number in range(3)}
    root = tmp_path_factory.mktemp("failing")
    sandbox = Sandbox(root, servers=servers).write()
    sandbox.put(
        "sql/orders/extract.sql", "{# orders #}\nSELECT id\nFORM orders\nWHERE start_time >= :start\n"
    )
    return read_project(root)


def failed(
    shard: str, error_class: str, message: str = "it is so", day: date = DAY, **keys: Any
) -> FailedSlice:
    failure = Failure(error_class, message, **{"permanent": True, **keys})
    server = f"server_{SHARDS.index(shard) // 50}"
    return FailedSlice("orders", shard, server, day, failure)


def test_one_mistake_of_150_shards_is_one_group(project: Project) -> None:
    [group] = group_failures(project, [failed(shard, "QueryError", line=2) for shard in SHARDS])
    assert len(group.slices) == 150
    assert group.advice == "correct sql/orders/extract.sql (line 3), then"
    assert group.command == f"dwhctl load orders --date {DAY} --only-failed"


def test_50_databases_of_a_dead_server_are_one_group(project: Project) -> None:
    down = Failure("ConnectError", "refused", permanent=False)
    tried = [failed(shard, "ConnectError", "refused", permanent=False) for shard in SHARDS[:3]]
    parked = [
        failed(shard, "ParkedError", "parked", cause=down, connection="server_0") for shard in SHARDS[3:50]
    ]
    [group] = group_failures(project, [*parked, *tried])
    assert (len(group.slices), group.connection, group.failure.message) == (50, "server_0", "refused")
    assert group.advice == "try again"
    assert group.command == f"dwhctl load orders --date {DAY} --only-failed"


def test_different_reasons_are_different_groups_the_most_frequent_first(project: Project) -> None:
    groups = group_failures(
        project,
        [
            failed(SHARDS[0], "LoginRefusedError"),
            failed(SHARDS[60], "LoginRefusedError"),
            *[failed(shard, "QueryError") for shard in SHARDS[110:115]],
            failed(SHARDS[1], "QueryError", about=About.PERMISSION),
            failed(SHARDS[2], "InterruptedAttemptError"),
        ],
    )
    assert [(len(one.slices), one.advice) for one in groups] == [
        (5, "correct sql/orders/extract.sql, then"),
        (1, "correct user and password of connection server_0, then"),
        (1, "correct user and password of connection server_1, then"),
        (1, "give the user of connection server_0 that right, then"),
    ]


@pytest.mark.parametrize(
    ("error_class", "keys", "advice"),
    [
        ("SourceError", {"permanent": False}, "try again"),
        ("TlsError", {}, "correct the TLS of connection server_0, then"),
        (
            "DatabaseMissingError",
            {},
            "make the database readable for connection server_0, or correct the shard in config/dwhctl.toml, then",
        ),
        (
            "QueryError",
            {"about": About.TABLE, "line": 2},
            "create the table there or correct sql/orders/extract.sql (line 3), then",
        ),
        ("QueryError", {"about": About.MEMORY}, "raise memory_limit of connection server_0, then"),
        ("SchemaDriftError", {}, "correct sql/orders/extract.sql or the table stage.orders, then"),
        (
            "SchemaDriftError",
            {"new_columns": ("x",)},
            'add the columns to stage.orders, or set on_new_column = "add" in config/loads/orders.toml, then',
        ),
        (
            "ValueRefusedError",
            {},
            "correct the value at the source or convert it in sql/orders/extract.sql, then",
        ),
        ("OutsideSliceError", {}, "correct the condition on start_time in sql/orders/extract.sql, then"),
        ("DoubledKeyError", {}, "correct the rows at the source, or `key` in config/loads/orders.toml, then"),
        (
            "TargetRefusedError",
            {"place": "sql/orders/create.sql (line 2)"},
            "correct sql/orders/create.sql (line 2), then",
        ),
        (
            "TargetRefusedError",
            {"about": About.PERMISSION},
            "give the user of connection warehouse that right, then",
        ),
        ("TargetRefusedError", {}, "correct that on connection warehouse, then"),
        (
            "QuarantinedError",
            {},
            "see what happened with `dwhctl report log last --level warning`, then",
        ),
        ("OfALaterVersionError", {}, "correct that, then"),
    ],
)
def test_what_to_do_says_what_to_correct_where(
    project: Project, error_class: str, keys: dict[str, Any], advice: str
) -> None:
    [group] = group_failures(project, [failed(SHARDS[0], error_class, **keys)])
    assert group.advice == advice
    assert group.command == f"dwhctl load orders --date {DAY} --shard {SHARDS[0]}"


@pytest.mark.parametrize(
    ("error_class", "advice"), [("ShrunkSourceError", ""), ("InternalError", "this is a defect")]
)
def test_what_no_command_mends_has_none(project: Project, error_class: str, advice: str) -> None:
    [group] = group_failures(project, [failed(SHARDS[0], error_class)])
    assert (group.advice.startswith(advice), group.command) == (True, "")


# Every command that is proposed passes the check of what is sent


def test_every_command_of_a_group_may_be_sent(project: Project) -> None:
    days = [DAY - timedelta(days=back) for back in (0, 1, 7)]
    for count, some in itertools.product((1, 5, 6, 150), (1, 2, 3)):
        slices = [failed(shard, "QueryError", day=day) for shard in SHARDS[:count] for day in days[:some]]
        [group] = group_failures(project, slices)
        command = in_project(group.command, project.root)
        assert is_proposed(command, project.root), command
        reason = Reason("orders", "", "QueryError", "x", advice=group.advice, remedy=command)
        digest = Digest("failed", "dwh", "dwhctl load", reasons=(reason,), look=command)
        assert with_own_commands(project, digest) == digest
    assert is_proposed(in_project(retry_reports(["city_orders"], DAY), project.root), project.root)


def test_what_is_proposed_are_commands_and_options_that_there_are() -> None:
    context = click.Context(dwhctl, info_name="dwhctl")
    for name, options in PROPOSED.items():
        command = dwhctl.get_command(context, name)
        assert command is not None, name
        commands = [command]
        if isinstance(command, click.Group):
            found = (command.get_command(context, one) for one in command.list_commands(context))
            commands += [one for one in found if one is not None]
        known = {option for one in commands for parameter in one.params for option in parameter.opts}
        assert options <= known, name
        assert not options & {"--write", "--allow-shrink", "--table", "--output"}


@pytest.mark.parametrize(
    "command",
    [
        "dwhctl load orders --date 2020-07-14 --allow-shrink",
        "dwhctl query dwh x --write",
        "dwhctl load orders --date '2020-07-14; rm x'",
        "dwhctl load orders --date 2020-07-14 --project /elsewhere",
        "dwhctl report failures --date 2020-07-14",
        "dwhctl crontab install",
        "rm dwhctl",
        "dwhctl load 'unclosed",
    ],
)
def test_what_dwhctl_does_not_propose_is_not_sent(command: str) -> None:
    assert not is_proposed(command, Path("/srv/dwh"))


def test_a_command_for_a_shadow_run_names_its_table() -> None:
    assert retry_slices([("orders@stage.orders_new", "city_000", DAY)]) == (
        f"dwhctl load orders --table stage.orders_new --date {DAY} --shard city_000"
    )


def test_one_command_takes_the_loads_of_a_dead_server(project: Project) -> None:
    down = [failed(shard, "ConnectError", permanent=False) for shard in SHARDS[:2]]
    [group] = group_failures(project, [*down, *(replace(one, load="calls") for one in down)])
    assert group.command == f"dwhctl load orders calls --date {DAY} --shard city_000 --shard city_001"
    groups = group_failures(project, [*down, *(replace(one, load="calls") for one in down)], by_load=True)
    assert [one.command.split()[2] for one in groups] == ["orders", "calls"]


def test_refused_values_of_two_loads_are_two_groups(project: Project) -> None:
    refused = failed(SHARDS[0], "ValueRefusedError", "column x, row id=1: the value does not fit")
    groups = group_failures(project, [refused, replace(refused, load="calls")])
    assert [one.command.split()[2] for one in groups] == ["orders", "calls"]


def test_one_command_accepts_all_sources_that_shrank(project: Project) -> None:
    [group] = group_failures(project, [failed(shard, "ShrunkSourceError") for shard in SHARDS[:2]])
    assert group.advice == "see whether that is right for all of them, then"
    assert (
        group.command == f"dwhctl load orders --date {DAY} --shard city_000 --shard city_001 --allow-shrink"
    )


def test_the_command_that_accepts_shrunken_sources_is_for_these_only(project: Project) -> None:
    """--only-failed --allow-shrink also accepted what failed for another reason, such as a server that is down."""
    many = [failed(f"city_{number:03}", "ShrunkSourceError") for number in range(12)]
    [group] = group_failures(project, many)
    assert group.command.count("--shard") == 12
    assert "--only-failed" not in group.command
    some = [*many[:3], replace(many[3], day=DAY - timedelta(days=1))]
    [group] = group_failures(project, some)
    assert (group.advice, group.command) == (
        "see whether that is right for each of them: its message has the command",
        "",
    )


def test_the_command_for_a_closed_shard_of_a_load_without_days_has_a_day_that_it_has(
    project: Project,
) -> None:
    """Today is after its last day: `--date today` would find nothing to load."""
    group = project.shard_groups["cities"]
    shards = (replace(group[0], until_date=DAY), *group[1:])
    whole = project.loads["orders"].model_copy(update={"slice_by": None})
    project = dataclasses.replace(project, loads={"orders": whole}, shard_groups={"cities": shards})

    def task(shard: str, day: date = DAY) -> FailingTask:
        name, now = f"orders__{shard}", datetime.now(UTC)
        slice = UnsuccessfulSlice(
            1, name, "orders", shard, day, State.FAILED, now, "it is so", replaced=False
        )
        return FailingTask(name, "orders", shard, (slice,), 1, day)

    failures = Failures(project)
    assert failures.command([task(SHARDS[0])]) == f"dwhctl load orders --date {DAY} --shard {SHARDS[0]}"
    assert failures.command([task(SHARDS[1])]) == f"dwhctl load orders --date today --shard {SHARDS[1]}"
    both = f"dwhctl load orders --date {DAY} --shard {SHARDS[0]} --shard {SHARDS[1]}"
    assert failures.command([task(SHARDS[0]), task(SHARDS[1])]) == both
    # The page has one command for all shards of a load with one error: the closed one lacks the others' newer days.
    later = [task(shard, DAY + timedelta(days=3)) for shard in SHARDS[1:3]]
    assert failures.command([task(SHARDS[0]), *later], Path("/p")) == (
        f"dwhctl load orders --date {DAY} --shard {SHARDS[0]} --project /p;"
        f" dwhctl load orders --date today --shard {SHARDS[1]} --shard {SHARDS[2]} --project /p"
    )


def test_a_secret_that_is_not_there_is_no_defect() -> None:
    missing = Secret.of({"env": "DWHCTL_TEST_NOT_SET"})
    with pytest.raises(ConfigError) as caught:
        missing.reveal()
    failure = Failure.of(caught.value)
    assert (failure.error_class, failure.permanent, failure.traceback) == ("ConfigError", True, None)
    assert "export DWHCTL_TEST_NOT_SET" in failure.message
