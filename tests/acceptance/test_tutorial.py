"""docs/tutorial.md: its files and commands, in its order, do what the page says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_support import dwh

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:#|--) ([\w./]+)\n")
CODE = ' || echo "exit code $?"'


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a line as a shell would, dwhctl in this process. Return what the shell adds to its output."""
    words = shlex.split(line.removesuffix(CODE))
    if words[0] == "cd":
        monkeypatch.chdir(words[1])
    elif words[0] == "dwhctl":
        code = dwh(*words[1:])
        if line.endswith(CODE):
            return f"exit code {code}\n"
        assert code == 0, line
    else:
        words[0] = sys.executable if words[0] == "python" else words[0]
        subprocess.run(words, check=True)
    return ""


def without_seconds(text: str) -> str:
    """Without how long loads took; a slow one says its rate as well."""
    return re.sub(r"in \d+\.\d s( \(\d+ rows/s\))?", "in N s", text)


def test_the_tutorial_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    shown = ""
    files, compared = 0, 0
    for language, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "sh":
            shown = ""
            for line in body.splitlines():
                added = run_line(line, monkeypatch)
                shown += capsys.readouterr().out + added
        elif language == "text":
            compared += 1
            assert without_seconds(shown) == without_seconds(body)
        elif file := FILE.match(body):
            files += 1
            Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(file[1]).write_text(body, encoding="utf-8")
    assert (files, compared) == (5, 8)
