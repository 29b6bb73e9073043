"""Units of systemd and CronJobs: they start at the crontab's times, and no value leaves its line."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dwhctl.core.errors import UsageError
from dwhctl.cron import fire_times
from dwhctl.deploy.files import (
    POD_PROJECT,
    Files,
    PodOptions,
    UnitOptions,
    kubernetes_jobs,
    systemd_units,
    write_files,
)
from dwhctl.deploy.times import calendar_times, kubernetes_schedule, starting_deadline
from dwhctl.project.fields import SCHEDULE_WORDS, _schedule
from dwhctl.project.read import read_project
from tests.cli_support import LOAD, PROJECT, dwh, small_project, write
from tests.unit.projects import a_load, a_project

REPOSITORY = Path(__file__).parents[2]
SCHEMAS = sorted((REPOSITORY / "tests" / "data" / "kubernetes").glob("cronjob-*.json"))
UTC_ZONE = ZoneInfo("UTC")
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)
#: What systemd, a shell or YAML would take for something else.
ODD = "50% of $HOME 'a' \"b\" #c: [d] \\e ; f {g}"


def a_field(lowest: int, highest: int) -> st.SearchStrategy[str]:
    """A field of a crontab: stars, numbers, ranges and steps, alone or in a list."""
    number = st.integers(lowest, highest)
    span = st.tuples(number, number).map(lambda pair: "{}-{}".format(*sorted(pair)))
    step = st.integers(1, highest).map("/{}".format)
    part = st.one_of(number.map(str), span, st.just("*"), st.tuples(span | st.just("*"), step).map("".join))
    return st.just("*") | st.lists(part, min_size=1, max_size=3).map(",".join)


def is_valid(schedule: str) -> bool:
    try:
        _schedule(schedule)
    except ValueError:
        return False
    return True


SCHEDULES = st.one_of(
    st.sampled_from(sorted(SCHEDULE_WORDS)),
    st.tuples(a_field(0, 59), a_field(0, 23), a_field(1, 31), a_field(1, 12), a_field(0, 7)).map(" ".join),
).filter(is_valid)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 5 * 366 * 1440).map(lambda minutes: NEW_YEAR + timedelta(minutes=minutes))


def times_of_systemd(expressions: list[str], after: datetime, count: int) -> list[datetime]:
    """The times that systemd-analyze gives for OnCalendar= lines of a timer."""
    base = f"{after:%Y-%m-%d %H:%M:%S} UTC"
    done = subprocess.run(
        ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={base}", *expressions],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    )
    found = re.findall(r"(?:Next elapse|Iter\. #\d+): \w{3} (\S+ \S+) UTC", done.stdout)
    times = sorted({datetime.fromisoformat(text).replace(tzinfo=UTC) for text in found})
    return times[:count]


@needs_systemd
@settings(max_examples=60, deadline=None)
@given(SCHEDULES, MOMENTS)
@example("0 0 13 * 5", NEW_YEAR)
@example("0 0 */2 * 1", NEW_YEAR)
@example("0 0 1-31 * 1", NEW_YEAR)
@example("15,45 8-18/2 * * 1-5", NEW_YEAR)
@example("0 0 * * 7", NEW_YEAR)
@example("0 0 29 2 *", NEW_YEAR)
def test_a_timer_starts_when_cron_does(schedule: str, after: datetime) -> None:
    expressions = [f"{time} UTC" for time in calendar_times(schedule)]
    assert times_of_systemd(expressions, after, 6) == list(islice(fire_times(schedule, after, UTC_ZONE), 6))


def times_of_kubernetes(schedule: str, after: datetime) -> Any:
    """The times of a schedule in Kubernetes' cron: `*` alone means every day, else either day may fit.

    https://github.com/robfig/cron/blob/v3.0.1/spec.go (dayMatches)
    """
    _, _, days, _, weekdays = schedule.split()
    assert set(schedule) <= set("0123456789*,-/ ")
    assert "*/" not in days + weekdays, "whether such a field has a star differs between versions"
    assert "7" not in weekdays
    return CronSim(schedule, after)


@given(SCHEDULES, MOMENTS)
@example("0 0 13 * 5", NEW_YEAR)
@example("0 0 1-31 * 1", NEW_YEAR)
@example("0 0 * * 7", NEW_YEAR)
def test_a_cron_job_starts_when_cron_does(schedule: str, after: datetime) -> None:
    try:
        found = kubernetes_schedule(schedule)
    except UsageError:
        day, weekday = schedule.split()[2], schedule.split()[4]
        assert day.startswith("*") or weekday.startswith("*")
        return
    expected = list(islice(fire_times(schedule, after, UTC_ZONE), 6))
    assert list(islice(times_of_kubernetes(found, after), 6)) == expected


def test_a_schedule_that_kubernetes_has_not_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no schedule that equals '0 0 \*/2 \* 1'.*choose days or weekdays"):
        kubernetes_schedule("0 0 */2 * 1")


def test_common_schedules_are_written_as_people_write_them() -> None:
    assert [calendar_times(text) for text in ("@daily", "*/5 * * * *", "0 */6 * * *", "30 6 * * 1-5")] == [
        ["*-*-* 00:00:00"],
        ["*-*-* *:00/5:00"],
        ["*-*-* 00/6:00:00"],
        ["Mon..Fri *-*-* 06:30:00"],
    ]
    assert calendar_times("0 0 13 * 5") == ["*-*-13 00:00:00", "Fri *-*-* 00:00:00"]
    assert kubernetes_schedule("0 */6 * * 1-5") == "0 */6 * * 1-5"
    assert kubernetes_schedule("@weekly") == "0 0 * * 0"


@pytest.mark.parametrize(
    ("schedule", "seconds"), [("* * * * *", 3_000), ("*/5 * * * *", 15_000), ("0 6 * * *", 86_400)]
)
def test_a_late_start_never_misses_more_than_kubernetes_counts(schedule: str, seconds: int) -> None:
    assert starting_deadline(schedule) == seconds
    starts = fire_times(schedule, datetime(2026, 1, 1, tzinfo=UTC), UTC_ZONE)
    first = next(starts)
    missed = [at for at in islice(starts, 100) if at - first <= timedelta(seconds=seconds)]
    assert len(missed) < 100


def a_program(folder: Path) -> Path:
    """A program that systemd-analyze finds executable."""
    folder.mkdir(parents=True)
    program = folder / "dwhctl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def an_odd_project(folder: Path) -> Path:
    """A project in a folder with a hostile name, with a load, a deadline and secrets."""
    root = folder / ODD
    secret = folder / "secrets" / "token"
    alerts = "".join(
        f'\n[alerts.{name}]\ntype = "telegram"\nwhen = ["one_failed"]\nchat_id = "1"\ntoken = {{ {token} }}\n'
        for name, token in (("one", f'file = "{secret}"'), ("other", 'env = "TOKEN"'))
    )
    load = LOAD + 'schedule = "0 0 13 * 5"\ndeadline = "07:00"\n'
    return small_project(root, project=PROJECT + alerts, load=load)


@needs_systemd
def test_systemd_accepts_the_units_of_a_project_with_an_odd_path(tmp_path: Path) -> None:
    project = read_project(an_odd_project(tmp_path))
    program = a_program(tmp_path / "50% of #c: [d] ; f {g}")
    files = systemd_units(project, UnitOptions([str(program)], name="dwhctl-odd"))
    assert list(files.texts) == [
        f"dwhctl-odd-{job}.{kind}" for job in ("load-orders", "watch") for kind in ("service", "timer")
    ]
    write_files(files, tmp_path / "units")
    found = subprocess.run(
        ["systemd-analyze", "verify", *sorted((tmp_path / "units").iterdir())], capture_output=True, text=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    service = files.texts["dwhctl-odd-load-orders.service"]
    [command] = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r'"((?:\\.|[^"\\])*)"', command)]
    assert [word.replace("%%", "%") for word in words] == [
        str(program),
        str(project.root).replace("$", "$$"),
    ]
    assert "Europe/Moscow" in files.texts["dwhctl-odd-load-orders.timer"]
    # /tmp holds the project of this test: a private one would hide it.
    assert f"PrivateTmp={'false' if tmp_path.is_relative_to('/tmp') else 'true'}" in service


@pytest.mark.parametrize("character", "$'\"\\")
def test_a_program_that_systemd_cannot_start_is_refused(character: str) -> None:
    project = a_project(Path("/srv/dwh"), loads={"orders": a_load(schedule="@daily")})
    with pytest.raises(UsageError, match="install dwhctl elsewhere"):
        systemd_units(project, UnitOptions([f"/opt/{character}/dwhctl"], user="etl"))


@needs_systemd
def test_systemd_understands_every_line_of_the_hardening(tmp_path: Path) -> None:
    """`verify` ignores what it does not know after a warning: none may be there, and a wrong one is seen."""
    program = a_program(tmp_path / "bin")
    load = a_load(schedule="0 6 * * *")
    files = systemd_units(
        a_project(tmp_path, loads={"orders": load}), UnitOptions([str(program)], user="root")
    )
    write_files(files, tmp_path / "units")
    [service] = (tmp_path / "units").glob("*.service")
    service.write_text(service.read_text().replace("ProtectClock=", "ProtectClok="))
    found = subprocess.run(["systemd-analyze", "verify", service], capture_output=True, text=True)
    assert "ProtectClok" in found.stderr


def test_the_cron_jobs_have_kubernetes_schema(tmp_path: Path) -> None:
    root = an_odd_project(tmp_path)
    files = kubernetes_jobs(
        read_project(root), PodOptions("registry.example.com:5000/dwhctl@sha256:0a", "odd", "odd-project")
    )
    write_files(files, tmp_path / "jobs")
    paths = sorted((tmp_path / "jobs").iterdir())
    assert [path.name for path in paths] == ["odd-load-orders.yaml", "odd-watch.yaml"]
    wrong = (
        write(tmp_path, {"wrong.yaml": paths[0].read_text().replace("fsGroup:", "fsgroup:")}) / "wrong.yaml"
    )
    assert [schema.stem for schema in SCHEMAS] == ["cronjob-1.27", "cronjob-1.37"]
    for schema in SCHEMAS:
        check = [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--schemafile",
            str(schema),
            *map(str, [*paths, wrong]),
        ]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert "fsgroup" in done.stdout
        assert not any(path.name in done.stdout for path in paths), done.stdout


def test_a_cron_job_holds_what_the_pod_needs(tmp_path: Path) -> None:
    root = an_odd_project(tmp_path)
    files = kubernetes_jobs(read_project(root), PodOptions("dwhctl:1", "odd", "odd-project"))
    job = yaml.safe_load(files.texts["odd-load-orders.yaml"])
    spec = job["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 0 13 * 5", "Europe/Moscow")
    assert (spec["concurrencyPolicy"], spec["jobTemplate"]["spec"]["backoffLimit"]) == ("Forbid", 0)
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert (pod["restartPolicy"], pod["securityContext"]["runAsNonRoot"]) == ("Never", True)
    [container] = pod["containers"]
    assert container["args"][:2] == ["load", "orders"]
    assert container["args"][-4:] == ["--scheduled", "--quiet", "--project", "/project"]
    assert [variable["name"] for variable in container["env"]] == ["TOKEN"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {
        "/project/state": "state",
        "/tmp": "tmp",
        "/project/config": "project",
        "/project/sql": "project",
        str(tmp_path / "secrets" / "token"): "secret",
    }
    items = {
        item["path"] for volume in pod["volumes"] for item in volume.get("configMap", {}).get("items", ())
    }
    assert items == {"config/dwhctl.toml", "config/loads/orders.toml", "sql/orders.sql", "sql/create.sql"}
    # The project's databases in files are beside its state folder.
    assert sum("mount it as well" in hint for hint in files.hints) == 1


def test_the_documentation_shows_what_is_made() -> None:
    root = Path("/srv/dwh")
    project = a_project(root, loads={"orders": a_load(schedule="0 */6 * * *")})
    project = dataclasses.replace(project, connections={"dwh": project.connections["dwh"]})
    units = systemd_units(project, UnitOptions(["/opt/dwhctl/bin/dwhctl"], user="etl"))
    jobs = kubernetes_jobs(project, PodOptions("registry.example.com/dwhctl:0.1.0"))
    shown = (REPOSITORY / "docs" / "deploy.md").read_text()
    for name, text in {**units.texts, **jobs.texts}.items():
        assert f"\n# {name}\n{text}```\n" in shown


def test_the_documented_command_gives_the_config_map_its_keys(tmp_path: Path) -> None:
    project = read_project(an_odd_project(tmp_path))
    write(project.root, {"sql/a__b/c.sql": "", "sql/.swap": ""})
    [command] = re.findall(
        r"^ +(find config sql .*)$", (REPOSITORY / "docs" / "deploy.md").read_text(), re.MULTILINE
    )
    done = subprocess.run(command, shell=True, cwd=project.root, capture_output=True, text=True, check=True)
    files = kubernetes_jobs(project, PodOptions("dwhctl:1", config_map="odd"))
    job = yaml.safe_load(next(iter(files.texts.values())))
    volumes = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    [items] = [volume["configMap"]["items"] for volume in volumes if "configMap" in volume]
    expected = {f"--from-file={item['key']}={item['path']}" for item in items}
    assert set(done.stdout.split()) == expected
    assert "--from-file=sql__a__b__c.sql=sql/a__b/c.sql" in expected


def test_the_image_runs_dwhctl_as_a_user_of_its_own() -> None:
    text = re.sub(r" *\\\n", "", (REPOSITORY / "Dockerfile").read_text())
    final = [
        line.split(maxsplit=1) for line in text.rpartition("\nFROM ")[2].splitlines()[1:] if line[:1] > "#"
    ]
    steps = dict(step for step in final if len(step) == 2)
    # Kubernetes' runAsNonRoot refuses a name; the CronJobs have the same number.
    assert steps["USER"] == "10001:10001"
    assert (
        "runAsUser: 10001" in (REPOSITORY / "dwhctl" / "deploy" / "templates" / "cronjob.jinja").read_text()
    )
    assert steps["VOLUME"] == f"{POD_PROJECT}/state"
    # Without a shell between, SIGTERM reaches dwhctl.
    assert steps["ENTRYPOINT"] == '["/opt/dwhctl/bin/dwhctl"]'


def test_without_a_config_map_the_image_holds_the_project(tmp_path: Path) -> None:
    files = kubernetes_jobs(read_project(an_odd_project(tmp_path)), PodOptions("dwhctl:1", "odd"))
    assert "configMap" not in files.texts["odd-watch.yaml"]


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x85", "\u2028", "\udcff"])
def test_a_control_character_in_a_path_is_refused(character: str) -> None:
    project = a_project(Path(f"/srv/dwh{character}User=root"), loads={"orders": a_load(schedule="@daily")})
    with pytest.raises(UsageError, match="cannot be in a unit or a CronJob"):
        systemd_units(project, UnitOptions(["/opt/dwhctl"], user="etl"))
    with pytest.raises(UsageError, match="cannot be in a unit or a CronJob"):
        kubernetes_jobs(project, PodOptions("dwhctl:1"))


def test_names_of_jobs_differ_and_fit_into_kubernetes() -> None:
    names = ["a_b", "a__b", "a_b_", "x" * 200, "x" * 201]
    loads = {name: a_load(name=name, schedule=f"{minute} 1 * * *") for minute, name in enumerate(names)}
    project = a_project(Path("/srv/Das DWH"), loads=loads)
    found = list(kubernetes_jobs(project, PodOptions("dwhctl:1")).texts)
    assert len(found) == len(names)
    assert all(re.fullmatch(r"dwhctl-das-dwh-[-a-z0-9]{1,37}\.yaml", name) for name in found)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project whose load has a schedule."""
    return small_project(tmp_path / "dwh", load=LOAD + 'schedule = "0 6 * * *"\n')


def test_output_leaves_others_files_alone_and_reports_old_ones(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show = ("crontab", "show", "--project", project, "--format", "systemd", "--output", tmp_path / "units")
    assert dwh(*show) == 0
    service = tmp_path / "units" / "dwhctl-dwh-load-orders.service"
    assert str(service) in capsys.readouterr().out
    assert service.stat().st_mode & 0o777 == 0o644
    load = project / "config" / "loads" / "orders.toml"
    load.rename(load.with_name("sales.toml"))
    assert dwh(*show) == 0
    captured = capsys.readouterr()
    assert f"{service} has no schedule any more" in captured.err
    assert "load-sales.timer" in captured.out
    foreign = tmp_path / "units" / "dwhctl-dwh-load-sales.timer"
    foreign.write_text("[Timer]\n")
    service.unlink()
    assert dwh(*show) == 2
    assert "is not of this project" in capsys.readouterr().err
    assert foreign.read_text() == "[Timer]\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "x"], "--image belongs to --format kubernetes"),
        (["--output", "x"], "--output belongs to --format systemd or kubernetes"),
        (["--format", "systemd", "--secret", "x"], "--secret belongs to --format kubernetes"),
        (["--format", "systemd", "--user", "a b"], "--user a b is not the name of a user"),
        (["--format", "systemd", "--env-file", "x"], "--env-file x is not an absolute path"),
        (["--format", "systemd", "--name", "../x"], "--name ../x is not a name"),
        (["--format", "kubernetes", "--image", "x\ny: z"], "is not an image"),
        (["--format", "kubernetes", "--config-map", "X"], "--config-map X is not a name of Kubernetes"),
    ],
)
def test_wrong_options_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert dwh("crontab", "show", "--project", project, *options) == 2
    assert message in capsys.readouterr().err


def test_stdout_shows_the_files_one_after_the_other(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh("crontab", "show", "--project", project, "--format", "systemd") == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("# dwhctl-dwh")] == [
        "# dwhctl-dwh-load-orders.service",
        "# dwhctl-dwh-load-orders.timer",
    ]
    assert dwh("crontab", "show", "--project", project, "--format", "kubernetes") == 0
    assert [job["kind"] for job in yaml.safe_load_all(capsys.readouterr().out)] == ["CronJob"]


def test_a_project_without_schedules_has_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("systemd", "kubernetes"):
        assert dwh("crontab", "show", "--project", small_project(tmp_path), "--format", form) == 0
        captured = capsys.readouterr()
        assert (captured.out, "add schedule" in captured.err) == ("", True)
    assert write_files(Files("# mark", {}), tmp_path / "units") == []
