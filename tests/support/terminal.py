"""dwhctl on a terminal of a given size: what a person sees."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path

from tests.support.prefork import DwhctlProcess


def on_a_terminal(
    *arguments: object, columns: int, lines: int, folder: Path, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run `dwhctl ARGUMENTS` on a pseudo-terminal and give its exit code and what it wrote, colours and all."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    clean = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
    }
    process = DwhctlProcess(
        *map(str, arguments),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**clean, "TERM": "xterm-256color", **(env or {})},
    )
    os.close(slave)
    written = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux's way to say that nobody has the other side open any more
            break
        if not piece:
            break
        written += piece
    os.close(master)
    return process.wait(), written.decode().replace("\r\n", "\n")
