"""`dwhctl docs`: the documentation travels, and what points to it finds it."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.shell_completion import ShellComplete

from dwhctl.cli import docs
from dwhctl.cli.docs import pages
from dwhctl.cli.main import dwhctl
from dwhctl.core.errors import ConfigError
from dwhctl.project.read import read_project
from tests.cli_support import dwh
from tests.support.terminal import on_a_terminal
from tests.unit.projects import write, write_project

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "dwhctl"
#: A command at the start of a line of code, behind a prompt, a schedule or another command; or in a sentence.
IN_CODE = re.compile(r"^[\s\d*/$]*(?:sudo |cd \S+ && )?(?:\S*/bin/)?(dwhctl .*)")
IN_TEXT = re.compile(r"`(dwhctl [^`]+)`")
TABLES = {
    *("project", "sessions", "connections", "shards", "variables", "alerts", "pings", "page", "executor"),
    *("load_defaults", "report_defaults"),
}
PROJECT = '[project]\ntimezone = "UTC"\n'
#: What is not on the page itself: other tables, files and names of the project.
ELSEWHERE = re.compile(r"is missing|no (?:connection|shard group|report) |the table is missing")
MENTION = re.compile(r"dwhctl docs ([a-z][\w-]*)(#[\w-]+)?")


def anchors_of(page: str) -> set[str]:
    lines = pages()[page].read_text(encoding="utf-8").splitlines()
    return {anchor for _, _, anchor in docs.headings(lines)}


def test_every_page_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("docs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Show one with: dwhctl docs PAGE"
    listed = [line.split(maxsplit=1) for line in lines[1:-2]]
    files = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert {name for name, _ in listed} == files | {"readme"}
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", ["alerts", "docs/alerts.md", "ALERTS"])
def test_a_page_in_a_pipe_is_its_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("docs", name) == 0
    assert capsys.readouterr().out == (REPOSITORY / "docs/alerts.md").read_text(encoding="utf-8")


def test_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("docs", "project#a-load") == 0
    text = capsys.readouterr().out
    assert text.startswith("## A load\n")
    assert "# config/loads/orders.toml" in text  # a comment in code is no heading
    assert "## Keys that many share" not in text
    assert dwh("docs", "security#attacks-and-results") == 0
    assert "### A hostile shard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("alert", "there is no page 'alert': did you mean 'alerts'? `dwhctl docs` lists all"),
        ("alerts#when-nothing-hapens", "page alerts has no section 'when-nothing-hapens'; did you mean"),
        ("\x1b[31mred\x07", r"there is no page '\x1b[31mred\x07': "),
        ("../setup", "there is no page '../setup': "),
        ("zzz", " in all); `dwhctl docs` lists all"),
    ],
)
def test_what_is_not_there(asked: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("docs", asked) == 2
    shown = capsys.readouterr()
    assert answer in shown.err
    assert shown.out == ""


def test_the_shell_completes_pages() -> None:
    completed = ShellComplete(dwhctl, {}, "dwhctl", "_DWHCTL_COMPLETE").get_completions(["docs"], "re")
    assert [item.value for item in completed] == ["readme", "reference", "refresh-reports", "reports"]


def test_a_terminal_shows_it_rendered_and_long_pages_in_a_pager(tmp_path: Path) -> None:
    code, shown = on_a_terminal("docs", "query", columns=80, lines=400, folder=tmp_path)
    assert code == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "\x1b[1m" in shown
    assert "**" not in plain
    assert "`" not in plain
    assert max(map(len, plain.splitlines())) <= 80
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {tmp_path / 'paged'}\n")
    pager.chmod(0o755)
    code, shown = on_a_terminal(
        "docs", "logs", columns=80, lines=20, folder=tmp_path, env={"PAGER": str(pager)}
    )
    assert (code, shown) == (0, "")
    assert "Logs and metrics" in (tmp_path / "paged").read_text()
    code, shown = on_a_terminal("docs", "logs", columns=80, lines=20, folder=tmp_path, env={"TERM": "dumb"})
    assert (code, shown) == (0, (REPOSITORY / "docs/logs.md").read_text())


def test_what_messages_templates_and_pages_point_to_exists() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".toml", ".sql", ".jinja", ".md"}]
    files += list(pages().values())
    mentions = [found for path in files for found in MENTION.findall(path.read_text(encoding="utf-8"))]
    assert len(mentions) > 5
    for page, section in mentions:
        assert page in pages(), page
        assert not section or section[1:] in anchors_of(page), (page, section)


@pytest.mark.parametrize("page", pages())
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = pages()[page].read_text(encoding="utf-8")
    links = re.findall(r"\]\((?:docs/)?([\w-]*)(?:\.md)?(#[\w-]+)?\)", text)
    for target, section in links:
        if (target or section) and (target or page) in pages():
            assert not section or section[1:] in anchors_of(target or page), (page, target, section)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (pages()[page].parent / target).exists(), (page, target)


def commands_of(text: str) -> Iterator[str]:
    is_code = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif is_code or line.startswith("    "):
            yield from IN_CODE.findall(line)
        else:
            yield from IN_TEXT.findall(line)


def mistake(line: str) -> str | None:
    """Say what the command line would refuse: a command or an option that does not exist."""
    words = shlex.split(line, comments=True)[1:]
    ends = (place for place, word in enumerate(words) if re.match(r"(?:2?>|[|&<;])", word))
    words = words[: next(ends, len(words))]
    command: click.Command = dwhctl
    context = click.Context(command)
    while True:
        if {"[OPTIONS]", "..."} & set(words):
            return None
        try:
            _, rest, _ = command.make_parser(context).parse_args(list(words))
        except click.BadOptionUsage:
            return None  # `dwhctl page --serve`, in a sentence
        except click.UsageError as error:
            return error.format_message()
        if not isinstance(command, click.Group) or not rest:
            return None
        found = command.get_command(context, rest[0])
        if found is None:
            return f"no command {rest[0]}"
        command, words, context = found, rest[1:], click.Context(found, parent=context)


@pytest.mark.parametrize("page", [name for name in pages() if name != "reference"])
def test_every_command_of_a_page_has_the_options_that_it_is_given(page: str) -> None:
    commands = list(commands_of(pages()[page].read_text(encoding="utf-8")))
    assert {line: wrong for line in commands if (wrong := mistake(line))} == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("dwhctl laod --date today", "no command laod"),
        ("dwhctl report gap", "no command gap"),
        ("dwhctl load --dat today | cat", "No such option '--dat'."),
        ("dwhctl load --date today > --dat", None),
    ],
)
def test_a_mistake_on_a_page_would_be_found(line: str, wrong: str | None) -> None:
    assert (
        list(commands_of(f"In a sentence `{line}`.\n```sh\n$ {line}\n5 0 * * *  {line}\n```\n")) == [line] * 3
    )
    found = mistake(line)
    assert found == wrong if wrong is None else found and found.startswith(wrong)


def blocks_of(page: str) -> list[str]:
    text = pages()[page].read_text(encoding="utf-8")
    return re.findall(r"^ *```toml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [name for name in pages() if blocks_of(name)])
def test_the_configuration_of_a_page_is_accepted(page: str, tmp_path: Path) -> None:
    for number, text in enumerate(blocks_of(page)):
        if text.startswith("# pyproject.toml") or 'type = "csv"' in text or text.startswith("paginator"):
            continue
        keys, named = set(tomllib.loads(text)), re.match(r"# (config/\S+?\.toml)", text)
        in_main = "config/dwhctl.toml" if keys <= TABLES else "config/loads/orders.toml"
        file = named[1] if named else in_main
        root = write_project(tmp_path / str(number))
        write(root, file, text if file != "config/dwhctl.toml" or "project" in keys else PROJECT + text)
        try:
            read_project(root)
        except ConfigError as error:
            wrong = [line for line in str(error).splitlines() if not ELSEWHERE.search(line)]
            assert not wrong, (text, wrong)


def test_no_message_points_to_a_file_that_is_not_installed() -> None:
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert not re.search(r"docs/[\w-]+\.md", node.value), (path, node.value)
    for path in (PACKAGE / "cli/new_project/templates").rglob("*.*"):
        assert path.suffix == ".pyc" or not re.search(r"docs/[\w-]+\.md", path.read_text(encoding="utf-8")), (
            path
        )


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "docs/pictures").glob("*.svg")), ids=lambda path: path.stem
)
def test_a_picture_fetches_nothing(path: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\s\"'<>)]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@font-face|@import|url\((?!#)|href=\"(?!#)|<script|<image", text)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units_of_the_page(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```ini\n# (\S+)\n(.*?)^```$", pages()["deploy"].read_text(), re.MULTILINE | re.DOTALL
    )
    assert [name for name, _ in blocks] == [f"dwhctl-dwh-load-orders.{kind}" for kind in ("service", "timer")]
    for name, text in blocks:
        # systemd-analyze looks for the command, which is not installed there.
        (tmp_path / name).write_text(text.replace("/opt/dwhctl/bin/dwhctl", sys.executable))
    found = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / name for name, _ in blocks)],
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_cron_job_of_the_page_runs_a_command_that_exists() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```$", pages()["deploy"].read_text(), re.MULTILINE | re.DOTALL)
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    command, *options = container["args"]
    found = dwhctl.get_command(click.Context(dwhctl), command)
    assert found
    known = {name for option in found.params for name in option.opts}
    assert {option for option in options if option.startswith("--")} <= known


def test_the_readme_is_read_to_its_end_and_names_every_page() -> None:
    text = pages()["readme"].read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    missing = {name for name in pages() if name not in {"readme"} and f"(docs/{name}.md" not in text}
    assert not missing


def test_long_pages_have_contents() -> None:
    for name, path in pages().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        heads = [(anchor, line) for line, depth, anchor in docs.headings(lines) if depth == 2]
        if name == "readme" or len(lines) <= 100 or name == "from-airflow":
            continue
        listed = re.findall(r"^- \[.*?\]\(#([^)]*)\)", "\n".join(lines[: heads[0][1]]), re.MULTILINE)
        assert listed == [anchor for anchor, _ in heads], name
