"""T-SQL text to tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import TdsError, error

RESERVED = frozenset(
    [
        "ADD",
        "ALL",
        "ALTER",
        "AND",
        "ANY",
        "AS",
        "ASC",
        "AUTHORIZATION",
        "BACKUP",
        "BEGIN",
        "BETWEEN",
        "BREAK",
        "BROWSE",
        "BULK",
        "BY",
        "CASCADE",
        "CASE",
        "CHECK",
        "CHECKPOINT",
        "CLOSE",
        "CLUSTERED",
        "COALESCE",
        "COLLATE",
        "COLUMN",
        "COMMIT",
        "COMPUTE",
        "CONSTRAINT",
        "CONTAINS",
        "CONTAINSTABLE",
        "CONTINUE",
        "CONVERT",
        "CREATE",
        "CROSS",
        "CURRENT",
        "CURRENT_DATE",
        "CURRENT_TIME",
        "CURRENT_TIMESTAMP",
        "CURRENT_USER",
        "CURSOR",
        "DATABASE",
        "DBCC",
        "DEALLOCATE",
        "DECLARE",
        "DEFAULT",
        "DELETE",
        "DENY",
        "DESC",
        "DISK",
        "DISTINCT",
        "DISTRIBUTED",
        "DOUBLE",
        "DROP",
        "DUMP",
        "ELSE",
        "END",
        "ERRLVL",
        "ESCAPE",
        "EXCEPT",
        "EXEC",
        "EXECUTE",
        "EXISTS",
        "EXIT",
        "EXTERNAL",
        "FETCH",
        "FILE",
        "FILLFACTOR",
        "FOR",
        "FOREIGN",
        "FREETEXT",
        "FREETEXTTABLE",
        "FROM",
        "FULL",
        "FUNCTION",
        "GOTO",
        "GRANT",
        "GROUP",
        "HAVING",
        "HOLDLOCK",
        "IDENTITY",
        "IDENTITY_INSERT",
        "IDENTITYCOL",
        "IF",
        "IN",
        "INDEX",
        "INNER",
        "INSERT",
        "INTERSECT",
        "INTO",
        "IS",
        "JOIN",
        "KEY",
        "KILL",
        "LEFT",
        "LIKE",
        "LINENO",
        "LOAD",
        "MERGE",
        "NATIONAL",
        "NOCHECK",
        "NONCLUSTERED",
        "NOT",
        "NULL",
        "NULLIF",
        "OF",
        "OFF",
        "OFFSETS",
        "ON",
        "OPEN",
        "OPENDATASOURCE",
        "OPENQUERY",
        "OPENROWSET",
        "OPENXML",
        "OPTION",
        "OR",
        "ORDER",
        "OUTER",
        "OVER",
        "PERCENT",
        "PIVOT",
        "PLAN",
        "PRECISION",
        "PRIMARY",
        "PRINT",
        "PROC",
        "PROCEDURE",
        "PUBLIC",
        "RAISERROR",
        "READ",
        "READTEXT",
        "RECONFIGURE",
        "REFERENCES",
        "REPLICATION",
        "RESTORE",
        "RESTRICT",
        "RETURN",
        "REVERT",
        "REVOKE",
        "RIGHT",
        "ROLLBACK",
        "ROWCOUNT",
        "ROWGUIDCOL",
        "RULE",
        "SAVE",
        "SCHEMA",
        "SECURITYAUDIT",
        "SELECT",
        "SESSION_USER",
        "SET",
        "SETUSER",
        "SHUTDOWN",
        "SOME",
        "STATISTICS",
        "SYSTEM_USER",
        "TABLE",
        "TABLESAMPLE",
        "TEXTSIZE",
        "THEN",
        "TO",
        "TOP",
        "TRAN",
        "TRANSACTION",
        "TRIGGER",
        "TRUNCATE",
        "TRY_CONVERT",
        "TSEQUAL",
        "UNION",
        "UNIQUE",
        "UNPIVOT",
        "UPDATE",
        "UPDATETEXT",
        "USE",
        "USER",
        "VALUES",
        "VARYING",
        "VIEW",
        "WAITFOR",
        "WHEN",
        "WHERE",
        "WHILE",
        "WITH",
        "WITHIN",
        "WRITETEXT",
    ]
)
"""https://learn.microsoft.com/sql/t-sql/language-elements/reserved-keywords-transact-sql"""

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*)
  | (?P<nstring>[Nn]'(?:[^']|'')*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<bracket>\[(?:[^\]]|\]\])*\])
  | (?P<dquote>"(?:[^"]|"")*")
  | (?P<binary>0[xX][0-9A-Fa-f]*)
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d*)?)
  | (?P<variable>@@?[\w$#@]+)
  | (?P<word>[^\W\d][\w$#@]*|\#\#?[\w$#@]+)
  | (?P<op><>|!=|<=|>=|!<|!>|\+=|-=|[-+*/%&|^~=<>(),.;:?{}!\\$`@\#])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """A piece of SQL: what it is, its meaning (words in upper case), its own text, where it stands."""

    kind: str
    value: str
    text: str
    at: int

    @property
    def reserved(self) -> bool:
        """Whether it is a keyword that no name may be."""
        return self.kind == "word" and self.value in RESERVED

    def near(self) -> TdsError:
        """The syntax error that happens here."""
        if self.kind == "end":
            return error(102, self.text)
        if self.reserved:
            return error(156, self.text)
        return error(102, self.value if self.kind in ("string", "nstring", "name") else self.text)


#: https://learn.microsoft.com/sql/relational-databases/databases/database-identifiers
_LONGEST_NAME = 128


def tokens(sql: str, *, quoted_identifier: bool = True) -> list[Token]:
    """Every token, and an `end` whose text is the last token's. Raises 105 for an open quote, 102 for an odd sign."""
    found: list[Token] = []
    at = 0
    while at < len(sql):
        if sql.startswith("/*", at):
            at = _comment_end(sql, at)
            continue
        match = _TOKEN.match(sql, at)
        if match is None:
            raise error(105, sql[at + 1 :][:128]) if sql[at] in "'\"[" else error(102, sql[at])
        text = match[0]
        if match.lastgroup != "space":
            kind, value = _meaning(match.lastgroup or "", text, quoted_identifier)
            if kind in ("name", "word") and len(value) > _LONGEST_NAME:
                raise error(103, value[:_LONGEST_NAME])
            found.append(Token(kind, value, text, at))
        at = match.end()
    found.append(Token("end", "", found[-1].text if found else "", len(sql)))
    return found


def _meaning(kind: str, text: str, quoted_identifier: bool) -> tuple[str, str]:
    match kind:
        case "nstring":
            return kind, text[2:-1].replace("''", "'")
        case "string":
            return kind, text[1:-1].replace("''", "'")
        case "bracket":
            return "name", text[1:-1].replace("]]", "]")
        case "dquote":
            return "name" if quoted_identifier else "string", text[1:-1].replace('""', '"')
        case "word":
            return kind, text.upper()
        case "variable":
            return kind, text.lower()
        case _:
            return kind, text


def _comment_end(sql: str, start: int) -> int:
    """Comments nest: https://learn.microsoft.com/sql/t-sql/language-elements/slash-star-comment-transact-sql"""
    depth, at = 1, start + 2
    while depth:
        match = re.compile(r"/\*|\*/").search(sql, at)
        if match is None:
            raise TdsError(113, "Missing end comment mark '*/'.", 15)
        depth += 1 if match[0] == "/*" else -1
        at = match.end()
    return at
