"""Templates have an end: what they make, and how long they take, is bounded, wherever they are rendered."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dwhctl.core.errors import ConfigError
from dwhctl.project import sandbox
from dwhctl.project.templates import render_file, render_text
from tests.cli_support import dwh
from tests.support.projects import Sandbox
from tests.unit.projects import a_project, write

#: A list of lists of lists of the same text: small, but not when it is shown.
NESTED = (
    "{% set ns = namespace(x=['x' * 1000]) %}{% for i in range(12) %}{% set ns.x = [ns.x] * 10 %}{% endfor %}"
)
#: What takes too long, step by step.
SLOW = {
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "a loop that shows": "{% for i in range(100000) %}{% for j in range(100000) %}{{ '' }}{% endfor %}{% endfor %}",
    "a loop over pairs": "{% for i in range(100000) %}{{ range(100000)|map('string')|list|length }}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}",
    "a wrap": "{{ ('x' * 5000000)|wordwrap(1) }}",
}
#: One call that is not interrupted: its end may lie behind the template's last line, so that no line is known.
ONE_CALL = "{{ 'abc'|slice(60000000)|list|length }}"
#: What makes too much at once.
BIG = {
    "a product": "{{ 'x' * 10**10 }}",
    "a product of a list": "{{ ([1] * 10**10)|length }}",
    "a product, the other way": "{{ 10**10 * 'x' }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling in a block": (
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}"
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}"
    ),
    "a big block": "{% set x = 'x' * 1000000 %}{% set y %}{% for i in range(100000) %}{{ x }}{% endfor %}{% endset %}",
    "output": "{% set x = 'x' * 1000000 %}{% for i in range(100000) %}{{ x }}{% endfor %}",
    "a list that grows": "{% set l = [] %}{% for i in range(100000) %}{{ l.append('x' * 1000000) }}{% endfor %}",
    "slices that are kept": (
        "{% set x = 'x' * 1000000 %}{% set l = [] %}{% for i in range(100000) %}{{ l.append(x[1:]) }}{% endfor %}"
    ),
    "a filter, computed when the template is compiled": "{{ 'x'|center(10000000000) }}",
    "center": "{{ 'x'.center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "attr": "{{ ('x'|attr('center'))(10**10) }}",
    "map": "{{ ['x']|map('center', 10**10)|list }}",
    "indent": "{{ 'a\nb'|indent(10**10) }}",
    "indent by a text": "{{ ('a\n' * 100000)|indent('x' * 100000) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "join": "{{ range(100000)|join('x' * 100000) }}",
    "join, the method": "{{ ('x' * 100000).join(range(100000)|map('string')) }}",
    "join of one text": "{{ (['x' * 1000000] * 1000000)|join }}",
    "replace": "{{ ('x' * 100000)|replace('x', 'y' * 100000) }}",
    "replace of nothing": "{{ ('x' * 100000).replace('', 'y' * 100000) }}",
    "translate": "{{ ('x' * 100000).translate({120: 'y' * 100000}) }}",
    "percent": "{{ '%10000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10**10, 1) }}",
    "percent many": "{{ ('%s' * 100000) % (('x' * 100000,) * 100000) }}",
    "the filter format": "{{ '%10000000000d'|format(1) }}",
    "format": "{{ '{:>10000000000}'.format('x') }}",
    "format by an argument": "{{ '{:>{}}'.format('x', 10**10) }}",
    "format many": "{{ ('{0}' * 100000).format('x' * 100000) }}",
    "format_map": "{{ '{a:>10000000000}'.format_map({'a': 1}) }}",
    "batch": "{{ [1]|batch(10**10, 0)|list|length }}",
    "sum": "{{ (range(10000)|map('string')|map('list')|sum(start=[]))|length }}",
    "a number's bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "tojson": "{{ [[1]]|tojson(10**9) }}",
    "dumps": "{{ macros.json.dumps([[1]], indent=10**9) }}",
    "a list of lists of lists": (
        NESTED + "{{ ns.x }}"
    ),
    "such a list, joined": (
        NESTED + "{{ ns.x ~ '' }}"
    ),
    "such a list as text": (
        NESTED + "{{ ns.x|string }}"
    ),
    "a range": "{{ range(10**10)|length }}",
    "lipsum": "{{ lipsum(n=1000000000) }}",
}  # fmt: skip


def problem(root: Path, text: str) -> str:
    path = write(root, "sql/template.sql", f"SELECT 1,\n{text}")
    with pytest.raises(ConfigError) as caught:
        render_file(a_project(root), path)
    assert str(caught.value).startswith("sql/template.sql: line "), caught.value
    return str(caught.value)


# Raised in a callback of the garbage collector (hypothesis has one) it is lost, and raised again a second later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("text", list(SLOW.values()), ids=list(SLOW))
def test_a_rendering_that_takes_too_long_is_ended(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    started = time.monotonic()
    assert "line 2: the template takes longer than 0.2 s" in problem(tmp_path, text)
    assert time.monotonic() - started < 5


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_long_call_is_ended_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"sql/template\.sql: .*takes longer than 0\.2 s"):
        render_file(a_project(tmp_path), write(tmp_path, "sql/template.sql", ONE_CALL))


@pytest.mark.parametrize("text", list(BIG.values()), ids=list(BIG))
def test_a_rendering_that_makes_too_much_is_refused(tmp_path: Path, text: str) -> None:
    started = time.monotonic()
    said = problem(tmp_path, text)
    assert any(
        words in said
        for words in ("makes too much text", "makes a number", "has a width", "Range too big", "is undefined")
    ), said
    assert time.monotonic() - started < 5


def test_a_thread_is_ended_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    project, errors, rendered = a_project(tmp_path), [], []

    def slow() -> None:
        try:
            render_text(project, SLOW["nested loops"], "here")
        except ConfigError as error:
            errors.append(str(error))

    def quick() -> None:
        until = time.monotonic() + 0.8
        while time.monotonic() < until:
            rendered.append(render_text(project, "{{ 'x' * 3 }}", "here"))

    threads = [threading.Thread(target=each) for each in (slow, slow, quick)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (
        errors == ["here: the template takes longer than 0.3 s; it loops too often: do such work in SQL"] * 2
    )
    assert set(rendered) == {"xxx"}


def test_what_was_made_counts_for_one_rendering(tmp_path: Path) -> None:
    project = a_project(tmp_path)
    for _ in range(4):
        assert len(render_text(project, "{{ 'x' * 10000000 }}", "here")) == 10_000_000


#: What templates of SQL and messages do, unchanged.
USUAL = {
    "{{ 'x' * 3 ~ 1 ~ none }}": "xxx1None",
    "{{ [1] * 3 + [2] }} {{ 2 ** 10 }} {{ 2.5 * 2 }} {{ 7 % 4 }}": "[1, 1, 1, 2] 1024 5.0 3",
    "{{ '%05.1f|%s|%%' % (1.25, 'a') }} {{ '%s-%s'|format(1, 'b') }}": "001.2|a|% 1-b",
    "{{ '{:>5}|{a!r}'.format('x', a='y') }} {{ '{a}'.format_map({'a': 1}) }}": "    x|'y' 1",
    "{{ ['a', 'b']|join(', ') }} {{ ', '.join(['a', 1]|map('string')) }} {{ [1, 2]|join }} {{ 'abc'|join('-') }}":
        "a, b a, 1 12 a-b-c",
    "{{ [{'n': 'a'}, {'n': 'b'}]|join('+', attribute='n') }}": "a+b",
    "{{ 'a-b'|replace('-', '_') }} {{ 'a-b'.replace('-', '') }} {{ 'x'|center(5) }}| {{ '7'.zfill(3) }}":
        "a_b ab   x  | 007",
    "{{ 'a\nb'|indent(2) }} {{ 'a b c'|wordwrap(3) }}": "a\n  b a b\nc",
    "{{ [1, 2, 3]|sum }} {{ [[1], [2]]|sum(start=[]) }} {{ [3, 1]|sort|list }}": "6 [1, 2] [1, 3]",
    "{{ [1, 2, 3]|batch(2, 0)|list }} {{ [1, 2, 3]|slice(2)|list }} {{ 2.567|round(2) }}":
        "[[1, 2], [3, 0]] [[1, 2], [3]] 2.57",
    "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) ~ m(2) }}{% set x %}{{ m(3) }}{% endset %}{{ x }}": "<1><2><3>",
    "{{ {'a': [1, 'ю']}|tojson }} {{ macros.json.dumps([1], indent=1) }}": '{"a": [1, "\\u044e"]} [\n 1\n]',
    "{{ 10000000000 + 1 }} {{ 123456789012 * 3 }} {{ '%d' % 12345678901 }}": "10000000001 370370367036 12345678901",
    "{% for a, b in {'x': 1}.items() %}{{ loop.index }}{{ a }}{{ b }}{{ loop.length }}{% endfor %}": "1x11",
    "{{ '2020-07-13'[:4] }} {{ [1, 2, 3][1:] }} {{ ('a'|upper) * 2 }}": "2020 [2, 3] AA",
}  # fmt: skip


@pytest.mark.parametrize("text", list(USUAL))
def test_what_is_usual_stays_as_it_was(tmp_path: Path, text: str) -> None:
    assert render_text(a_project(tmp_path), text, "here") == USUAL[text]


def test_config_check_names_file_line_and_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Sandbox(tmp_path, {"server_0": ["abakan"]}).write()
    project.put("sql/orders/extract.sql", "SELECT id, start_time\nFROM orders {{ 'x' * 10**10 }}")
    assert dwh("config", "check", "--project", tmp_path) == 2
    said = capsys.readouterr()
    assert "sql/orders/extract.sql: line 2: '*' makes too much text" in said.out + said.err
    assert "do such work in SQL" in said.out + said.err


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.format.__globals__ }}",
        "{{ ''.center.__self__.__class__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{{ ('{0.__class__}'|attr('format'))(1) }}",
        "{{ '{0.__init__}'['format'](range) }}",
        "{{ [1]|map('{0.__class__}'.format)|list }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ macros.ds_add.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ environment.filters }}",
    ],
)
def test_the_sandbox_is_not_escaped(tmp_path: Path, text: str) -> None:
    said = problem(tmp_path, text)
    assert "unsafe" in said or "undefined" in said or "TypeError" in said or "TemplateRuntimeError" in said, (
        said
    )
