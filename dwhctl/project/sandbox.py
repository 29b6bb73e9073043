"""The sandbox of templates: what a template makes, and how long it takes, is bounded.

What is big at once, and would hold up a signal as well (`'x' * 10**10`), is weighed before it is made; all that a
rendering makes counts. What is slow in small steps (loops within loops) is ended by a watchdog.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView
from contextlib import contextmanager
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import SandboxedEnvironment

if TYPE_CHECKING:
    from jinja2.runtime import Context

#: What a rendering may make in all: characters of text, or the octets of a list. An extract has a few thousand.
MOST = 64 * 2**20
#: How long a rendering may take.
SECONDS = 10.0
#: How often the watchdog looks, while something is rendered.
_LOOK_SECONDS = 0.1
_POINTER = 8
_MOST_BITS = 100_000
_TEXT = (str, bytes, bytearray)
#: What becomes a list before it is weighed.
_READ_ONCE: tuple[Any, ...] = (GeneratorType, range, MappingView)
_CONTAINERS = (list, tuple, set, frozenset, dict)
#: A width of six digits or more, or one that is an argument: `%*d`, `{:{}}`.
_WIDE_PERCENT = re.compile(r"%[^%a-zA-Z]*(?:\d{6}|\*)")
_WIDE_BRACES = re.compile(r"[:!][^{}]*(?:\d{6}|\{)")


class TemplateLimitError(Exception):
    """A template makes more than it may."""


class TemplateTimeError(Exception):
    """A template takes longer than it may. Raised in the middle of it, by the watchdog."""

    def __str__(self) -> str:
        return f"the template takes longer than {SECONDS:g} s; it loops too often: leave such work to the SQL"


class TemplateSandbox(SandboxedEnvironment):
    """A sandbox whose renderings have an end."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, finalize: Callable[[Any], Any] | None = None, **options: Any) -> None:
        # Nothing is computed when a template is compiled, where Jinja would take the watchdog's error for its own.
        super().__init__(finalize=self._finalized, optimized=False, **options)
        self._finalize = finalize
        self._meter = _Meter()
        # Made-up text has no place in SQL or messages, and may be as long as one likes.
        del self.globals["lipsum"]
        self.filters = {name: self._weighed(name, function) for name, function in self.filters.items()}
        self.code_generator_class = _CodeGenerator
        # Jinja looks it up in the environment: the end of every rendering, macro and block.
        self.concat = self._concatenated  # type: ignore[method-assign]

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Bound what is compiled and rendered in the block. Raise TemplateLimitError or TemplateTimeError in it."""
        self._meter.left = MOST
        try:
            with _WATCHDOG.watching(SECONDS):
                yield
        finally:
            self._meter.left = MOST

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Weigh, then compute."""
        if operator == "*":
            self._weigh(f"'{operator}'", _size_of_product(left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._weigh_bits("'**'", left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, _TEXT):
            self._weigh_format("'%'", left, _WIDE_PERCENT, (right,))
        return self.charged(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as Jinja
        """Weigh what a method of a text would make, then call."""
        name, owner = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
        if isinstance(owner, (*_TEXT, int)) and name in _WEIGHTS:
            args = __self._weigh_call(name, (owner, *args), kwargs)[1:]
        elif name == "dumps":
            __self._weigh_call("tojson", args, kwargs)
        return __self.charged(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Weigh what `format` of a text would make, then format."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @functools.wraps(wrapped)
        def weighed(*args: Any, **kwargs: Any) -> str:
            self._weigh_format("format", value.__self__, _WIDE_BRACES, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        # Without the method's owner, which `call` would take for a method of a text.
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
        """Raise TemplateLimitError for a call that makes too much.

        Give its arguments; what can be read only once is a list.
        """
        args = tuple(list(each) if isinstance(each, _READ_ONCE) else each for each in args)
        for each in (*args, *kwargs.values()):
            if isinstance(each, _CONTAINERS):
                self._weigh(name, _size(each))
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
                " leave such work to the SQL that it makes"
            )

    def _weigh_bits(self, what: str, bits: int) -> None:
        if bits > _MOST_BITS:
            raise TemplateLimitError(f"{what} makes a number of more than {_MOST_BITS:,} bits")

    def charged(self, made: Any) -> Any:
        """Count what was made. Raise TemplateLimitError when it is too much."""
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
            # Raised once more within the template, so that the message can say the line.
            if isinstance(pieces, GeneratorType) and pieces.gi_frame is not None:
                pieces.throw(error)
            raise
        return "".join(texts)


class _Meter(threading.local):
    """What the rendering of this thread may still make."""

    left: float = MOST


class _CodeGenerator(CodeGenerator):
    """Writes what Jinja does not let an environment intercept: `a ~ b` and `a[1:]`."""

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
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


# What calls would make: given the value, and the arguments behind it


def _size(value: Any) -> int:
    """The characters of a value as text, at least; of a container with all that is in it, however often."""
    if isinstance(value, _TEXT):
        return len(value)
    if not isinstance(value, _CONTAINERS):
        return value.bit_length() // 3 if isinstance(value, int) else 1
    total, left = 0, [value]
    while left and total <= MOST:
        for each in _items(left.pop()):
            if isinstance(each, _CONTAINERS):
                left.append(each)
                total += 2
            else:
                total += 2 + _size(each)
    return total


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return (each for pair in container.items() for each in pair)
    return container  # type: ignore[no-any-return]


def _size_of_product(left: Any, right: Any) -> int:
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, (*_TEXT, list, tuple)):
            return len(many) * max(0, times) * (1 if isinstance(many, _TEXT) else _POINTER)
    return 0


def _by_number(_value: Any, arguments: list[Any]) -> float:
    return max((abs(each) for each in arguments if isinstance(each, int | float)), default=0)


def _by_lines(value: Any, arguments: list[Any]) -> float:
    lines = value.count("\n") + value.count("\t") + 1 if isinstance(value, str) else 1
    width = max((_size(each) for each in arguments if isinstance(each, str)), default=0)
    return lines * max(width, _by_number(value, arguments))


def _by_items(value: Any, arguments: list[Any]) -> float:
    """A join: of the filter the first is the list, of the method it is what stands between."""
    items, glue = (arguments[0], value) if isinstance(value, str) and arguments else (value, arguments[:1])
    return _size(items) + (len(items) * _size(glue) if isinstance(items, (*_TEXT, *_CONTAINERS)) else 0)


def _by_matches(value: Any, arguments: list[Any]) -> float:
    old, new = (*arguments, "", "")[:2]
    if not all(isinstance(each, str) for each in (value, old, new)):
        return 0
    matches: int = value.count(old)
    return _size(value) + matches * _size(new)


def _by_table(value: Any, arguments: list[Any]) -> float:
    table = arguments[0] if arguments else None
    longest = max(map(_size, table.values()), default=1) if isinstance(table, dict) else 1
    return _size(value) * longest


def _by_adding(value: Any, arguments: list[Any]) -> float:
    """A sum of lists copies them again and again."""
    values = (*value, *arguments) if isinstance(value, _CONTAINERS) else ()
    lengths = [len(each) for each in values if isinstance(each, _CONTAINERS)]
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
    """Raises TemplateTimeError in a thread whose rendering takes too long, whatever its Python code is at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[int, float] = {}
        self._has_work = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, seconds: float) -> Iterator[None]:
        """End the block after so many seconds."""
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
            # It may have been raised before the line above was done.
            self._forget(me)
            raise

    def _forget(self, thread: int) -> None:
        with self._lock:
            end = self._ends.pop(thread, None)
        if end is not None and time.monotonic() > end - 1:
            _raise_in(thread, None)

    def _watch(self) -> None:
        while self._has_work.wait():
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                now = time.monotonic()
                for thread, end in self._ends.items():
                    if now > end:
                        _raise_in(thread, TemplateTimeError)
                        # Once more, should something in between have swallowed it.
                        self._ends[thread] = now + 1
                if not self._ends:
                    self._has_work.clear()


def _raise_in(thread: int, error: type[Exception] | None) -> None:
    """Have an error raised in a thread at its next step; None takes back one that it has not come to yet."""
    import ctypes

    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_WATCHDOG = _Watchdog()
