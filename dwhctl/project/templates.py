"""Rendering of SQL and other templates: Jinja for structure, bind parameters for values.

Templates run in Jinja's sandbox; an undefined name is an error. Every error has file and line.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
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

from dwhctl.core.errors import ConfigError
from dwhctl.core.sql import find_binds, split_statements
from dwhctl.core.words import nearest, shown_path
from dwhctl.project.context import FILTERS, context
from dwhctl.project.days import make_slice
from dwhctl.project.endpoint import Request
from dwhctl.project.problems import line_of, source_text
from dwhctl.project.query import Query
from dwhctl.project.sandbox import TemplateLimitError, TemplateSandbox, TemplateTimeError

if TYPE_CHECKING:
    from dwhctl.project.days import Slice
    from dwhctl.project.loads import Load, Report, Shard
    from dwhctl.project.model import Project

#: What begins an expression, a statement or a comment of Jinja; a text without it is as it is.
_MARKUP = re.compile(r"\{[{%#]")


def render_extract(project: Project, load: Load, shard: Shard, slice: Slice) -> Query:
    """Return the extract query of this slice. Raise ConfigError with file and line."""
    if load.extract is None:
        names = context(project, load, shard, slice.day)
        return Query("", {}, load.slice_by, request=_request(project, load, slice, names))
    return _render_query(project, load, load.extract, shard, slice)


def render_ready(project: Project, load: Load, shard: Shard, slice: Slice) -> Query:
    """Return the query that says whether this slice may start. Raise ConfigError with file and line."""
    assert load.ready is not None
    return _render_query(project, load, load.ready, shard, slice)


def _render_query(project: Project, load: Load, path: Path, shard: Shard, slice: Slice) -> Query:
    names = context(project, load, shard, slice.day) | _part_interval(project, load, shard, slice)
    statements = split_statements(_rendered(project, path, names))
    if len(statements) != 1:
        kind = "an extract" if path == load.extract else "a ready query"
        what = f"has {len(statements)} statements; {kind} is one" if statements else "has no query; write a"
        raise line_of(path, project.root, None).error(f"{what} SELECT")
    sql = statements[0]  # without a semicolon, so that it can be part of another query
    bounds = {"start": slice.start, "end": slice.end}
    binds: dict[str, datetime] = {}
    for bind in find_binds(sql):
        if (bound := bounds.get(bind.name)) is None:
            raise _bind_error(bind.name, load, path, project.root)
        binds[bind.name] = bound
    known = {"start": slice.start_at, "end": slice.end_at}
    instants = {name: at for name in binds if (at := known[name]) is not None}
    return Query(sql, binds, load.slice_by, instants)


def _part_interval(project: Project, load: Load, shard: Shard, slice: Slice) -> dict[str, datetime]:
    """Return the bounds of a part of a slice that are not those of the slice, by the project's clock.

    A wall clock's are as written, like the day's midnights.
    """
    whole = make_slice(project, load, shard, slice.day)
    names = {}
    for name in ("start", "end"):
        bound, at = getattr(slice, name), getattr(slice, f"{name}_at")
        if bound != getattr(whole, name):
            wall = load.slice_zone == "wall"
            own = bound.replace(tzinfo=project.zone) if wall else at.astimezone(project.zone)
            names[f"data_interval_{name}"] = own
    return names


def _request(project: Project, load: Load, slice: Slice, names: dict[str, Any]) -> Request:
    """Render the endpoint of this slice. Raise ConfigError with file and key."""
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
            return {name: rendered(inner, f"{key}.{name}") for name, inner in value.items()}
        if isinstance(value, list):
            return [rendered(item, key) for item in value]
        if not isinstance(value, str):
            return _parameter(value)
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
        rendered(endpoint.headers, "headers"),
    )


def _parameter(value: Any) -> Any:
    """Write dates and times as ISO 8601 does, a moment with a T."""
    return value.isoformat() if isinstance(value, date | time) else value


def _bind_error(name: str, load: Load, path: Path, root: Path) -> ConfigError:
    if name in {"start", "end"}:
        what = f"':{name}' has no value: '{load.name}' has no slice_by; set slice_by or drop the condition"
    else:
        what = (
            f"':{name}' is not a bind parameter; {nearest(f':{name}', (':start', ':end'))} "
            "(put a text with a colon in quotes, and write a cast as CAST(x AS type) or x::type)"
        )
    source = source_text(path, root)
    found = re.search(rf"(?<![\w:]):{re.escape(name)}\b", source)
    line = source.count("\n", 0, found.start()) + 1 if found else None
    return line_of(path, root, line).error(what)


def render_file(
    project: Project,
    path: Path,
    work: Load | Report | None = None,
    day: date | None = None,
    shard: Shard | None = None,
) -> str:
    """Render a file of SQL of a load or report. Raise ConfigError with file and line."""
    return _rendered(project, path, context(project, work, shard, day))


def render_text(
    project: Project,
    text: str,
    place: str,
    work: Load | Report | None = None,
    day: date | None = None,
    shard: Shard | None = None,
) -> str:
    """Render a text of the configuration. Raise ConfigError with the place."""
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
    """Return a sandbox: undefined names are errors; `finalize` gets each value before it is escaped."""
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
    """Render a file, or `only` one block of it, or all `without` one; it can include files of `folder`.

    Raise ConfigError with file and line.
    """
    source = source_text(path, root)
    if only is None and not _MARKUP.search(source):
        return source
    try:
        with environment.bounded():
            return _render(_template(environment, source, str(path)), names, only, without)
    except TemplateSyntaxError as error:
        file = Path(error.filename) if error.filename else path
        raise line_of(file, root, error.lineno).error(_syntax(error)) from None
    except Exception as error:
        # A template may call anything, which may raise anything.
        what = _what(error, names, shown_path(folder, root))
        raise ConfigError(f"{_line(error, path, root, folder)}: {what}") from None


def _render(template: Template, names: Mapping[str, Any], only: str | None, without: str | None) -> str:
    values = template.new_context(dict(names))
    if without is not None:
        # First in the list, so it overrides the block of this template and of one that it extends.
        values.blocks[without] = [lambda _: iter(())]
    render = template.root_render_func if only is None else template.blocks[only]
    try:
        return template.environment.concat(render(values))
    except Exception:
        template.environment.handle_exception()  # as Template.render: sets the lines of the file


def _rendered(project: Project, path: Path, names: Mapping[str, Any]) -> str:
    folder = project.root / "sql"
    return render_in(_environment(folder), folder, path, project.root, names)


@functools.lru_cache(maxsize=8)
def _environment(folder: Path) -> TemplateSandbox:
    return new_environment(FileSystemLoader(folder), autoescape=False)


@functools.lru_cache(maxsize=2048)
def _template(environment: TemplateSandbox, source: str, file: str) -> Template:
    code = environment.compile(source, filename=file)
    return Template.from_code(environment, code, environment.make_globals(None))


def _line(error: BaseException, path: Path, root: Path, folder: Path) -> str:
    """Return file and line of the template that raised the error: Jinja writes them into the traceback."""
    place = line_of(path, root, None)
    frame = error.__traceback__
    while frame is not None:
        file = Path(frame.tb_frame.f_code.co_filename)
        if file == path or file.is_relative_to(folder):
            place = line_of(file, root, frame.tb_lineno)
        frame = frame.tb_next
    return str(place)


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
    match = re.fullmatch(r"'([^']+)' is undefined", message)
    return f"{message}; {nearest(match[1], names)}" if match else message


def place_of(
    path: Path, root: Path, rendered: str, statement: str, line: int | None, render: str = ""
) -> str:
    """Return the place of a line of a statement as `sql/orders/extract.sql (line 3)`, as far as it is known.

    `rendered` is the rendered text of the file, which includes the statement; `render` is the command that shows it.
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
    """Return the file's line that became this line; None if the rendering added or removed lines around it."""
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, source, rendered, autojunk=False).get_opcodes():
        if j1 < number <= j2:
            return number - j1 + i1 if tag == "equal" or i2 - i1 == j2 - j1 else None
    return None
