"""Every way in which programs write a secret is masked, and ordinary words are not."""

from __future__ import annotations

import base64
import html
import json
import shlex
import timeit
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dwhctl.core import secrets
from dwhctl.core.secrets import MASKED, mask, remember

WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON with its letters": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "HTML": html.escape,
    "HTML without quotes": lambda text: html.escape(text, quote=False),
    "HTML by numbers": lambda text: "".join(
        f"&#{ord(each)};" if not each.isalnum() else each for each in text
    ),
    "HTML by hex": lambda text: "".join(
        f"&#x{ord(each):X};" if not each.isalnum() else each for each in text
    ),
    "percent": lambda text: quote(text, safe=""),
    "percent but slashes": quote,
    "percent in lower case": lambda text: "".join(
        each if each.isascii() and each.isalnum() else "".join(f"%{octet:02x}" for octet in each.encode())
        for each in text
    ),
    "a form": quote_plus,
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "Python": lambda text: repr(text)[1:-1],
    "bytes of Python": lambda text: repr(text.encode())[2:-1],
    "ASCII of Python": lambda text: ascii(text)[1:-1],
    "SQL": lambda text: text.replace("'", "''"),
    "a name of SQL": lambda text: text.replace('"', '""').replace("]", "]]"),
    "MySQL": lambda text: text.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"'),
    "a shell": lambda text: shlex.quote(text).removeprefix("'").removesuffix("'"),
    "a crontab": lambda text: text.replace("%", r"\%"),
    "upper case": str.upper,
    "lower case": str.lower,
    "upper case, percent": lambda text: quote(text.upper(), safe=""),
    "upper case, JSON": lambda text: json.dumps(text.upper())[1:-1],
}
characters = st.sampled_from("aB3 <>&\"'\\/+%$#@?=:;`~|{}[]^*\u00e9\u043f\u0416\U0001f511\t\x07")
passwords = st.builds(
    "aB{}x".format, st.text(st.one_of(characters, st.characters(codec="ascii")), min_size=3)
)


@given(password=passwords)
@example(password="aB<&>x")
@example(password="aB\x08\r\nx")
@example(password="p%aB'ss\"w/rd?#@\\ \u043f\U0001f511x")
@settings(max_examples=60)
def test_no_way_to_write_a_secret_gets_past(password: str) -> None:
    secrets._secrets.clear()
    secrets._masks = None
    remember(password)
    for name, write in WRITTEN.items():
        assert mask(f"it said: \x01{write(password)}\x02") == f"it said: \x01{MASKED}\x02", name


@pytest.mark.parametrize("before", ["", "a", "ab"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_masked_wherever_it_begins(encode: Callable[[bytes], bytes], before: str) -> None:
    remember("\xff\xfe~~??>>hunter2")
    shown = encode(f"{before}\xff\xfe~~??>>hunter2:x".encode()).decode()
    core = encode(f"{before}\xff\xfe~~??>>hunter2".encode()).decode()[4:-4]
    assert core in shown
    assert core not in mask(f"Authorization: Basic {shown}")


KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("between", ["\n", "\r\n", " ", "\\n", "\\\\n", "%0A", "&#10;"])
def test_a_secret_of_several_lines_is_masked_on_one(between: str) -> None:
    remember(KEY)
    shown = between.join(KEY.strip().split("\n"))
    assert mask(f"<{shown}>") == f"<{MASKED}>"
    assert mask("bad line MIIEvQIBADANBgkqhkiG9w0B here") == f"bad line {MASKED} here"


def test_a_short_secret_does_not_give_itself_away() -> None:
    for short in ("run", "load", "order"):
        remember(short)
    ordinary = "the run of load orders was stopped: orders: reload it; the key order is wrong, user load"
    assert mask(ordinary) == ordinary
    for announced in ("password=run", "PWD: load", '"token": "order"', "password 'run'", "secret=>'load'"):
        assert MASKED in mask(announced)
    assert mask("postgres://etl:run@host/run") == f"postgres://etl:{MASKED}@host/run"
    assert mask("password=running") == "password=running"


@given(
    st.lists(
        st.sampled_from(["orders", "abakan", "2026-07-13", "state/warehouse", "load", "failed"]), max_size=20
    )
)
def test_ordinary_words_stay(words: list[str]) -> None:
    for secret in ("Tr0ub4dor&3", "s3cr3t-w0rd", "p%ss w<rd", "'''\"\"\"", "\\\\\\\\\\\\\\\\"):
        remember(secret)
    text = " ".join(words)
    assert mask(text) == text


def test_masking_is_quick_however_odd_the_secrets_are() -> None:
    for number in range(50):
        remember(f"pass{number}-w<rd/{number}")
    remember("\\" * 12)
    remember("'" * 12)
    hard = "\\" * 200 + "'" * 200 + "\\'" * 100
    mask(hard)
    assert timeit.timeit(lambda: mask(hard), number=1) < 1
    line = "2026-07-13 06:30:01 orders__abakan loaded 120,331 rows in 3.2 s (extract 1.1 s, stage 1.9 s)" * 2
    assert timeit.timeit(lambda: mask(line), number=200) / 200 < 0.002
