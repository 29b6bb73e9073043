"""Pieces of an import written into config/dwhctl.toml: what stands there stays as it is, comments and all.

New tables are added at the end, new variables below their header. The text is read again before it is taken: it must
be what stood there and the pieces, and nothing else.
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
from tomlkit.items import Item

from dwhctl.airflow.pieces import Hidden, Piece
from dwhctl.core.errors import UsageError
from dwhctl.core.files import read_bytes, read_text, tighten, write_whole
from dwhctl.core.secrets import is_reference, remember
from dwhctl.core.words import shown_key
from dwhctl.project.connections import CONNECTION_TYPES
from dwhctl.project.files import CONNECTION_PREFIX, VARIABLE_PREFIX
from dwhctl.project.model import ALERT_TYPES

_HEADER = re.compile(r"^[ \t]*\[[ \t]*variables[ \t]*\][ \t]*(?:#.*)?\r?\n", re.MULTILINE)
_SERVER = {"type", "host", "hosts", "path"}
_ADDRESS = {*_SERVER, "user"}
_OF_THE_SERVER = {"host", "hosts", "port", "path", "user", "password", "database"}
_BY_HAND = (
    "config/dwhctl.toml: its [{table}] is written so that dwhctl cannot add to it; write it as [{table}.NAME]"
)
ADDED, REPLACED, UNCHANGED, LEFT_OUT, TO_COMPLETE = (
    "added",
    "replaced",
    "unchanged",
    "left out",
    "to complete",
)


@dataclass(frozen=True, slots=True)
class Written:
    """The configuration's new text, what is added to it, and what became of each piece."""

    text: str
    changed: bool
    additions: str
    results: tuple[str, ...]


def write_pieces(text: str, pieces: Sequence[Piece], values: Sequence[Any], *, replace: bool) -> Written:
    """Put the pieces into the text; `values` are theirs, with references for secrets.

    Raise UsageError that names every piece of which another stands there already, unless they shall be replaced.
    """
    before = tomllib.loads(text)
    values = [_settled(before, piece, value) for piece, value in zip(pieces, values, strict=True)]
    found = [_result(text, before, piece, value) for piece, value in zip(pieces, values, strict=True)]
    clashes = [piece for piece, result in zip(pieces, found, strict=True) if result == REPLACED]
    if clashes and not replace:
        names = ", ".join(f"{each.table}.{each.name}" for each in clashes)
        raise UsageError(
            f"config/dwhctl.toml already has {names}, with other values: --replace puts Airflow's in their place;"
            " or rename them, there or in the file"
        )
    merge = [
        _merged(before, piece, value) if result == REPLACED else value
        for piece, value, result in zip(pieces, values, found, strict=True)
    ]
    chosen = list(zip(pieces, merge, found, strict=True))
    new = _replaced(text, before, [(piece, value) for piece, value, result in chosen if result == REPLACED])
    tables = _tables([one for one in chosen if one[0].kind != "variable"])
    variables = _variables(
        [(piece, value) for piece, value, result in chosen if piece.kind == "variable" and result == ADDED]
    )
    new = _with_variables(new, variables, has_table="variables" in before)
    new = f"{new.rstrip()}\n\n{tables}" if tables else new
    _check(before, new, [(piece, value) for piece, value, result in chosen if result in (ADDED, REPLACED)])
    shown = [f"[variables]\n{variables}" if variables else "", tables]
    return Written(new, new != text, "\n".join(filter(None, shown)), tuple(found))


def _result(text: str, before: Mapping[str, Any], piece: Piece, value: Any) -> str:
    if value is None:
        return LEFT_OUT
    table = before.get(piece.table, {})
    there = piece.name in table
    if piece.incomplete:
        commented = re.search(rf"^# \[alerts\.{re.escape(piece.name)}\]$", text, re.MULTILINE)
        return UNCHANGED if there or commented else TO_COMPLETE
    if not there:
        return ADDED
    return UNCHANGED if _holds(table[piece.name], value) else REPLACED


def _settled(before: Mapping[str, Any], piece: Piece, value: Any) -> Any:
    """The value, with what stands there already in the place of its guesses."""
    old = before.get(piece.table, {}).get(piece.name)
    if not isinstance(old, dict) or not isinstance(value, dict):
        return value
    return value | {key: old[key] for key in piece.guessed if key in old}


def _merged(before: Mapping[str, Any], piece: Piece, value: Any) -> Any:
    """The value of a connection or an alert with the keys that only stand here; the piece says which.

    A user, a password and a port belong to their server: another server does not get them.
    """
    old = before[piece.table][piece.name]
    if piece.kind == "variable" or not isinstance(old, dict):
        return value
    changed = {key for key in _ADDRESS if old.get(key) != value.get(key)}
    stale = _OF_THE_SERVER if changed & _SERVER else {"password"} if changed else set()
    own = [key for key in old if key not in value]
    gone = [key for key in own if key in stale or ("type" in changed and key not in _keys_of(piece, value))]
    kept = [key for key in own if key not in gone]
    if kept:
        piece.note(f"kept: {', '.join(map(shown_key, kept))}")
    if gone:
        piece.note(f"removed: {', '.join(map(shown_key, gone))}: of another server, user or type")
    return {key: old[key] for key in kept} | value


def _keys_of(piece: Piece, value: Mapping[str, Any]) -> set[str]:
    """The keys that a table of the value's type may have."""
    types: Mapping[str, Any] = CONNECTION_TYPES if piece.kind == "connection" else ALERT_TYPES
    return {field.alias or key for key, field in types[value["type"]].model_fields.items()}


def _holds(old: Any, new: Any) -> bool:
    """Whether the new value stands there; a connection may have got more keys since."""
    if isinstance(old, dict) and isinstance(new, dict) and "type" in new:
        return bool(new.items() <= old.items()) if _flat(new) and _flat(old) else {**old, **new} == old
    return type(old) is type(new) and bool(old == new)


def _flat(table: Mapping[str, Any]) -> bool:
    return not any(isinstance(each, dict | list) for each in table.values())


def _item(value: Any) -> Item:
    """The value as TOML; tables within are written in the line."""
    if is_reference(value):
        ((kind, text),) = value.items()
        return tomlkit.value(f"{{ {kind} = {tomlkit.item(text).as_string()} }}")
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        for key, each in value.items():
            table.append(key, _item(each))
        return table
    if isinstance(value, list):
        array = tomlkit.array()
        for each in value:
            array.append(_item(each))
        return array
    item: Item = tomlkit.item(value)
    return item


def _comment(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _tables(chosen: Sequence[tuple[Piece, Any, str]]) -> str:
    blocks = []
    for piece, value, result in chosen:
        if result not in (ADDED, TO_COMPLETE):
            continue
        note = f"# {_comment(piece.comment)}\n" if piece.comment else ""
        block = f"{note}[{piece.table}.{piece.name}]\n{_keys(value)}"
        blocks.append(_commented(block) if result == TO_COMPLETE else block)
    return "\n".join(blocks)


def _commented(block: str) -> str:
    """The block as comments, to be completed by a person; its empty values are what is missing."""
    lines = (re.sub(r'= (""|\[\])$', r"= \1    # fill in", line) for line in block.splitlines())
    return "".join(f"# {line}\n" for line in lines)


def _variables(chosen: Sequence[tuple[Piece, Any]]) -> str:
    body = tomlkit.document()
    for piece, value in chosen:
        item = _item(value)
        if piece.comment:
            item.comment(_comment(piece.comment))
        body.append(tomlkit.key(piece.name), item)
    return tomlkit.dumps(body)


def _with_variables(text: str, variables: str, *, has_table: bool) -> str:
    if not variables:
        return text
    if not has_table:
        return f"{text.rstrip()}\n\n[variables]\n{variables}"
    text = text if text.endswith("\n") else f"{text}\n"
    header = _HEADER.search(text)
    if header is None:
        raise UsageError(
            _BY_HAND.format(table="variables").replace("[variables.NAME]", "[variables] with keys below")
        )
    return text[: header.end()] + variables + text[header.end() :]


def _replaced(text: str, before: Mapping[str, Any], chosen: Sequence[tuple[Piece, Any]]) -> str:
    for piece, value in chosen:
        if piece.kind == "variable":
            document: Any = tomlkit.parse(text)
            document["variables"][piece.name] = _item(value)
            text = tomlkit.dumps(document)
        else:
            text = _with_block(text, piece, before[piece.table][piece.name], value)
    return text


def _with_block(text: str, piece: Piece, before: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """Make the keys below the table's header those of the value; comments, order and what follows them stay."""
    name = re.escape(piece.name)
    header = re.search(
        rf"^[ \t]*\[[ \t]*{piece.table}\.{name}[ \t]*\][ \t]*(?:#.*)?\r?\n", text, re.MULTILINE
    )
    if header is None:
        raise UsageError(_BY_HAND.format(table=piece.table))
    following = re.compile(r"^[ \t]*\[", re.MULTILINE).search(text, header.end())
    end = following.start() if following else len(text)
    lines = text[header.end() : end].splitlines(keepends=True)
    while lines and re.match(r"\s*(#|$)", lines[-1]):
        lines.pop()
    old = "".join(lines)
    return text[: header.end()] + _updated(old, before, value) + text[header.end() + len(old) :]


def _updated(block: str, before: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """The block with the value's keys; a table within that has a header of its own is not in the block."""
    body: Any = tomlkit.parse(block)
    for key in body.keys() - value.keys():
        del body[key]
    for key, each in value.items():
        if key in before and before[key] == each:
            continue
        if key in body:
            body[key] = _item(each)
        else:
            body.append(key, _item(each))
    return tomlkit.dumps(body)


def _keys(value: Mapping[str, Any]) -> str:
    body = tomlkit.document()
    for key, each in value.items():
        body.append(key, _item(each))
    return tomlkit.dumps(body)


def _check(before: Mapping[str, Any], new: str, chosen: Sequence[tuple[Piece, Any]]) -> None:
    wanted = {key: dict(each) if isinstance(each, dict) else each for key, each in before.items()}
    for piece, value in chosen:
        wanted.setdefault(piece.table, {})[piece.name] = value
    try:
        right = tomllib.loads(new) == wanted
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        table = chosen[0][0].table if chosen else "connections"
        raise UsageError(_BY_HAND.format(table=table))


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
