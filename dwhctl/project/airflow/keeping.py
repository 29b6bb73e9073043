"""Where imported secrets go: a file each, or one file of exports, in a folder that git does not see."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dwhctl.errors import UsageError
from dwhctl.files import read_bytes, read_text
from dwhctl.private import tighten, write_whole

from ..environment import CONNECTION_PREFIX, VARIABLE_PREFIX
from ..secrets import remember
from .pieces import Hidden

FOLDER = "secrets"
EXPORTS = f"{FOLDER}/env.sh"
_LONGEST = 100


@dataclass(slots=True)
class Kept:
    """References by secret, the texts to be written (by path within the project), and what is written already."""

    references: dict[Hidden, dict[str, str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def keep_in_files(root: Path, secrets: Iterable[Hidden], *, replace: bool) -> Kept:
    """A file for each secret: `{ file = "secrets/dwh_password" }`. Raise UsageError for a file that holds another."""
    kept = Kept()
    for secret, name in _named(secrets).items():
        path = f"{FOLDER}/{name}"
        if secret.text.endswith("\r"):
            raise UsageError(
                f"{path}: the secret ends in a carriage return, which a file loses; use --secrets env"
            )
        kept.references[secret] = {"file": path}
        held = _held(root / path)
        if held is not None and held != secret.text and not replace:
            raise UsageError(f"{path} holds another secret already; --replace overwrites it")
        if held != secret.text:
            kept.texts[path] = f"{secret.text}\n"
    return kept


def keep_in_environment(root: Path, secrets: Iterable[Hidden], *, replace: bool) -> Kept:
    """A variable for each secret: `{ env = "DWH_PASSWORD" }`, and one file that exports them all."""
    kept = Kept()
    before = _exports(root / EXPORTS)
    exports = dict(before)
    for secret, name in _named(secrets).items():
        variable = _variable(name)
        kept.references[secret] = {"env": variable}
        if exports.get(variable, secret.text) != secret.text and not replace:
            raise UsageError(f"{EXPORTS} exports another {variable} already; --replace overwrites it")
        exports[variable] = secret.text
    if exports != before:
        kept.texts[EXPORTS] = "".join(
            f"export {name}={shlex.quote(text)}\n" for name, text in exports.items()
        )
    return kept


def write_secrets(root: Path, texts: Mapping[str, str]) -> None:
    """Write the files, for this user alone, each whole or not at all. Raise UsageError where that is impossible."""
    if not texts:
        return
    folder = root / FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        tighten(folder)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            write_whole(ignore, "*\n", 0o600)
        for path, text in texts.items():
            write_whole(root / path, text, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}; give this user access") from None


def _named(secrets: Iterable[Hidden]) -> dict[Hidden, str]:
    """Give each secret a name of its own, the same each time."""
    names: dict[Hidden, str] = {}
    taken: set[str] = set()
    for secret in secrets:
        remember(secret.text)
        if secret in names:
            continue
        wanted = name = secret.hint[:_LONGEST]
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        taken.add(name)
        names[secret] = name
    return names


def _variable(name: str) -> str:
    variable = name.upper()
    # These would be read as a connection or a variable, and a digit begins no name of a shell.
    bad = variable.startswith((CONNECTION_PREFIX, VARIABLE_PREFIX)) or not re.match("[A-Z_]", variable)
    return f"SECRET_{variable}" if bad else variable


def _held(path: Path) -> str | None:
    try:
        return read_bytes(path).decode().removesuffix("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""


def _exports(path: Path) -> dict[str, str]:
    try:
        words = shlex.split(read_text(path), comments=True)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ValueError):
        raise UsageError(f"{path}: cannot be read as lines export NAME='...'; move it away") from None
    return dict(word.split("=", 1) for word in words if "=" in word)
