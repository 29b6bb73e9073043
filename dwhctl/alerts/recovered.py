"""How a template of the user's writes a recovery, so that nobody reads the text of a failure when it is over.

Its block `recovered` is the message of a recovery, alone. Without the block the template has to read `recovered` or
`digest.subject`; one that reads neither is not asked, and the package's text goes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import nodes
from jinja2.meta import find_referenced_templates

from dwhctl.project.templates import source_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dwhctl.project.sandbox import TemplateSandbox

BLOCK = "recovered"


def file_with_block(environment: TemplateSandbox, folder: Path, path: Path) -> Path | None:
    """Return the file that holds the block: the template, or what it extends or includes; None without one."""
    for file, tree in _trees(environment, folder, path):
        if any(block.name == BLOCK for block in tree.find_all(nodes.Block)):
            return file
    return None


def tells_recoveries_apart(environment: TemplateSandbox, folder: Path, path: Path) -> bool:
    """Return whether the template, or a file that it takes in, reads what the message is about."""
    return any(_reads_it(tree) for _, tree in _trees(environment, folder, path))


def _reads_it(tree: nodes.Template) -> bool:
    return (
        any(name.name == BLOCK and name.ctx == "load" for name in tree.find_all(nodes.Name))
        or any(one.attr == "subject" for one in tree.find_all(nodes.Getattr))
        or any(one.arg == nodes.Const("subject") for one in tree.find_all(nodes.Getitem))
    )


def _trees(environment: TemplateSandbox, folder: Path, path: Path) -> Iterator[tuple[Path, nodes.Template]]:
    """Give the template and the files of the folder that it takes in, parsed; a wrong one ends it."""
    left, seen = [path], set()
    while left:
        file = left.pop(0)
        if file in seen:
            continue
        seen.add(file)
        try:
            with environment.bounded():
                tree = environment.parse(source_text(file, folder), filename=str(file))
        except Exception:
            return  # whoever renders it gets the error, with its line
        yield file, tree
        left += [
            folder / name for name in find_referenced_templates(tree) if name and (folder / name).is_file()
        ]
