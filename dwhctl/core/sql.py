"""SQL text: quoting, bind parameters and the ends of statements; and the named blocks of dwhctl's own SQL files.

The scanner knows what all systems have in common: strings, quoted names, comments and dollar quotes. In them
nothing is a parameter and nothing ends a statement.

`[` is a quoted name in T-SQL and a list or a subscript elsewhere. It is a subscript directly after a word or
a closing bracket or quote (`a[:end]`), a list when a string, a parameter or another `[` comes first in it,
when a parameter follows a comma in it, or when it is in a list; else it is a quoted name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

_BLOCK = re.compile(r"^-- name: (.+)$", re.MULTILINE)
_COMMENT_LINE = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_PLAIN = re.compile(r"[^;:'\"\[\]$/-]+")
_BIND = re.compile(r":([A-Za-z_]\w*)")
_DOLLAR = re.compile(r"\$(?:[A-Za-z_]\w*)?\$")
_LIST = re.compile(r"\s*['\[:]|.*,\s*:[A-Za-z_]", re.DOTALL)
_NAME = re.compile(r"\[((?:[^\]]|\]\])*)\]")
_STRING = re.compile(r"'(?:[^']|'')*'?")
_ESCAPE_STRING = re.compile(r"'(?:[^'\\]|\\.|'')*'?", re.DOTALL)
_QUOTED = re.compile(r'"(?:[^"]|"")*"?')
_LINE = re.compile(r"--[^\n]*")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_BEFORE_WORD = " \t\r\n\f\v("
_FIRST_WORD = re.compile(r"[A-Za-z]+")
# A colon directly after one of these is a cast, a slice of a list or a key of a struct, never a parameter.
_NO_BIND_AFTER = "])}'\":"
_SUBSCRIPT_AFTER = "])\"'"


class BindPosition(Struct, frozen=True):
    """A bind parameter `:name` in `sql[start:end]`, on a line counted from 1."""

    name: str
    start: int
    end: int
    line: int


class _Token(Struct, frozen=True):
    kind: str  # text | comment | quoted | bind | end
    start: int
    end: int


def quote_name(name: str, marks: str = '""') -> str:
    """Quote one name for SQL, by an opening and a closing mark: a dot in it is part of the name."""
    return f"{marks[0]}{name.replace(marks[1], marks[1] * 2)}{marks[1]}"


def shown_name(name: str, marks: str = '""') -> str:
    """Return a name for SQL that a user is to write: quoted only where that is needed, reserved words apart."""
    # Where names are in double quotes, one that is not quoted may be read in small letters.
    plain = r"[a-z_][a-z0-9_]*" if marks == '""' else r"[A-Za-z_][A-Za-z0-9_]*"
    return name if re.fullmatch(plain, name) else quote_name(name, marks)


def quote_path(name: str) -> str:
    """Quote a table's name for SQL, the parts of `schema.table` separately."""
    return ".".join(map(quote_name, name.split(".")))


def literal(text: str) -> str:
    """Quote a text for SQL, in which a backslash has no meaning of its own."""
    return "'" + text.replace("'", "''") + "'"


def named_sql(package: str, dialect: str) -> dict[str, str]:
    """Return the blocks of a package's SQL files by name: of `x.sql`, and of `x.<dialect>.sql`."""
    from importlib import resources  # not at start-up

    found: dict[str, str] = {}
    for file in sorted(resources.files(package).iterdir(), key=lambda file: file.name):
        _, *kind = file.name.split(".")
        if kind in (["sql"], [dialect, "sql"]):
            found |= named_blocks(file.read_text("utf-8"))
    return found


def named_blocks(text: str) -> dict[str, str]:
    """Return the blocks of a SQL text by name, without comments. Each begins with a line `-- name: ...`."""
    _, *parts = _BLOCK.split(text)
    return {
        name.strip(): _COMMENT_LINE.sub("", body).strip()
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def find_binds(sql: str) -> list[BindPosition]:
    """Return every bind parameter, in order."""
    return [
        BindPosition(
            sql[token.start + 1 : token.end], token.start, token.end, sql.count("\n", 0, token.start) + 1
        )
        for token in _tokens(sql)
        if token.kind == "bind"
    ]


def replace_binds(sql: str, style: Callable[[str], str]) -> str:
    """Replace each `:name` by what `style` makes of the name."""
    parts, position = [], 0
    for bind in find_binds(sql):
        parts += [sql[position : bind.start], style(bind.name)]
        position = bind.end
    return "".join([*parts, sql[position:]])


def split_statements(sql: str) -> list[str]:
    """Return the statements without their semicolons; what is only space and comments is left out."""
    statements: list[str] = []
    start, says_something = 0, False
    for token in _tokens(sql):
        if token.kind == "end":
            if says_something:
                statements.append(sql[start : token.start].strip())
            start, says_something = token.end, False
        elif token.kind != "comment" and not sql[token.start : token.end].isspace():
            says_something = True
    if says_something:
        statements.append(sql[start:].strip())
    return statements


def same_but_comments(sql: str, other: str) -> bool:
    """Return whether two statements differ only in their comments."""
    first, second = (
        [text[token.start : token.end] for token in _tokens(text) if token.kind != "comment"]
        for text in (sql, other)
    )
    return first == second


def unclosed(sql: str) -> str | None:
    """Return the text, name, comment or bracket that is not closed, with its line, or None."""
    brackets: list[int] = []
    for token in _tokens(sql):
        if what := _unclosed_token(sql, token):
            return f"line {_line_at(sql, token.start)}: {what}"
        if token.kind != "text":
            continue
        for at in range(token.start, token.end):
            if sql[at] == "(":
                brackets.append(at)
            elif sql[at] == ")" and not brackets:
                return f"line {_line_at(sql, at)}: a ) closes no bracket"
            elif sql[at] == ")":
                brackets.pop()
    return f"line {_line_at(sql, brackets[-1])}: a ( is not closed" if brackets else None


def _unclosed_token(sql: str, token: _Token) -> str | None:
    text = sql[token.start : token.end]
    if token.kind == "comment":
        edges = _COMMENT_EDGE.findall(text) if text.startswith("/*") else []
        return "a comment is not closed; a */ is missing" if edges.count("/*") != edges.count("*/") else None
    if token.kind != "quoted":
        return None
    if text[0] in "'\"":
        plain = re.sub(r"\\.", "", text, flags=re.DOTALL) if _escapes(sql, token.start) else text
        name = "a text" if text[0] == "'" else "a quoted name"
        return f"{name} is not closed; a {text[0]} is missing" if plain.count(text[0]) % 2 else None
    mark = _DOLLAR.match(text)
    is_open = mark is not None and (len(text) < 2 * len(mark[0]) or not text.endswith(mark[0]))
    return f"a text is not closed; a {mark[0]} is missing" if mark and is_open else None


def _line_at(sql: str, position: int) -> int:
    return sql.count("\n", 0, position) + 1


def first_word(statement: str) -> str:
    """Return the first word of a statement in capitals, without comments and brackets before it."""
    for token in _tokens(statement):
        text = statement[token.start : token.end].lstrip(_BEFORE_WORD) if token.kind != "comment" else ""
        if text:
            match = _FIRST_WORD.match(text)
            return match[0].upper() if match else ""
    return ""


def comment_end(sql: str, position: int) -> int | None:
    """Return the end of the comment that begins here; None when none does. Comments may be nested."""
    if sql.startswith("--", position):
        match = _LINE.match(sql, position)
        return match.end() if match else len(sql)
    if not sql.startswith("/*", position):
        return None
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, position):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


def _tokens(sql: str) -> Iterator[_Token]:
    position, depth = 0, 0
    while position < len(sql):
        token = _token(sql, position, depth)
        creator = sql[position]
        if token.kind == "text" and creator in "[]":
            depth = max(0, depth + (1 if creator == "[" else -1))
        yield token
        position = token.end


def _token(sql: str, position: int, depth: int) -> _Token:
    plain = _PLAIN.match(sql, position)
    if plain:
        return _Token("text", position, plain.end())
    char = sql[position]
    if char == ";":
        return _Token("end", position, position + 1)
    if char == ":":
        return _colon(sql, position)
    quoted = _quoted_end(sql, position, depth)
    if quoted is not None:
        return _Token("quoted", position, quoted)
    comment = comment_end(sql, position)
    if comment is not None:
        return _Token("comment", position, comment)
    return _Token("text", position, position + 1)


def _colon(sql: str, position: int) -> _Token:
    before = sql[position - 1] if position else " "
    match = _BIND.match(sql, position)
    if match and not _is_word(before) and before not in _NO_BIND_AFTER:
        return _Token("bind", position, match.end())
    return _Token("text", position, position + 1)


def _quoted_end(sql: str, position: int, depth: int) -> int | None:
    before = sql[position - 1] if position else " "
    match: re.Match[str] | None = None
    if sql[position] == "'":
        match = (_ESCAPE_STRING if _escapes(sql, position) else _STRING).match(sql, position)
    elif sql[position] == '"':
        match = _QUOTED.match(sql, position)
    elif sql[position] == "[" and not depth and not _is_word(before) and before not in _SUBSCRIPT_AFTER:
        match = _NAME.match(sql, position)
        if match and _LIST.match(match[1]):
            match = None
    elif sql[position] == "$" and not _is_word(before):
        return _dollar_end(sql, position)
    return match.end() if match else None


def _escapes(sql: str, quote: int) -> bool:
    """Return whether the string is PostgreSQL's E'...', in which a backslash escapes."""
    return quote > 0 and sql[quote - 1] in "eE" and (quote < 2 or not _is_word(sql[quote - 2]))


def _dollar_end(sql: str, position: int) -> int | None:
    match = _DOLLAR.match(sql, position)
    if not match:
        return None
    closing = sql.find(match[0], match.end())
    return len(sql) if closing < 0 else closing + len(match[0])


def _is_word(char: str) -> bool:
    return char.isalnum() or char in "_$@#"
