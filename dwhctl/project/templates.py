"""Extract SQL and other templates, rendered: Jinja for structure, bind parameters for values.

Templates run in Jinja's sandbox; an undefined name is an error. Whatever goes wrong is told with file and
line.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from dwhctl.errors import ConfigError
from dwhctl.files import read_text

from .context import FILTERS, context
from .sandbox import TemplateLimitError, TemplateSandbox, TemplateTimeError
from .sql import find_binds, split_statements
from .words import nearest, shown_path

if TYPE_CHECKING:
    from .model import Load, Project, Report, Shard
    from .slices import Slice

_UNDEFINED = re.compile(r"'([^']+)' is undefined")


@dataclass(frozen=True, slots=True)
class Query:
    """SQL with `:start` and `:end` still in it, and the values of those that it uses.

    `slice_by` names the column that the bounds are for. Where its type holds instants, the source binds `instants`, the
    same bounds in UTC: a clock that is put back shows some readings twice, and `binds` do not say which is meant.
    """

    sql: str
    binds: dict[str, datetime]
    slice_by: str | None = None
    instants: dict[str, datetime] = field(default_factory=dict)


def render_extract(project: Project, load: Load, shard: Shard, slice: Slice) -> Query:
    """The extract query of this slice; ConfigError names file and line."""
    names = context(project, load, shard, slice.day)
    sql = _one_statement(_rendered(project, load.extract, names), load.extract, project.root)
    binds = _binds(sql, load, slice, project.root)
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


def _one_statement(sql: str, path: Path, root: Path) -> str:
    statements = split_statements(sql)
    if len(statements) == 1:
        return statements[0]  # without a semicolon, so that it can be put into another query
    what = (
        f"holds {len(statements)} statements; an extract is one" if statements else "holds no query; write a"
    )
    raise ConfigError(f"{shown_path(path, root)}: {what} SELECT")


def _binds(sql: str, load: Load, slice: Slice, root: Path) -> dict[str, datetime]:
    known = {"start": slice.start, "end": slice.end}
    values: dict[str, datetime] = {}
    for bind in find_binds(sql):
        value = known.get(bind.name)
        if value is None:
            raise ConfigError(
                f"{_line_of_bind(load.extract, bind.name, root)}: {_unknown_bind(bind.name, load)}"
            )
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
