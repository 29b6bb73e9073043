"""The sandbox of templates: their output and their time are limited.

A single big result, which would also block signals (`'x' * 10**10`), is estimated before it is made; all results of a
rendering count together. A watchdog ends what is slow in small steps (loops within loops).
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView
from contextlib import contextmanager
from itertools import chain
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import SandboxedEnvironment

if TYPE_CHECKING:
    from jinja2.runtime import Context

#: The size of all results of a rendering: characters of texts, octets of lists. An extract has a few thousand.
MOST = 64 * 2**20
#: The time limit of a rendering.
SECONDS = 10.0
#: The interval of the watchdog during a rendering.
_CHECK_SECONDS = 0.1
_POINTER = 8
_MOST_BITS = 100_000
_TEXT = (str, bytes, bytearray)
#: What becomes a list before its size is estimated.
_READ_ONCE: tuple[Any, ...] = (GeneratorType, range, MappingView)
_CONTAINERS = (list, tuple, set, frozenset, dict)
#: A width of six digits or more, or one that is an argument: `%*d`, `{:{}}`.
_WIDE_PERCENT = re.compile(r"%[^%a-zA-Z]*(?:\d{6}|\*)")
_WIDE_BRACES = re.compile(r"[:!][^{}]*(?:\d{6}|\{)")


class TemplateLimitError(Exception):
    """The results of a template are too big."""


class TemplateTimeError(Exception):
    """A template takes too long. The watchdog raises it in the thread of the rendering."""

    def __str__(self) -> str:
        return f"the template takes longer than {SECONDS:g} s; it loops too often: do such work in SQL"


class TemplateSandbox(SandboxedEnvironment):
    """A sandbox with limited renderings."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, finalize: Callable[[Any], Any] | None = None, **options: Any) -> None:
        # Without the optimizer, which evaluates constants and would handle the watchdog's error as its own.
        super().__init__(finalize=self._finalized, optimized=False, **options)
        self._finalize = finalize
        self._meter = _Meter()
        # It makes random text of any length.
        del self.globals["lipsum"]
        self.filters = {name: self._weighed(name, function) for name, function in self.filters.items()}
        self.code_generator_class = _CodeGenerator
        # Jinja calls it at the end of every rendering, macro and block.
        self.concat = self._concatenated  # type: ignore[method-assign]

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Limit what the block compiles and renders: raise TemplateLimitError or TemplateTimeError in it."""
        self._meter.left = MOST
        try:
            with _WATCHDOG.watching(SECONDS):
                yield
        finally:
            self._meter.left = MOST

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Estimate the size of the result, then compute it."""
        if operator == "*":
            self._weigh(f"'{operator}'", _size_of_product(left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._weigh_bits("'**'", left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, _TEXT):
            self._weigh_format("'%'", left, _WIDE_PERCENT, (right,))
        return self.charged(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as Jinja
        """Estimate the size of the result of a text's method, then call it."""
        name, owner = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
        if isinstance(owner, (*_TEXT, int)) and name in _WEIGHTS:
            args = __self._weigh_call(name, (owner, *args), kwargs)[1:]
        elif name == "dumps":
            __self._weigh_call("tojson", args, kwargs)
        return __self.charged(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Estimate the size of the result of `format`, then format."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @functools.wraps(wrapped)
        def weighed(*args: Any, **kwargs: Any) -> str:
            self._weigh_format("format", value.__self__, _WIDE_BRACES, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        # A plain function, which `call` does not treat as a method of a text.
        return weighed

    def joined(self, join: Callable[[Iterable[Any]], str], values: tuple[Any, ...]) -> str:
        """Join values for the operator `~`."""
        self._weigh("'~'", sum(map(_size, values)))
        text: str = self.charged(join(values))
        return text

    # Weighing

    @pass_context
    def _finalized(self, _context: Context, value: Any) -> Any:
        if isinstance(value, _CONTAINERS):
            self._weigh("a list", _size(value))
        return value if self._finalize is None else self._finalize(value)

    def _weighed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        has_context = hasattr(function, "jinja_pass_arg")

        @functools.wraps(function)
        def weighed(*args: Any, **kwargs: Any) -> Any:
            own = args[:1] if has_context else ()
            values = self._weigh_call(name, args[len(own) :], kwargs)
            return self.charged(function(*own, *values, **kwargs))

        return weighed

    def _weigh_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the arguments, iterators as lists. Raise TemplateLimitError if the result would be too big."""
        args = tuple(list(value) if isinstance(value, _READ_ONCE) else value for value in args)
        for value in (*args, *kwargs.values()):
            if isinstance(value, _CONTAINERS):
                self._weigh(name, _size(value))
        if name == "format" and args and isinstance(args[0], _TEXT):
            self._weigh_format(name, args[0], _WIDE_PERCENT, (*args[1:], *kwargs.values()))
        elif args and (weigh := _WEIGHTS.get(name)) is not None:
            self._weigh(name, weigh(args[0], [*args[1:], *kwargs.values()]))
        return args

    def _weigh_format(
        self, what: str, form: str | bytes | bytearray, wide: re.Pattern[str], values: tuple[Any, ...]
    ) -> None:
        text = form if isinstance(form, str) else form.decode("latin-1")
        if wide.search(text):
            raise TemplateLimitError(f"{what} has a width of six digits or more, or one that is an argument")
        fields = text.count("%") + text.count("{")
        self._weigh(what, len(text) + fields * max(map(_size, values), default=0))

    def _weigh(self, what: str, size: float) -> None:
        if size > self._meter.left:
            raise TemplateLimitError(
                f"{what} makes too much text: a template may make {MOST // 2**20} MiB in all;"
                " do such work in SQL"
            )

    def _weigh_bits(self, what: str, bits: int) -> None:
        if bits > _MOST_BITS:
            raise TemplateLimitError(f"{what} makes a number of more than {_MOST_BITS:,} bits")

    def charged(self, made: Any) -> Any:
        """Count a result. Raise TemplateLimitError when it is too big."""
        if isinstance(made, _TEXT):
            size = len(made)
        elif isinstance(made, _CONTAINERS):
            size = _POINTER * len(made)
        else:
            if type(made) is int:
                self._weigh_bits("the template", made.bit_length())
            return made
        self._weigh("the template", size)
        self._meter.left -= size
        return made

    def _concatenated(self, pieces: Iterable[str]) -> str:
        texts: list[str] = []
        try:
            for piece in pieces:
                texts.append(self.charged(piece))
        except (TemplateLimitError, TemplateTimeError) as error:
            # Raised again inside the template, so that the message has its line.
            if isinstance(pieces, GeneratorType) and pieces.gi_frame is not None:
                pieces.throw(error)
            raise
        return "".join(texts)


class _Meter(threading.local):
    """The size that is left to the rendering of this thread."""

    left: float = MOST


class _CodeGenerator(CodeGenerator):
    """Intercept what an environment of Jinja cannot: `a ~ b` and `a[1:]`."""

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802 - as Jinja
        is_part = isinstance(node.arg, nodes.Slice)
        self.write("environment.charged(" * is_part)
        super().visit_Getitem(node, frame)
        self.write(")" * is_part)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - as Jinja
        join = "markup_join" if frame.eval_ctx.autoescape else "str_join"
        if frame.eval_ctx.volatile:
            join = "(markup_join if context.eval_ctx.volatile else str_join)"
        self.write(f"environment.joined({join}, (")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


# The estimated size of a call's result, by the value and the arguments after it


def _size(value: Any) -> int:
    """Return the least number of characters of a value as text; repeated items of a container count each time."""
    if isinstance(value, _TEXT):
        return len(value)
    if not isinstance(value, _CONTAINERS):
        return value.bit_length() // 3 if isinstance(value, int) else 1
    total, left = 0, [value]
    while left and total <= MOST:
        container = left.pop()
        for item in chain.from_iterable(container.items()) if isinstance(container, dict) else container:
            if isinstance(item, _CONTAINERS):
                left.append(item)
                total += 2
            else:
                total += 2 + _size(item)
    return total


def _size_of_product(left: Any, right: Any) -> int:
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, (*_TEXT, list, tuple)):
            return len(many) * max(0, times) * (1 if isinstance(many, _TEXT) else _POINTER)
    return 0


def _by_number(_value: Any, arguments: list[Any]) -> float:
    return max((abs(number) for number in arguments if isinstance(number, int | float)), default=0)


def _by_lines(value: Any, arguments: list[Any]) -> float:
    lines = value.count("\n") + value.count("\t") + 1 if isinstance(value, str) else 1
    width = max((_size(text) for text in arguments if isinstance(text, str)), default=0)
    return lines * max(width, _by_number(value, arguments))


def _by_items(value: Any, arguments: list[Any]) -> float:
    """Return the size of a join: the value is the list of the filter, or the separator of the method."""
    items, glue = (arguments[0], value) if isinstance(value, str) and arguments else (value, arguments[:1])
    return _size(items) + (len(items) * _size(glue) if isinstance(items, (*_TEXT, *_CONTAINERS)) else 0)


def _by_matches(value: Any, arguments: list[Any]) -> float:
    old, new = (*arguments, "", "")[:2]
    if not all(isinstance(text, str) for text in (value, old, new)):
        return 0
    matches: int = value.count(old)
    return _size(value) + matches * _size(new)


def _by_table(value: Any, arguments: list[Any]) -> float:
    table = arguments[0] if arguments else None
    longest = max(map(_size, table.values()), default=1) if isinstance(table, dict) else 1
    return _size(value) * longest


def _by_adding(value: Any, arguments: list[Any]) -> float:
    """Return the size of a sum of lists, which copies them for each item."""
    values = (*value, *arguments) if isinstance(value, _CONTAINERS) else ()
    lengths = [len(item) for item in values if isinstance(item, _CONTAINERS)]
    return _POINTER * len(lengths) * sum(lengths)


_WEIGHTS: dict[str, Callable[[Any, list[Any]], float]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "to_bytes", "batch", "slice", "round"), _by_number),
    **dict.fromkeys(("indent", "expandtabs"), _by_lines),
    "tojson": lambda value, arguments: _size(value) * max(1, _by_lines("", arguments)),
    "join": _by_items,
    "replace": _by_matches,
    "translate": _by_table,
    "sum": _by_adding,
}


class _Watchdog:
    """Raise TemplateTimeError in threads whose rendering takes too long, wherever their Python code is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[int, float] = {}
        self._has_work = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, seconds: float) -> Iterator[None]:
        """Raise TemplateTimeError in the block after so many seconds."""
        me = threading.get_ident()
        with self._lock:
            self._ends[me] = time.monotonic() + seconds
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="templates", daemon=True)
                self._thread.start()
            self._has_work.set()
        try:
            try:
                yield
            finally:
                self._forget(me)
        except TemplateTimeError:
            # It may have been raised before _forget was done.
            self._forget(me)
            raise

    def _forget(self, thread: int) -> None:
        with self._lock:
            end = self._ends.pop(thread, None)
        if end is not None and time.monotonic() > end - 1:
            _raise_in(thread, None)

    def _watch(self) -> None:
        while self._has_work.wait():
            time.sleep(_CHECK_SECONDS)
            with self._lock:
                now = time.monotonic()
                for thread, end in self._ends.items():
                    if now > end:
                        _raise_in(thread, TemplateTimeError)
                        # Raise it again in case the template caught it.
                        self._ends[thread] = now + 1
                if not self._ends:
                    self._has_work.clear()


def _raise_in(thread: int, error: type[Exception] | None) -> None:
    """Raise an error in a thread at its next step; None cancels one that is pending."""
    import ctypes

    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_WATCHDOG = _Watchdog()
