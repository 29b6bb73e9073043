"""`dwhctl docs`: the documentation travels, and what points to it finds it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.shell_completion import ShellComplete

from dwhctl.cli import docs
from dwhctl.cli.docs import pages
from dwhctl.cli.main import dwhctl
from tests.cli_support import dwh
from tests.support.terminal import on_a_terminal

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "dwhctl"
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
        ("alert", "there is no page 'alert'; did you mean 'alerts'?; all: dwhctl docs"),
        ("alerts#when-nothing-hapens", "page alerts has no section 'when-nothing-hapens'; did you mean"),
        ("\x1b[31mred\x07", r"there is no page '\x1b[31mred\x07'; "),
        ("../setup", "there is no page '../setup'; "),
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
