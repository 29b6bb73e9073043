"""The scripts of the lab's fill.sh, cut as sqlcmd cuts them: `:setvar`, `$(NAME)` and GO."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

LAB = Path(__file__).parents[2] / "sql" / "lab"
_SETVAR = re.compile(r':setvar (\w+) "(.*)"')
_VARIABLE = re.compile(r"\$\((\w+)\)")
_KEEPS_SCRIPTS = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in -S) server=$2 ;; -i) script=$2 ;; esac
    shift
done
cp "$script" "$KEPT/$server.sql"
[ "$server" != "${FAILING:-}" ]
"""


def run_fill(folder: Path, failing: str = "") -> tuple[int, dict[str, str]]:
    """Run fill.sh with a sqlcmd that keeps what it is given: its exit code, and each server's script."""
    sqlcmd = folder / "sqlcmd"
    sqlcmd.write_text(_KEEPS_SCRIPTS)
    sqlcmd.chmod(0o755)
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    shown = subprocess.run(
        ["sh", str(LAB / "fill.sh")],
        env={**os.environ, "SQLCMD": str(sqlcmd), "KEPT": str(kept), "FAILING": failing},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return shown.returncode, {path.stem: path.read_text() for path in sorted(kept.glob("*.sql"))}


def batches(script: str) -> Iterator[str]:
    """The batches that sqlcmd sends; a variable that was never set is a KeyError."""
    variables: dict[str, str] = {}
    lines: list[str] = []
    for line in script.splitlines():
        setvar = _SETVAR.fullmatch(line)
        if setvar:
            variables[setvar[1]] = setvar[2]
        elif line.strip().upper() == "GO":
            yield _replaced("\n".join(lines), variables)
            lines = []
        else:
            lines.append(line)
    assert not "".join(lines).strip(), "sqlcmd does not send what stands after the last GO"


def _replaced(batch: str, variables: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables[found[1]], batch)
