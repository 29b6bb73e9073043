"""The records of an answer: JSON, read piece by piece where its selector is a plain path, or CSV.

JSON is read by Python's own scanner, one record at a time. It keeps every digit of a number (a Decimal, an int),
refuses NaN and what is nested too deeply, and keeps half a character as such, so that it can be refused. (yajl, which
ijson uses, writes a question mark in its place, and takes all memory for 100,000 brackets.)
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, NoReturn

from dwhctl.core.errors import QueryError, SourceError
from dwhctl.project.endpoint import path_steps
from dwhctl.systems.http.types import MISSING, TWICE

if TYPE_CHECKING:
    from dwhctl.project.endpoint import Endpoint

_CHUNK = 256 * 1024
_END = "\0"
#: A body whose selector is not a plain path is held in memory as a whole, which takes ten times its size.
MOST_WHOLE = 16 * 2**20


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        found |= {name: TWICE for name, times in Counter(name for name, _ in pairs).items() if times > 1}
    return found


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_object)


class JsonReader:
    """Reads a JSON document from a file, value by value."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("strict")
        self._text = ""
        self._at = 0
        self._ended = False

    def _more(self) -> bool:
        """Read on; at least as much as is left, so that a long value is not scanned again and again."""
        if self._ended:
            return False
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not chunk
        self._text = self._text[self._at :] + self._decode.decode(chunk, final=self._ended)
        self._at = 0
        return True

    def peek(self) -> str:
        """Return the next character that is no space, '' at the end."""
        while True:
            while self._at < len(self._text):
                if (character := self._text[self._at]) not in " \t\n\r":
                    return character
                self._at += 1
            if not self._more():
                return ""

    def take(self, wanted: str) -> str:
        """Read one of the wanted characters. Raise ValueError."""
        character = self.peek()
        if not character or character not in wanted:
            raise ValueError(
                "the JSON ends early" if not character else f"there is no {wanted} where JSON has one"
            )
        self._at += 1
        return character

    def value(self) -> Any:
        """Read the next value whole. Raise ValueError."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    is_markup = self._text[self._at : self._at + 1] == "<"
                    what = "it is HTML or XML" if is_markup else "the JSON ends early or is damaged"
                    raise ValueError(what) from error
                continue
            # A number at the end of what was read may go on, also behind a point or "e+".
            if len(self._text) - end <= len("e+") and self._more():
                continue
            self._at = end
            return value

    def end(self) -> None:
        """Raise ValueError when something follows."""
        if self.peek():
            raise ValueError("something follows it; of several documents (NDJSON) none is read")


class JsonRecords:
    """The records of one JSON body. After the last one, `rest` is the document without them."""

    def __init__(self, endpoint: Endpoint, file: IO[bytes], size: int, paths: Sequence[str]) -> None:
        self.rest: Any = None
        self._file = file
        self._selector = endpoint.data_selector
        self._may_lack = endpoint.may_lack_records
        steps = path_steps(self._selector)
        self._steps = None if steps is None or any(isinstance(step, int) for step in steps) else steps
        self._read_by = [path_steps(path) for path in paths]
        if self._steps is None or self._is_inside():
            self._steps = None
            if size > MOST_WHOLE:
                raise QueryError(
                    f"the answer has {size:,} octets, and its paths are such that it must be held in memory whole"
                    f" (at most {MOST_WHOLE:,}); write data_selector as a path of names, or ask for smaller pages"
                )

    def _is_inside(self) -> bool:
        """Return whether something else is read out of the records, or by more than names."""
        assert self._steps is not None
        names = self._steps[: self._steps.index("*")] if "*" in self._steps else self._steps
        return any(
            path is None
            or path[: len(names)] == names
            or "*" in path
            or any(isinstance(each, int) for each in path)
            for path in self._read_by
        )

    def __iter__(self) -> Iterator[Any]:
        """Yield the records. Raise SourceError for what is no JSON, QueryError where nothing is at the selector."""
        try:
            yield from self._records()
        except UnicodeError:
            raise SourceError("the answer is no whole JSON: it is not UTF-8") from None
        except ArithmeticError:
            raise SourceError("the answer has a number whose exponent is too large for any type") from None
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise SourceError(f"the answer is no whole JSON: {reason[:200]}") from None

    def _records(self) -> Iterator[Any]:
        if self._steps is None:
            yield from self._of_whole()
            return
        reader = JsonReader(self._file)
        self._found = False
        yield from self._walk(reader, self._steps, self)
        reader.end()
        if not (self._found or self._may_lack):
            raise self._nothing()

    def _of_whole(self) -> Iterator[Any]:
        reader = JsonReader(self._file)
        self.rest = reader.value()
        reader.end()
        found = find_all(self.rest, self._selector)
        if not (found or self._may_lack or has_list(self.rest, self._selector)):
            raise self._nothing()
        if len(found) == 1 and isinstance(found[0], list):
            found = found[0]
        yield from (each for each in found if each is not None)

    def _walk(self, reader: JsonReader, steps: Sequence[str | int], holder: Any) -> Iterator[Any]:
        """Yield what is at the steps; put everything else into `rest`."""
        if not steps:
            yield from self._items(reader)
        elif steps[0] == "*":
            self._found = True
            if reader.peek() == "[":
                for _ in _inside(reader, "[]"):
                    # The items of the last array are the records, further arrays are in them.
                    yield from self._walk(reader, steps[1:], None) if steps[1:] else iter([reader.value()])
            elif reader.value() is not None:
                raise QueryError(f"the answer has no list at data_selector {self._selector}")
        elif reader.peek() == "{":
            rest: dict[str, Any] = {}
            is_there = False
            if holder is self:
                self.rest = rest
            elif holder is not None:
                holder[0][holder[1]] = rest
            for _ in _inside(reader, "{}"):
                name = reader.value()
                reader.take(":")
                if name == steps[0]:
                    if is_there:
                        raise QueryError(
                            f"the answer has {name} of data_selector {self._selector} more than once"
                        )
                    is_there = True
                    yield from self._walk(reader, steps[1:], (rest, name))
                else:
                    value = reader.value()
                    rest[name] = TWICE if name in rest else value
        else:
            reader.value()

    def _items(self, reader: JsonReader) -> Iterator[Any]:
        """Yield the items of an array, or the one record that is there."""
        self._found = True
        if reader.peek() == "[":
            for _ in _inside(reader, "[]"):
                yield reader.value()
        elif (value := reader.value()) is not None:
            yield value

    def _nothing(self) -> QueryError:
        return QueryError(
            f"the answer has nothing at data_selector {self._selector}; correct the selector, or, if such an answer"
            " means that there are no records, say so in response_actions, or set may_lack_records = true"
        )


def _inside(reader: JsonReader, brackets: str) -> Iterator[None]:
    """Stop before each item of an array or object, and after its end."""
    reader.take(brackets[0])
    if reader.peek() == brackets[1]:
        reader.take(brackets[1])
        return
    while True:
        yield
        if reader.take(f",{brackets[1]}") == brackets[1]:
            return


def find_all(document: Any, path: str) -> list[Any]:
    """Return what is at a JSONPath in a document."""
    steps = path_steps(path)
    if steps is not None:
        found = [document]
        for step in steps:
            found = [inner for each in found for inner in _step(each, step)]
        return found
    from jsonpath_ng.ext.parser import parse

    return [match.value for match in parse(path).find(document)]


def find_first(document: Any, path: str) -> Any:
    """Return the first value at a JSONPath, MISSING when there is none."""
    return next(iter(find_all(document, path)), MISSING)


def has_list(document: Any, path: str) -> bool:
    """Return whether there is a list where the last step of a JSONPath picks items: it may have none of them."""
    steps = path_steps(path)
    if steps is not None:
        lists = [document]
        for step in steps[:-1]:
            lists = [inner for each in lists for inner in _step(each, step)]
        return steps[-1:] == ("*",) and any(isinstance(each, list) for each in lists)
    from jsonpath_ng.ext.parser import parse

    outer = getattr(parse(path), "left", None)
    return outer is not None and any(isinstance(match.value, list) for match in outer.find(document))


def _step(value: Any, step: str | int) -> Sequence[Any]:
    if isinstance(value, list):
        if step == "*":
            return value
        return [value[step]] if isinstance(step, int) and step < len(value) else []
    return [value[step]] if isinstance(value, dict) and step in value else []


def csv_records(
    endpoint: Endpoint, file: IO[bytes], names: Mapping[str, bool]
) -> Iterator[dict[str, str | None]]:
    """Yield the lines of CSV as records of texts: nothing between two delimiters is NULL, "" is an empty text.

    `names` says of each column whether the file may lack it: it is NULL then. Raise QueryError for a file without a
    column, or a line with more or fewer values than the header.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        present = Counter(_header(endpoint, file))
        for name, is_optional in names.items():
            if present[name] > 1 or not (present[name] or is_optional):
                raise QueryError(
                    f"the CSV has the declared column {name} {present[name]} times; it must have it once"
                )
        file.seek(0)
        _check_end(endpoint, file)
        file.seek(0)
        reader = arrow.open_csv(
            file,
            read_options=arrow.ReadOptions(
                encoding=endpoint.encoding, block_size=_CHUNK * 16, use_threads=False
            ),
            parse_options=arrow.ParseOptions(delimiter=endpoint.delimiter, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(names),
                include_missing_columns=True,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        for batch in reader:
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, UnicodeError, csv.Error) as error:
        raise QueryError(f"the CSV cannot be read: {_without_values(str(error))}") from None


def _header(endpoint: Endpoint, file: IO[bytes]) -> list[str]:
    encoding = "utf-8-sig" if endpoint.encoding == "utf-8" else endpoint.encoding
    text = io.TextIOWrapper(file, encoding, newline="")
    try:
        header = next(csv.reader(text, delimiter=endpoint.delimiter), None)
    finally:
        text.detach()
    if header is None:
        raise QueryError(
            "the CSV has not even a header; if that means no records, say so in response_actions"
        )
    return header


def _check_end(endpoint: Endpoint, file: IO[bytes]) -> None:
    """Raise SourceError when the file ends within quotes: Arrow takes what is there for the last value."""
    if not any(b'"' in chunk for chunk in iter(lambda: file.read(_CHUNK), b"")):
        return
    file.seek(0)
    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(file, endpoint.encoding, newline="")
    try:
        # Within quotes further lines are no rows of their own.
        lines = chain(text, ("\n", _END))
        # Arrow would take text behind a closing quote for a part of the value, without the quotes.
        [last] = deque(csv.reader(lines, delimiter=endpoint.delimiter, strict=True), maxlen=1)
    except csv.Error as error:
        if "expected after" in str(error):
            raise QueryError(
                "the CSV has text behind a closing quote; a quote in a value must be doubled"
            ) from None
        last = []
    finally:
        text.detach()
    if last != [_END]:
        raise SourceError(
            "the CSV ends within a quoted value: it is not whole, or a quote in it is not doubled"
        )


def _without_values(said: str) -> str:
    # Arrow quotes the line; it is a row of customers.
    return (
        said.partition(": ")[0] if "Expected" not in said else said.partition(", got ")[0][:200] or "a line"
    )
