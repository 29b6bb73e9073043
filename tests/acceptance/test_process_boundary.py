"""What a process of dwhctl imports, what it leaves open to other users of the machine, and what it tells them."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core import files as private
from dwhctl.core.errors import WorkersError
from dwhctl.load.worker_server import WorkerServer
from dwhctl.load.workers import Worker, WorkerPool
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.slots import WORKERS, Slots
from tests.cli_support import dwh
from tests.support.faulty import REPOSITORY, Faults, wait_for_end
from tests.support.projects import DAY, Sandbox
from tests.support.users import OTHER, open_folder, other_user
from tests.unit.dispatch_kit import ready_server

LOAD = ("load", "--date", str(DAY))
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can enter."""
    with open_folder() as folder:
        yield folder


def one_shard(root: Path) -> Sandbox:
    return Sandbox(root, {"server_0": ["abakan"]}, max_workers=1, load_keys="retries = 0").write().fill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# The current folder


def programs() -> list[list[str]]:
    script = Path(sys.executable).with_name("dwhctl")
    return [[sys.executable, "-m", "dwhctl"], *([[str(script)]] if script.exists() else [])]


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    sandbox, here = one_shard(tmp_path / "project"), tmp_path / "shared"
    here.mkdir()
    names = "__future__ click duckdb json multiprocessing pathlib pickle psycopg2 pyarrow pydantic queue"
    for name in [*names.split(), "pymssql", "resource", "sitecustomize", "sqlite3", "subprocess", "typing"]:
        (here / f"{name}.py").write_text(f"open({str(here / 'marker')!r}, 'a').write('{name} ')")
    for program in programs():
        done = subprocess.run(
            [*program, *LOAD, "--project", str(sandbox.root)],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not (here / "marker").exists(), (here / "marker").read_text()
    assert sandbox.target_rows() == sandbox.source_rows()


# Modes


def test_a_load_closes_what_it_makes_and_what_an_earlier_version_left_open(tmp_path: Path) -> None:
    sandbox = one_shard(tmp_path / "project")
    state = sandbox.root / "state"
    left_open = [state, state / "logs", state / "locks", state / "staging", state / "alerts"]
    for folder in left_open:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    (state / "logs" / "cron.log").touch()
    (state / "logs" / "cron.log").chmod(0o644)
    with sandbox.start(*LOAD, umask=0o022) as process:
        _, err = wait_for_end(process)
    assert process.returncode == 0, err
    made = [state, *state.rglob("*")]
    assert {state / "sessions.sqlite", state / "warehouse.duckdb", *left_open} < set(made)
    assert [(path, oct(mode(path))) for path in made if mode(path) & 0o077] == []


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The umask of this process is that of a command that begins; afterwards it is as before."""
    before = os.umask(0o022)
    for name in ("_umask", "_is_in_force"):
        monkeypatch.setattr(private, name, getattr(private, name))
    private.use_private_umask()
    yield
    os.umask(before)


@pytest.mark.usefixtures("new_process")
def test_with_group_access_the_group_may_what_the_owner_may(tmp_path: Path) -> None:
    sandbox = one_shard(tmp_path / "project")
    main = sandbox.root / "config" / "dwhctl.toml"
    main.write_text(main.read_text().replace("[project]", "[project]\ngroup_access = true", 1))
    assert dwh(*LOAD, "--project", sandbox.root) == 0
    found = {mode(path) for path in (sandbox.root / "state").rglob("*")}
    assert found == {0o770, 0o660}


@pytest.mark.usefixtures("new_process")
def test_two_users_of_one_group_load_in_turn(place: Path) -> None:
    os.umask(0o022)  # as the project's files are made
    sandbox = one_shard(place / "project")
    state = sandbox.root / "state"
    state.mkdir()
    private.set_group_access(True)
    with other_user(OTHER):
        pass
    os.chown(state, 0, OTHER)
    state.chmod(0o2770)
    assert sandbox.load().loaded == 1
    with other_user():
        report = sandbox.load()
        assert (report.loaded, report.stopped) == (1, None)
    sandbox.in_shard("abakan", "DELETE FROM orders WHERE id = 3")
    assert sandbox.load().loaded == 1
    assert sandbox.target_rows() == sandbox.source_rows()


def test_a_file_of_another_user_and_what_a_link_leads_to_are_left_as_they_are(place: Path) -> None:
    theirs, own, link = place / "theirs", place / "own", place / "link"
    for path in (theirs, own):
        path.touch()
        path.chmod(0o644)
    link.symlink_to(own)
    private.tighten(link)
    assert mode(own) == 0o644
    private.tighten(own)
    assert mode(own) == 0o600
    private.tighten(place / "nothing")
    if os.geteuid() == 0:
        os.chown(theirs, OTHER, OTHER)
        private.tighten(theirs)
        assert mode(theirs) == 0o644


def test_the_state_folder_is_not_closed_where_it_is_the_project_or_a_shared_folder(tmp_path: Path) -> None:
    shared, project = tmp_path / "tmp", tmp_path / "project"
    shared.mkdir()
    shared.chmod(0o1777)
    (project / "config").mkdir(parents=True)
    project.chmod(0o755)
    for path in (shared, project):
        before = mode(path)
        StateDir(path).make()
        assert mode(path) == before
        assert mode(path / "staging") == 0o700


def test_cron_appends_to_a_log_that_others_cannot_read(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    log = state.logs / "cron.log"
    state.make_log(log)
    assert (mode(log), mode(state.logs), mode(state.path)) == (0o600, 0o700, 0o700)


def test_config_check_lists_what_others_can_read_or_write_secrets_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = one_shard(place / "project")
    root, secret = sandbox.root, place / "secret"
    secret.write_text("hunter2hunter2")
    main = root / "config" / "dwhctl.toml"
    main.write_text(
        f'{main.read_text()}[connections.dwh]\ntype = "vertica"\nhost = "dwh"\ndatabase = "d"\nuser = "u"\n'
        f'password = {{ file = "{secret}" }}\n[variables]\nlogin = {{ file = "{secret}" }}\n'
    )
    assert sandbox.load().failed == 0
    for path in (root, *root.rglob("*"), secret):
        path.chmod(0o700 if path.is_dir() else 0o600)
    place.chmod(0o755)
    check = ("config", "check", "--project", root)
    assert dwh(*check) == 0
    assert "chmod" not in capsys.readouterr().err

    for path in (root, root / "state", root / "config"):
        path.chmod(0o755)
    sessions = root / "state" / "sessions.sqlite"
    sessions.chmod(0o644)
    secret.chmod(0o644)
    (root / ".env").touch(0o644)
    (root / ".env").chmod(0o644)
    main.chmod(0o666)
    assert dwh(*check) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "chmod" in line]
    everybody = "every user of this machine can"
    assert lines == [
        f"Warning: config/dwhctl.toml: connections.dwh.password: {everybody} read {secret}: chmod go-rwx {secret}",
        f"Warning: config/dwhctl.toml: variables.login: {everybody} read {secret}: chmod go-rwx {secret}",
        f"Warning: secrets for the environment: {everybody} read {root}/.env: chmod go-rwx {root}/.env",
        f"Warning: the sessions: {everybody} read {sessions}: chmod go-rwx {sessions}",
        f"Warning: the project's files: {everybody} write {main}: chmod -R go-w {root}/config {root}/sql",
    ]


def test_config_check_names_the_folder_in_which_a_secret_can_be_replaced(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = one_shard(place / "project")
    root, secret = sandbox.root, place / "secrets" / "dwh"
    secret.parent.mkdir()
    secret.write_text("hunter2hunter2")
    secret.chmod(0o600)
    secret.parent.chmod(0o777)
    main = root / "config" / "dwhctl.toml"
    main.write_text(f'{main.read_text()}[variables]\nlogin = {{ file = "{secret}" }}\n')
    assert dwh("config", "check", "--project", root) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "chmod" in line]
    assert line.endswith(f"can write the folder {secret.parent}, and so replace {secret}:"
                         f" chmod go-w {secret.parent}")  # fmt: skip
    secret.parent.chmod(0o1777)
    assert dwh("config", "check", "--project", root) == 0
    assert "chmod" not in capsys.readouterr().err


def test_the_lab_a_new_project_and_the_demo_are_not_warned_of(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ETL_PASSWORD", "MSSQL_SA_PASSWORD", "DWH_PASSWORD", "TG_TOKEN"):
        monkeypatch.setenv(name, "a-long-password")
    assert dwh("init", place / "new") == 0
    lab = place / "lab"
    for name in ("config", "sql"):
        shutil.copytree(REPOSITORY / name, lab / name)
    for project in (place / "new", lab):
        for path in project.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # as git makes them under the usual umask
        dwh("config", "check", "--project", project)
        err = capsys.readouterr().err
        assert "chmod" not in err
        assert "belongs to" not in err


# Another user


def test_a_project_of_another_user_is_not_found_upwards_but_by_its_name(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = one_shard(place / "project")
    root = sandbox.root
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.chdir(root / "sql")
    check = ("config", "check")
    assert dwh(*check) == 0
    with other_user():
        assert dwh(*check) == 0, "root's project is trusted"
    for path in (root / "config" / "dwhctl.toml", root / "config", root):
        os.chown(path, OTHER, OTHER)
        assert dwh(*check) == 2
        assert (
            f"the project {root}, found from here upwards, is not yours: {path} belongs to user {OTHER}"
            in (err := capsys.readouterr().err)
        )
        assert f"dwhctl --project {root}" in err
        os.chown(path, 0, 0)
    for path in (root / "config" / "dwhctl.toml", root / "config", root):
        os.chown(path, OTHER, OTHER)
    with other_user():
        assert dwh(*check) == 0
    with other_user(OTHER + 1):
        assert dwh(*check) == 2
    assert dwh(*check, "--project", root) == 0
    assert "belongs to user 54321, who decides what it runs as root" in capsys.readouterr().err
    monkeypatch.setenv("DWHCTL_PROJECT", str(root))
    assert dwh(*check) == 0
    monkeypatch.delenv("DWHCTL_PROJECT")
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    assert dwh(*check) == 0


def test_a_link_of_another_user_leads_to_no_project(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = one_shard(place / "project").root
    trap = place / "trap"
    trap.mkdir()
    for name in ("config", "sql", "state"):
        (trap / name).symlink_to(root / name)
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    monkeypatch.chdir(trap)
    assert dwh("config", "check") == 0
    if os.geteuid():
        pytest.skip("only root can give a link away")
    os.chown(trap / "config", OTHER, OTHER, follow_symlinks=False)
    assert dwh("config", "check") == 2


@pytest.mark.parametrize(
    ("closed", "arguments"),
    [
        ("state", LOAD),
        ("state", ("report", "failures")),
        ("state", ("report", "log", "last")),
        ("state", ("query", "warehouse", "SELECT 1")),
        ("state", ("watch",)),
        ("state/locks/work/orders.2020-07-14.lock", LOAD),
        ("state/slots", LOAD),
        ("state/sessions.sqlite", LOAD),
        ("state/sessions.sqlite", ("report", "failures")),
    ],
)
def test_a_second_user_of_a_state_folder_is_told_whose_it_is(
    place: Path, capsys: pytest.CaptureFixture[str], closed: str, arguments: tuple[str, ...]
) -> None:
    sandbox = one_shard(place / "project")
    assert sandbox.load().failed == 0
    for path in sandbox.root.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    path = sandbox.root / closed
    path.chmod(0o700 if path.is_dir() else 0o600)
    with other_user():
        code = dwh(*arguments, "--project", sandbox.root)
    err = capsys.readouterr().err
    assert code == 1
    assert f"{path} belongs to root (mode {mode(path):04o}), and this is user {OTHER}: run dwhctl as" in err
    assert "[project] group_access = true" in err
    assert "internal error" not in err
    assert "locks on files do not work" not in err


def test_the_project_above_a_folder_that_cannot_be_read_is_not_taken(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outer, inner = one_shard(place / "outer").root, one_shard(place / "outer" / "inner").root
    monkeypatch.chdir(inner)
    inner.chmod(0o700)
    with other_user():
        assert dwh("report", "gaps") == 2
    shown = capsys.readouterr().err
    assert f"{inner} cannot be read ({inner} belongs to root (mode 0700)" in shown
    assert f"choose one: --project {outer}" in shown


def test_a_project_that_cannot_be_read_is_said_in_words(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = one_shard(place / "project").root
    root.chmod(0o700)
    with other_user():
        assert dwh("config", "check", "--project", root) == 2
    assert (
        f"cannot be read (Permission denied): {root} belongs to root (mode 0700)" in capsys.readouterr().err
    )


# /dev/shm


@pytest.mark.parametrize(
    "mount",
    [
        "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/full",
        "mount -t tmpfs -o ro tmpfs /dev/shm",
    ],
)
def test_a_full_or_read_only_shared_memory_does_not_matter(tmp_path: Path, mount: str) -> None:
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace cannot be made here")
    sandbox = one_shard(tmp_path / "project")
    script = f'{{ {mount}; }} || exit 99; exec "$0" "$@"'
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        *programs()[0],
        *LOAD,
        "--project",
        str(sandbox.root),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 99:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert sandbox.target_rows() == sandbox.source_rows()


class _Scarce(Worker):
    """A worker of which there may be one."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        if self.made > 1:
            raise WorkersError("worker processes cannot be started: No space left on device")

    def submit(self, function: Any, task: Any) -> Future[object]:
        raise AssertionError

    def kill(self) -> None:
        """Nothing runs."""


def test_a_run_goes_on_with_the_workers_that_it_could_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_Scarce, "made", 0)
    slots = Slots(tmp_path, {WORKERS: 3})
    pool = WorkerPool(3, _Scarce, slots)
    assert pool.take() is not None
    assert pool.take() is None
    assert "No space left on device; the run goes on with 1 workers" in caplog.text
    assert not pool.may_grow
    assert slots.try_take(WORKERS) is not None, "the slot was given back"
    with pytest.raises(WorkersError, match="cannot be started"):
        WorkerPool(3, _Scarce, slots).take()


def test_a_run_that_was_killed_with_its_workers_leaves_nothing_in_shared_memory(tmp_path: Path) -> None:
    sandbox = one_shard(tmp_path / "project")
    faults = Faults(tmp_path / "log").at("stage.write", "pause")
    before = set(SHARED_MEMORY.iterdir())
    with sandbox.start(*LOAD, env=faults.env()) as process:
        faults.wait_for("stage.write")
        mine = [path for path in set(SHARED_MEMORY.iterdir()) - before if str(process.pid) in path.name]
        os.killpg(process.pid, signal.SIGKILL)
        wait_for_end(process)
    assert mine == []


def test_a_worker_that_cannot_be_made_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ready_server()

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("socket.socketpair", refuse)
    said = r"cannot be started: Too many open files; raise the limit .*--jobs"
    with pytest.raises(WorkersError, match=said):
        server.fork()
    with pytest.raises(WorkersError, match=said):
        WorkerServer().start()


# Files that are written where others may write


def test_the_metrics_follow_no_link_and_can_be_read_by_their_collector(place: Path) -> None:
    sandbox = one_shard(place / "project")
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    victim, output = place / "victim", shared / "dwhctl.prom"
    victim.write_text("precious")
    output.symlink_to(victim)
    # What the temporary file was called.
    (shared / f".dwhctl.prom.{os.getpid()}.tmp").symlink_to(victim)
    assert dwh("report", "metrics", "--project", sandbox.root, "--output", output) == 0
    assert victim.read_text() == "precious"
    assert not output.is_symlink()
    assert (mode(output), "dwhctl_last_success" in output.read_text()) == (0o644, True)
    assert sorted(path.name for path in shared.iterdir()) == [
        f".dwhctl.prom.{os.getpid()}.tmp",
        "dwhctl.prom",
    ]
