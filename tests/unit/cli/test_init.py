"""The files of a new project: two processes that write them at once, and a kill while they are written."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dwhctl.cli.new_project.init import write_new_files
from dwhctl.core.errors import UsageError

TEXTS = {f"config/{name}.toml": f'name = "{name}"\n' * 1000 for name in ("dwhctl", "orders", "reports")}


def _files(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_a_kill_leaves_whole_files_and_the_same_command_adds_the_others(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        link = os.link

        def link_the_first(new: str, path: Path) -> None:
            if path.name not in next(iter(TEXTS)):
                os.kill(os.getpid(), signal.SIGKILL)
            link(new, path)

        os.link = link_the_first  # type: ignore[assignment]
        write_new_files(tmp_path, TEXTS)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert _files(tmp_path) == dict([*TEXTS.items()][:1])
    assert write_new_files(tmp_path, TEXTS) == list(TEXTS)
    assert _files(tmp_path) == TEXTS


def test_two_at_once_do_not_mix_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, name = os.link, next(iter(TEXTS))

    def comes_second(new: str, path: Path) -> None:
        path.write_text("of the other")
        link(new, path)

    monkeypatch.setattr(os, "link", comes_second)
    with pytest.raises(UsageError, match=f"already has {name}, which dwhctl does not overwrite"):
        write_new_files(tmp_path, TEXTS)
    assert _files(tmp_path) == {name: "of the other"}
    assert not list(tmp_path.rglob("*.tmp"))


def test_files_of_a_finished_project_are_refused(tmp_path: Path) -> None:
    write_new_files(tmp_path, TEXTS)
    with pytest.raises(UsageError, match="already has"):
        write_new_files(tmp_path, TEXTS)


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_new_files(tmp_path, TEXTS)
    assert _files(tmp_path) == TEXTS
