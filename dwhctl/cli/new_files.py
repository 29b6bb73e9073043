"""Writing the files of a new project: never over those that are there."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from dwhctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_template(kind: str, name: str) -> str:
    """Read a file that travels with the package."""
    return resources.files(f"dwhctl.cli.templates.{kind}").joinpath(name).read_text(encoding="utf-8")


def fill_template(kind: str, name: str, **names: str) -> str:
    """Render a file that travels with the package: <% %> and << >> are ours, {{ }} and {% %} stay for the project."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701 - no HTML, and only our own values
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.from_string(read_template(kind, name)).render(names)


def write_new_files(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """Write the files and name them; UsageError, and nothing written, when one is there already."""
    there = [path for path in texts if (folder / path).exists()]
    if there:
        raise UsageError(
            f"{folder.absolute()} already has {', '.join(there)}, which dwhctl does not overwrite;"
            " name another folder, or move these files away"
        )
    try:
        for path, text in texts.items():
            _write(folder / path, text)
    except OSError as error:
        raise UsageError(
            f"cannot write {error.filename}: {error.strerror}; name a folder that this user may write"
        ) from None
    return list(texts)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
