"""Extract SQL and other templates, rendered: Jinja for structure, bind parameters for values.

Templates run in Jinja's sandbox; an undefined name is an error. Whatever goes wrong is told with file and
line.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import (
    BaseLoader,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateNotFound,
    TemplateSyntaxError,
    UndefinedError,
)
from jinja2.exceptions import SecurityError

from dwhctl.core.errors import AttemptError, ConfigError
from dwhctl.core.files import read_text
from dwhctl.core.sql import find_binds, split_statements
from dwhctl.core.words import nearest, shown_path
from dwhctl.project.context import FILTERS, context
from dwhctl.project.endpoint import Request
from dwhctl.project.sandbox import TemplateLimitError, TemplateSandbox, TemplateTimeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load, Report, Shard
    from dwhctl.project.model import Project


_UNDEFINED = re.compile(r"'([^']+)' is undefined")


@dataclass(frozen=True, slots=True)
class Query:
    """SQL with `:start` and `:end` still in it, and the values of those that it uses.

    `slice_by` names the column that the bounds are for. Where its type holds instants, the source binds `instants`, the
    same bounds in UTC: a clock that is put back shows some readings twice, and `binds` do not say which is meant.
    An HTTP source has a `request` in place of SQL.
    """

    sql: str
    binds: dict[str, datetime]
    slice_by: str | None = None
    instants: dict[str, datetime] = field(default_factory=dict)
    request: Request | None = None


def render_extract(project: Project, load: Load, shard: Shard, slice: Slice) -> Query:
    """The extract query of this slice; ConfigError names file and line."""
    names = context(project, load, shard, slice.day)
    if load.extract is None:
        return Query("", {}, load.slice_by, request=_request(project, load, slice, names))
    sql = _one_statement(_rendered(project, load.extract, names), load.extract, project.root)
    binds = _binds(sql, load.extract, load, slice, project.root)
    known = {"start": slice.start_at, "end": slice.end_at}
    instants = {name: at for name in binds if (at := known[name]) is not None}
    return Query(sql, binds, load.slice_by, instants)


def render_file(
    project: Project,
    path: Path,
    work: Load | Report | None = None,
    day: date | None = None,
    shard: Shard | None = None,
) -> str:
    """A file of SQL of a load or report, rendered; ConfigError names file and line."""
    return _rendered(project, path, context(project, work, shard, day))


def render_text(
    project: Project,
    text: str,
    place: str,
    work: Load | Report | None = None,
    day: date | None = None,
    shard: Shard | None = None,
) -> str:
    """A text that stands in no file of SQL, rendered; ConfigError names the place."""
    names = context(project, work, shard, day)
    environment = _environment(project.root / "sql")
    try:
        with environment.bounded():
            return environment.from_string(text).render(names)
    except Exception as error:
        raise ConfigError(f"{place}: {_what(error, names, 'sql')}") from None


def new_environment(
    loader: BaseLoader, finalize: Callable[[Any], Any] | None = None, *, autoescape: bool
) -> TemplateSandbox:
    """A sandbox for templates: undefined names are errors; `finalize` sees each value before it is escaped."""
    environment = TemplateSandbox(
        loader=loader,
        undefined=StrictUndefined,
        autoescape=autoescape,
        finalize=finalize,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    return environment


def render_in(
    environment: TemplateSandbox,
    folder: Path,
    path: Path,
    root: Path,
    names: Mapping[str, Any],
    *,
    only: str | None = None,
    without: str | None = None,
) -> str:
    """Render a file, or `only` one block of it, or all `without` one; `folder` is where it includes others from.

    Raise ConfigError with file and line.
    """
    source = source_text(path, root)
    try:
        with environment.bounded():
            return _written(_template(environment, source, str(path)), names, only, without)
    except TemplateSyntaxError as error:
        file = Path(error.filename) if error.filename else path
        raise ConfigError(f"{shown_path(file, root)}: line {error.lineno}: {_syntax(error)}") from None
    except Exception as error:
        # Whatever a template calls may raise anything; the cause is shown in words, with the line.
        what = _what(error, names, shown_path(folder, root))
        raise ConfigError(f"{_line(error, path, root, folder)}: {what}") from None


def _written(template: Template, names: Mapping[str, Any], only: str | None, without: str | None) -> str:
    values = template.new_context(dict(names))
    if without is not None:
        # Before the block of this template, and of one that it extends.
        values.blocks[without] = [lambda _: iter(())]
    render = template.root_render_func if only is None else template.blocks[only]
    try:
        return template.environment.concat(render(values))
    except Exception:
        template.environment.handle_exception()  # as Template.render: the lines are those of the file


def _request(project: Project, load: Load, slice: Slice, names: dict[str, Any]) -> Request:
    """Render the endpoint of this slice; ConfigError names file and key."""
    endpoint = load.endpoint
    assert endpoint is not None
    if slice.start_at is not None and slice.end_at is not None:
        # The bounds of the slice, which are not the project's midnights where its clock is another one.
        zone = ZoneInfo(slice.zone)
        bounds = {"start": slice.start_at.astimezone(zone), "end": slice.end_at.astimezone(zone)}
        names |= {f"data_interval_{name}": bound for name, bound in bounds.items()}
    place = f"config/loads/{load.shadow_of or load.name}.toml: endpoint"

    def rendered(value: Any, key: str, finalize: Callable[[Any], Any] = _parameter) -> Any:
        if isinstance(value, Mapping):
            return {name: rendered(each, f"{key}.{name}") for name, each in value.items()}
        if isinstance(value, list):
            return [rendered(each, key) for each in value]
        if not isinstance(value, str):
            return value
        environment = new_environment(FileSystemLoader(project.root / "sql"), finalize, autoescape=False)
        try:
            with environment.bounded():
                return environment.from_string(value).render(names)
        except Exception as error:
            raise ConfigError(f"{place}.{key}: {_what(error, names, 'sql')}") from None

    body_key = "json" if endpoint.json_ is not None else "data"
    return Request(
        endpoint,
        load.columns,
        rendered(endpoint.path, "path", lambda value: quote(str(_parameter(value)), safe="")),
        rendered(endpoint.params, "params"),
        rendered(endpoint.json_ if endpoint.json_ is not None else endpoint.data, body_key),
    )


def _parameter(value: Any) -> Any:
    """Write a moment as ISO 8601 does, with a T."""
    return value.isoformat() if isinstance(value, datetime) else value


def _one_statement(sql: str, path: Path, root: Path) -> str:
    statements = split_statements(sql)
    if len(statements) == 1:
        return statements[0]  # without a semicolon, so that it can be put into another query
    what = (
        f"holds {len(statements)} statements; an extract is one" if statements else "holds no query; write a"
    )
    raise ConfigError(f"{shown_path(path, root)}: {what} SELECT")


def _binds(sql: str, path: Path, load: Load, slice: Slice, root: Path) -> dict[str, datetime]:
    known = {"start": slice.start, "end": slice.end}
    values: dict[str, datetime] = {}
    for bind in find_binds(sql):
        value = known.get(bind.name)
        if value is None:
            raise ConfigError(f"{_line_of_bind(path, bind.name, root)}: {_unknown_bind(bind.name, load)}")
        values[bind.name] = value
    return values


def _unknown_bind(name: str, load: Load) -> str:
    if name in {"start", "end"}:
        return f"':{name}' has no value: '{load.name}' has no slice_by; set slice_by or drop the condition"
    return (
        f"':{name}' is no bind parameter; {nearest(f':{name}', (':start', ':end'))} "
        "(a text with a colon stands in quotes, a cast is written CAST(x AS type) or x::type)"
    )


def _line_of_bind(path: Path, name: str, root: Path) -> str:
    shown = shown_path(path, root)
    source = source_text(path, root)
    found = re.search(rf"(?<![\w:]):{re.escape(name)}\b", source)
    return f"{shown}: line {source.count(chr(10), 0, found.start()) + 1}" if found else shown


def _rendered(project: Project, path: Path, names: Mapping[str, Any]) -> str:
    folder = project.root / "sql"
    return render_in(_environment(folder), folder, path, project.root, names)


def source_text(path: Path, root: Path) -> str:
    try:
        return read_text(path, "utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{shown_path(path, root)}: the file is missing; create it") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{shown_path(path, root)}: line {line}: not UTF-8; save the file in the encoding UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{shown_path(path, root)}: the file cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=8)
def _environment(folder: Path) -> TemplateSandbox:
    return new_environment(FileSystemLoader(folder), autoescape=False)


@functools.lru_cache(maxsize=256)
def _template(environment: TemplateSandbox, source: str, file: str) -> Template:
    code = environment.compile(source, filename=file)
    return Template.from_code(environment, code, environment.make_globals(None))


def _line(error: BaseException, path: Path, root: Path, folder: Path) -> str:
    """File and line of the template in which this was raised: Jinja writes them into the traceback."""
    place = shown_path(path, root)
    templates = {str(path): path} | {str(each): each for each in _included(error, folder)}
    frame = error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file in templates:
            place = f"{shown_path(templates[file], root)}: line {frame.tb_lineno}"
        frame = frame.tb_next
    return place


def _included(error: BaseException, folder: Path) -> list[Path]:
    files, frame = [], error.__traceback__
    while frame is not None:
        file = Path(frame.tb_frame.f_code.co_filename)
        if file.is_relative_to(folder):
            files.append(file)
        frame = frame.tb_next
    return files


def _syntax(error: TemplateSyntaxError) -> str:
    message = (error.message or "the template is wrong").rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; correct the template there"


def _what(error: Exception, names: Mapping[str, Any], folder: str) -> str:
    if isinstance(error, ConfigError | TemplateLimitError | TemplateTimeError):
        return str(error)
    if isinstance(error, TemplateSyntaxError):
        return _syntax(error)
    if isinstance(error, UndefinedError):
        return _undefined(str(error.message), names)
    if isinstance(error, SecurityError):
        return f"{str(error).rstrip('.')}; a template may not do this"
    if isinstance(error, TemplateNotFound):
        return f"the template '{error.name}' is missing; name it relative to {folder}/"
    return f"{error} ({type(error).__name__}); correct the template there"


def _undefined(message: str, names: Mapping[str, Any]) -> str:
    match = _UNDEFINED.fullmatch(message)
    if not match:
        return message
    return f"'{match[1]}' is undefined; {nearest(match[1], names)}"


#: What messages name: in quotes, or as DuckDB does without.
_NAMED = re.compile(r"\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'|with name (\S{1,200}) ")
#: What follows is a proposal, and not what is wrong.
_PROPOSAL = re.compile(r"did you mean|candidate", re.IGNORECASE)


def named_line(sql: str, message: str, told: int | None = None) -> int | None:
    """Return the line of the statement, from 1, that has what the message names.

    `told` is the line that the server tells. It decides where several lines have the name; a first line does not,
    for some errors come with that whatever line is wrong.
    """
    lines = sql.split("\n")
    for name in map("".join, _NAMED.findall(_PROPOSAL.split(message)[0])):
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        found = [number for number, line in enumerate(lines, 1) if word.search(line)]
        if len(found) == 1:
            return found[0]
        if told in found and told != 1:
            return told
    return None


def place_of(
    path: Path, root: Path, rendered: str, statement: str, line: int | None, render: str = ""
) -> str:
    """Say where a line of a statement is, as `sql/orders/extract.sql (line 3)`, as far as that is known.

    `rendered` is the file's text as rendered, which the statement is a part of; `render` is the command that shows it.
    """
    shown = shown_path(path, root)
    at = rendered.find(statement)
    if line is None or not statement or at < 0:
        return shown
    number = rendered.count("\n", 0, at) + line
    try:
        found = _line_in_file(source_text(path, root).split("\n"), rendered.split("\n"), number)
    except ConfigError:
        return shown
    if found is not None:
        return f"{shown} (line {found})"
    return (
        f"{shown} (line {line} of the SQL that {render} shows)"
        if render
        else f"{shown} (line {number}, rendered)"
    )


def _line_in_file(source: Sequence[str], rendered: Sequence[str], number: int) -> int | None:
    """Return the file's line that became this line; None where the rendering added or took away lines around it."""
    for tag, i1, i2, j1, j2 in _blocks(source, rendered):
        if j1 < number <= j2:
            return number - j1 + i1 if tag == "equal" or i2 - i1 == j2 - j1 else None
    return None


def _blocks(source: Sequence[str], rendered: Sequence[str]) -> Iterator[tuple[str, int, int, int, int]]:
    yield from SequenceMatcher(None, source, rendered, autojunk=False).get_opcodes()


@contextmanager
def at_statement(statement: str) -> Iterator[None]:
    """Keep with an error which statement of the user's it is about, and the line of it that the message names."""
    try:
        yield
    except AttemptError as error:
        error.statement = statement
        error.line = named_line(statement, str(error), error.line)
        raise
