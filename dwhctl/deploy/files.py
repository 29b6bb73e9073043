"""The schedules of a project for other schedulers than cron: units of systemd, CronJobs of Kubernetes."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct

from dwhctl.core.errors import UsageError
from dwhctl.core.files import write_whole
from dwhctl.core.words import SCHEDULED, escaped
from dwhctl.cron import LINE_BREAKING, CronJob, scheduled_jobs
from dwhctl.deploy.times import calendar_times, kubernetes_schedule, starting_deadline
from dwhctl.project.connections import EmbeddedConnection
from dwhctl.project.model import Project

_TEMPLATES = Path(__file__).with_name("templates")
#: For every user: systemd and kubectl read them, and no secret is in them.
_MODE = 0o644
#: Kubernetes' limit for a CronJob, whose jobs have names of their own: 63 - 11.
_LONGEST_NAME = 52
_LONGEST_TITLE = 120
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_IMAGE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:/@]*", re.ASCII)
#: systemd takes the path as it is written, and as a pattern.
_ENV_FILE = re.compile(r"/[-A-Za-z0-9_./@+]+", re.ASCII)
#: Words of systemd that need no quotes.
_BARE = re.compile(r"[-A-Za-z0-9_./:=,@+%$]+", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_USER = re.compile(r"[A-Za-z_][-A-Za-z0-9_]{0,30}|[0-9]+", re.ASCII)
#: Where the image's DWHCTL_PROJECT is.
POD_PROJECT = Path("/project")
_POD_FOLDERS = ("config", "sql")
_PRIVATE = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - what PrivateTmp hides


class UnitOptions(Struct, frozen=True):
    """What the units of systemd need to know. `user` None is the owner of the project's folder."""

    program: Sequence[str]
    name: str | None = None
    user: str | None = None
    env_file: Path = Path("/etc/dwhctl.env")


class PodOptions(Struct, frozen=True):
    """What the CronJobs need to know. Without `config_map` the image holds the project."""

    image: str
    name: str | None = None
    config_map: str | None = None
    state_claim: str | None = None
    secret: str | None = None


class Files(Struct, frozen=True):
    """The files by name, each with the first line `mark`, and what their reader should know."""

    mark: str
    texts: Mapping[str, str]
    hints: Sequence[str] = ()


def systemd_units(project: Project, options: UnitOptions) -> Files:
    """Return a service and a timer for each entry of the crontab. Raise UsageError."""
    jobs = scheduled_jobs(project)
    mark = (
        f"# Made by `dwhctl crontab show --format systemd` for {_plain(project.root)}: edits here are lost."
    )
    writes = [*_writable(project)]
    hidden = [path for path in (project.root, *writes) if any(path.is_relative_to(tmp) for tmp in _PRIVATE)]
    values = {
        "mark": mark,
        "user": _checked("--user", options.user or _owner(project.root), _USER, "the name of a user"),
        "env_file": _checked(
            "--env-file", str(options.env_file), _ENV_FILE, "an absolute path without blanks"
        ),
        "mounts": list(dict.fromkeys((project.root, *writes))),
        "writes": [*writes, *(_PRIVATE if hidden else ())],
        "private_tmp": not hidden,
        "zone": project.timezone,
    }
    environment = _environment()
    texts = {}
    for name, job in _named(jobs, _instance(project, options.name)).items():
        of_job = {
            "title": _title(job),
            "schedule": job.schedule,
            "calendar": [f"{time} {project.timezone}" for time in calendar_times(job.schedule)],
            "command": _exec_words(options.program, _arguments(job, project.root)),
        }
        for kind in ("service", "timer"):
            template = environment.get_template(f"{kind}.jinja")
            texts[f"{name}.{kind}"] = template.render(values | of_job)
    hints = []
    if jobs and not project.state_dir.exists():
        hints.append(
            f"make the folder {project.state_dir} first: the services write below existing folders only"
        )
    return Files(mark, texts, hints)


def kubernetes_jobs(project: Project, options: PodOptions) -> Files:
    """Return a CronJob for each entry of the crontab. Raise UsageError."""
    jobs = scheduled_jobs(project)
    mark = f"# Made by `dwhctl crontab show --format kubernetes` for {_plain(project.root)}: edits here are lost."
    instance = _instance(project, options.name)
    files = _project_files(project.root) if options.config_map else {}
    secret_files, hints = _secret_files(project)
    if files and any(secret.is_literal for secret in project.secrets()):
        hints.append(
            "a secret is written in config/, and a ConfigMap shows it: read it from the environment or a file"
        )
    hints += [
        f"{path} is written, and is not on the volume of the state folder {project.state_dir}: mount it as well"
        for path in _writable(project)
        if not path.is_relative_to(project.state_dir)
    ]
    label = partial(_checked, form=_LABEL, what="a name of Kubernetes: a-z, 0-9 and -")
    values = {
        "mark": mark,
        "instance": instance,
        "zone": project.timezone,
        "image": _checked("--image", options.image, _IMAGE, "an image"),
        "variables": _variables(project),
        "secret": label("--secret", options.secret or instance),
        "state": _in_pod(project, project.state_dir),
        "project": POD_PROJECT,
        "folders": [
            folder for folder in _POD_FOLDERS if any(path.startswith(f"{folder}/") for path in files.values())
        ],
        "project_files": files,
        "secret_files": secret_files,
        "claim": label("--state-claim", options.state_claim or f"{instance}-state"),
        "config_map": label("--config-map", options.config_map) if options.config_map else None,
    }
    template = _environment().get_template("cronjob.jinja")
    texts = {}
    for name, job in _named(jobs, instance).items():
        of_job = {
            "name": name,
            "schedule": kubernetes_schedule(job.schedule),
            "starting_deadline": starting_deadline(job.schedule),
            "arguments": _arguments(job, POD_PROJECT),
        }
        texts[f"{name}.yaml"] = template.render(values | of_job)
    return Files(mark, texts, hints)


def write_files(files: Files, folder: Path) -> list[Path]:
    """Write the files into a folder, and return those of earlier times whose schedule is gone. Raise UsageError.

    A file that is not of this project is never replaced.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ours = {path for path in folder.iterdir() if path.is_file() and _first_line(path) == files.mark}
        for name in files.texts:
            path = folder / name
            if path not in ours and (path.exists() or path.is_symlink()):
                raise UsageError(
                    f"{path} is not of this project, and is left alone; choose other names with --name"
                )
        for name, text in files.texts.items():
            write_whole(folder / name, text, _MODE)
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be written: {error.strerror}") from error
    return sorted(ours - {folder / name for name in files.texts})


def _arguments(job: CronJob, root: Path) -> list[str]:
    return [*job.arguments, SCHEDULED, "--quiet", "--project", str(root)]


def _title(job: CronJob) -> str:
    title = " ".join(("dwhctl", job.command, ", ".join(job.names))).strip()
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 3]}..."


def _named(jobs: Sequence[CronJob], instance: str) -> dict[str, CronJob]:
    """Return the jobs by name: of the project and the job's first load or report."""
    return {_short("-".join((instance, job.command, *job.names[:1]))): job for job in jobs}


def _instance(project: Project, name: str | None) -> str:
    if name is not None:
        return _checked("--name", name, _LABEL, "a name: a-z, 0-9 and -")
    return _short(f"dwhctl-{project.root.name}")


def _short(name: str) -> str:
    """Return a name of a-z, 0-9 and -; one that is too long, or might equal another's, ends with a part of its hash."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if len(plain) <= _LONGEST_NAME and plain == name.replace("_", "-"):
        return plain
    part = hashlib.sha256(os.fsencode(name)).hexdigest()[:6]
    return f"{plain[: _LONGEST_NAME - 7].rstrip('-')}-{part}"


def _checked(option: str, value: str, form: re.Pattern[str], what: str) -> str:
    if form.fullmatch(value) is None:
        raise UsageError(f"{option} {escaped(value)} is not {what}")
    return value


def _owner(root: Path) -> str:
    owner = root.stat().st_uid
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)


def _writable(project: Project) -> Iterator[Path]:
    """Yield the folders that a run writes below: its state, databases in files, the page."""
    found = [project.state_dir]
    for connection in project.connections.values():
        if isinstance(connection, EmbeddedConnection):
            found.append(connection.path if connection.path.is_dir() else connection.path.parent)
    if project.page.path is not None:
        found.append(project.page.path.parent)
    shortest = sorted(set(found), key=lambda path: len(path.parts))
    for place, path in enumerate(shortest):
        if not any(path.is_relative_to(other) for other in shortest[:place]):
            yield path


def _in_pod(project: Project, path: Path) -> Path:
    """Return a path as it is in the pod: the project is at POD_PROJECT there, all else where it is here."""
    return POD_PROJECT / path.relative_to(project.root) if path.is_relative_to(project.root) else path


def _project_files(root: Path) -> dict[str, str]:
    """Return the files of the project by their keys in a ConfigMap: `config__loads__orders.toml`."""
    found: dict[str, str] = {}
    for folder in _POD_FOLDERS:
        for path in sorted((root / folder).rglob("[!.]*")):
            name = path.relative_to(root).as_posix()
            if not path.is_file() or "/." in name:
                continue
            key = name.replace("/", "__")
            if _KEY.fullmatch(key) is None or key in found:
                raise UsageError(
                    f"{escaped(name)} cannot be in a ConfigMap; rename it: letters, digits, '-', '_' and '.', and no"
                    " two files whose names differ in '/' and '__' only"
                )
            found[key] = name
    return found


def _secret_files(project: Project) -> tuple[dict[str, Path], list[str]]:
    """Return the files of secrets by their keys in a Secret, and a hint for each that cannot be mounted."""
    found: dict[str, Path] = {}
    hints = []
    for path in dict.fromkeys(secret.path for secret in project.secrets() if secret.path is not None):
        if _KEY.fullmatch(path.name) is None or path.name in found or path.is_relative_to(project.root):
            hints.append(
                f"mount the secret {path} yourself: only files outside of the project whose names differ are mounted"
            )
        else:
            found[path.name] = path
    return found, hints


def _variables(project: Project) -> list[str]:
    """Return the environment variables that secrets are read from."""
    found = {secret.variable for secret in project.secrets() if secret.variable is not None}
    return sorted(name for name in found if _VARIABLE.fullmatch(name))


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(10_000).decode(errors="replace").removesuffix("\n")


def _environment() -> Environment:
    environment = Environment(
        autoescape=False,  # noqa: S701 - no HTML; every value passes one of these filters
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": lambda value: _plain(value).replace("%", "%%"),
        "word": _word,
        "optional_word": lambda value: _word(f"-{value}"),
        "yaml": lambda value: json.dumps(_plain(value), ensure_ascii=False),
    }
    return environment


def _plain(value: object) -> str:
    """Return the text of a value. Raise UsageError for one that a line of a unit or of YAML cannot hold."""
    text = str(value)
    if any(unicodedata.category(character) in (*LINE_BREAKING, "Cs") for character in text):
        raise UsageError(
            f"a control character, or one that is not UTF-8, cannot be in a unit or a CronJob: {escaped(text)}; move"
            " the project, its files or dwhctl to a path without one"
        )
    return text


def _word(value: object) -> str:
    """Return a word of systemd, where a % begins a specifier."""
    text = _plain(value).replace("%", "%%")
    if _BARE.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _exec_words(program: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return the words of ExecStart=, where a $ begins a variable. Raise UsageError for a path that cannot begin it."""
    if set(program[0]) & set("$\\\"'"):
        raise UsageError(
            f"systemd starts no program whose path has a quote, a backslash or a $: {escaped(program[0])}; install"
            " dwhctl elsewhere"
        )
    return [_word(program[0]), *(_word(word.replace("$", "$$")) for word in (*program[1:], *arguments))]
