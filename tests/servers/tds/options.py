"""The options of SET."""

from __future__ import annotations

#: https://learn.microsoft.com/sql/t-sql/statements/set-statements-transact-sql
SWITCHES = frozenset(
    [
        "ANSI_DEFAULTS",
        "ANSI_NULL_DFLT_OFF",
        "ANSI_NULL_DFLT_ON",
        "ANSI_NULLS",
        "ANSI_PADDING",
        "ANSI_WARNINGS",
        "ARITHABORT",
        "ARITHIGNORE",
        "CONCAT_NULL_YIELDS_NULL",
        "CURSOR_CLOSE_ON_COMMIT",
        "FMTONLY",
        "FORCEPLAN",
        "IMPLICIT_TRANSACTIONS",
        "NOCOUNT",
        "NOEXEC",
        "NUMERIC_ROUNDABORT",
        "PARSEONLY",
        "QUOTED_IDENTIFIER",
        "REMOTE_PROC_TRANSACTIONS",
        "SHOWPLAN_ALL",
        "SHOWPLAN_TEXT",
        "SHOWPLAN_XML",
        "XACT_ABORT",
    ]
)
VALUES = frozenset(
    {
        "CONTEXT_INFO",
        "DATEFIRST",
        "DATEFORMAT",
        "DEADLOCK_PRIORITY",
        "LANGUAGE",
        "LOCK_TIMEOUT",
        "QUERY_GOVERNOR_COST_LIMIT",
        "ROWCOUNT",
        "TEXTSIZE",
    }
)

#: The order of a day's parts, and the first day of the week: https://learn.microsoft.com/sql/relational-databases/
#: system-compatibility-views/sys-syslanguages-transact-sql
LANGUAGES = {
    "us_english": ("mdy", 7),
    "british": ("dmy", 1),
    "deutsch": ("dmy", 1),
    "russian": ("dmy", 1),
    "русский": ("dmy", 1),
}
DATE_FORMATS = ("mdy", "dmy", "ymd", "ydm", "myd", "dym")
