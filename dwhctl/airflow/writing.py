"""Writing the pieces of an import into config/dwhctl.toml: what the file has is kept, with its comments.

New tables are added at the end, new variables below their header. The new text is read before it is written: it must
have the tables that were there and those of the pieces, and nothing else.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit
from msgspec import Struct

from dwhctl.airflow.pieces import Hidden, Piece
from dwhctl.core.errors import UsageError
from dwhctl.core.files import read_bytes, read_text, tighten, write_whole
from dwhctl.core.secrets import remember
from dwhctl.core.words import shown_key
from dwhctl.project.checks import free_name
from dwhctl.project.connections import CONNECTION_TYPES
from dwhctl.project.files import CONNECTION_PREFIX, VARIABLE_PREFIX
from dwhctl.project.model import ALERT_TYPES
from dwhctl.project.problems import toml_line, toml_value

_HEADER = r"^[ \t]*\[[ \t]*{table}[ \t]*\][ \t]*(?:#.*)?\r?\n"
_SERVER = {"type", "host", "hosts", "path"}
_ADDRESS = {*_SERVER, "user"}
_OF_THE_SERVER = {"host", "hosts", "port", "path", "user", "password", "database"}
ADDED, REPLACED, UNCHANGED = "added", "replaced", "unchanged"
LEFT_OUT, TO_COMPLETE = "left out", "to complete"


class Written(Struct, frozen=True):
    """The configuration's new text and what is added to it."""

    text: str
    changed: bool
    additions: str


def write_pieces(text: str, pieces: Sequence[Piece], *, replace: bool) -> Written:
    """Return the text with the pieces, and set the result of each.

    Without `replace`, raise UsageError with every piece of which the text has another.
    """
    before = tomllib.loads(text)
    for piece in pieces:
        piece.result = _result(text, before, piece)
    replaced = [piece for piece in pieces if piece.result == REPLACED]
    if replaced and not replace:
        names = ", ".join(f"{piece.table}.{piece.name}" for piece in replaced)
        raise UsageError(
            f"config/dwhctl.toml already has {names}, with other values: --replace puts Airflow's in their place;"
            " or rename them, there or in the file"
        )
    new = text
    for piece in replaced:
        piece.value = _merged(before, piece)
        new = _with_replaced(new, before, piece)
    tables = "\n".join(
        map(_table, (piece for piece in pieces if piece.kind != "variable" and _is_new(piece)))
    )
    variables = "".join(
        map(_variable, (piece for piece in pieces if piece.kind == "variable" and _is_new(piece)))
    )
    new = _with_variables(new, variables, has_table="variables" in before)
    new = f"{new.rstrip()}\n\n{tables}" if tables else new
    _check(before, new, [piece for piece in pieces if piece.result in (ADDED, REPLACED)])
    additions = [f"[variables]\n{variables}" if variables else "", tables]
    return Written(new, new != text, "\n".join(filter(None, additions)))


def _is_new(piece: Piece) -> bool:
    return piece.result in (ADDED, TO_COMPLETE)


def _result(text: str, before: Mapping[str, Any], piece: Piece) -> str:
    """Return what becomes of the piece; its guesses become what the text has."""
    if piece.value is None:
        return LEFT_OUT
    table = before.get(piece.table, {})
    old = table.get(piece.name)
    if isinstance(old, dict) and piece.guessed:
        piece.value |= {key: old[key] for key in piece.guessed if key in old}
    if piece.incomplete:
        commented = re.search(rf"^# \[alerts\.{re.escape(piece.name)}\]$", text, re.MULTILINE)
        return UNCHANGED if piece.name in table or commented else TO_COMPLETE
    if piece.name not in table:
        return ADDED
    return UNCHANGED if _has(old, piece.value) else REPLACED


def _merged(before: Mapping[str, Any], piece: Piece) -> Any:
    """Return the value of a connection or an alert with the keys that only the text has; the piece notes them.

    A user, a password and a port belong to their server: another server does not get them.
    """
    old, value = before[piece.table][piece.name], piece.value
    if piece.kind == "variable" or not isinstance(old, dict):
        return value
    types: Mapping[str, Any] = CONNECTION_TYPES if piece.kind == "connection" else ALERT_TYPES
    changed = {key for key in _ADDRESS if old.get(key) != value.get(key)}
    stale = _OF_THE_SERVER if changed & _SERVER else {"password"} if changed else set()
    if "type" in changed:
        stale = stale | (old.keys() - types[value["type"]].file_keys().keys())
    own = [key for key in old if key not in value]
    kept = [key for key in own if key not in stale]
    gone = [key for key in own if key in stale]
    if kept:
        piece.note(f"kept: {', '.join(map(shown_key, kept))}")
    if gone:
        piece.note(f"removed: {', '.join(map(shown_key, gone))}: of another server, user or type")
    return {key: old[key] for key in kept} | value


def _has(old: Any, new: Any) -> bool:
    """Return whether the text has the new value; a connection or an alert may have more keys."""
    if isinstance(old, dict) and isinstance(new, dict) and "type" in new:
        return {**old, **new} == old
    return type(old) is type(new) and bool(old == new)


def _comment(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _table(piece: Piece) -> str:
    note = f"# {_comment(piece.comment)}\n" if piece.comment else ""
    keys = "".join(f"{toml_line(key, value)}\n" for key, value in piece.value.items())
    block = f"{note}[{piece.table}.{piece.name}]\n{keys}"
    if piece.result != TO_COMPLETE:
        return block
    # Empty values are those that a person must fill in.
    lines = (re.sub(r'= (""|\[\])$', r"= \1    # fill in", line) for line in block.splitlines())
    return "".join(f"# {line}\n" for line in lines)


def _variable(piece: Piece) -> str:
    return toml_line(piece.name, piece.value) + (f" # {_comment(piece.comment)}\n" if piece.comment else "\n")


def _by_hand(table: str) -> UsageError:
    form = "[variables] with keys below" if table == "variables" else f"[{table}.NAME]"
    what = f"config/dwhctl.toml: dwhctl cannot add to its [{table}] in the form that it has"
    return UsageError(f"{what}; write it as {form}")


def _with_variables(text: str, variables: str, *, has_table: bool) -> str:
    if not variables:
        return text
    if not has_table:
        return f"{text.rstrip()}\n\n[variables]\n{variables}"
    text = text if text.endswith("\n") else f"{text}\n"
    header = re.search(_HEADER.format(table="variables"), text, re.MULTILINE)
    if header is None:
        raise _by_hand("variables")
    return text[: header.end()] + variables + text[header.end() :]


def _with_replaced(text: str, before: Mapping[str, Any], piece: Piece) -> str:
    """Return the text with the value of the piece; comments, order and what follows are kept."""
    if piece.kind == "variable":
        document: Any = tomlkit.parse(text)
        document["variables"][piece.name] = tomlkit.value(toml_value(piece.value))
        return tomlkit.dumps(document)
    table = rf"{piece.table}\.{re.escape(piece.name)}"
    header = re.search(_HEADER.format(table=table), text, re.MULTILINE)
    if header is None:
        raise _by_hand(piece.table)
    following = re.compile(r"^[ \t]*\[", re.MULTILINE).search(text, header.end())
    end = following.start() if following else len(text)
    lines = text[header.end() : end].splitlines(keepends=True)
    while lines and re.match(r"\s*(#|$)", lines[-1]):
        lines.pop()
    old = "".join(lines)
    new = _updated(old, before[piece.table][piece.name], piece.value)
    return text[: header.end()] + new + text[header.end() + len(old) :]


def _updated(block: str, before: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """Return the block with the value's keys; an inner table with a header of its own is not in the block."""
    body: Any = tomlkit.parse(block)
    for key in body.keys() - value.keys():
        del body[key]
    for key, inner in value.items():
        if key in before and before[key] == inner:
            continue
        item = tomlkit.value(toml_value(inner))
        if key in body:
            body[key] = item
        else:
            body.append(key, item)
    return tomlkit.dumps(body)


def _check(before: Mapping[str, Any], new: str, pieces: Sequence[Piece]) -> None:
    """Raise UsageError unless the new text has the tables of before and those of the pieces."""
    wanted = {key: dict(table) if isinstance(table, dict) else table for key, table in before.items()}
    for piece in pieces:
        wanted.setdefault(piece.table, {})[piece.name] = piece.value
    try:
        is_right = tomllib.loads(new) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise _by_hand(pieces[0].table if pieces else "connections")


FOLDER = "secrets"
EXPORTS = f"{FOLDER}/env.sh"
_LONGEST = 100


@dataclass(slots=True)
class Kept:
    """The reference of each secret, and the texts to be written, by path within the project."""

    references: dict[Hidden, dict[str, str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def keep_in_files(root: Path, secrets: Iterable[Hidden], *, replace: bool) -> Kept:
    """Plan a file for each secret: `{ file = "secrets/dwh_password" }`. Raise UsageError if it has another."""
    kept = Kept()
    for secret, name in _named(secrets).items():
        path = f"{FOLDER}/{name}"
        if secret.text.endswith("\r"):
            raise UsageError(
                f"{path}: the secret ends in a carriage return, which files lose; use --secrets env"
            )
        kept.references[secret] = {"file": path}
        held = _held(root / path)
        if held is not None and held != secret.text and not replace:
            raise UsageError(f"{path} already contains another secret; --replace overwrites it")
        if held != secret.text:
            kept.texts[path] = f"{secret.text}\n"
    return kept


def keep_in_environment(root: Path, secrets: Iterable[Hidden], *, replace: bool) -> Kept:
    """Plan a variable for each secret: `{ env = "DWH_PASSWORD" }`, and one file that exports them all."""
    kept = Kept()
    before = _exports(root / EXPORTS)
    exports = dict(before)
    for secret, name in _named(secrets).items():
        variable = _environment_name(name)
        kept.references[secret] = {"env": variable}
        if exports.get(variable, secret.text) != secret.text and not replace:
            raise UsageError(f"{EXPORTS} already exports another {variable}; --replace overwrites it")
        exports[variable] = secret.text
    if exports != before:
        kept.texts[EXPORTS] = "".join(
            f"export {name}={shlex.quote(text)}\n" for name, text in exports.items()
        )
    return kept


def write_secrets(root: Path, texts: Mapping[str, str]) -> None:
    """Write the files, each atomically and only for this user. Raise UsageError."""
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
    """Return a name for each secret, the same in each import."""
    names: dict[Hidden, str] = {}
    for secret in secrets:
        remember(secret.text)
        if secret not in names:
            names[secret] = free_name(secret.hint[:_LONGEST], names.values())
    return names


def _environment_name(name: str) -> str:
    variable = name.upper()
    # dwhctl would read these as a connection or a variable, and no name of a shell begins with a digit.
    is_reserved = variable.startswith((CONNECTION_PREFIX, VARIABLE_PREFIX))
    return variable if re.match("[A-Z_]", variable) and not is_reserved else f"SECRET_{variable}"


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
        raise UsageError(f"{path}: cannot be read as lines export NAME='...'; move the file") from None
    return dict(word.split("=", 1) for word in words if "=" in word)
