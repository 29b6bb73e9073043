"""The delimited parser, record by record: exact for every input, and slow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers.vertica.copy_grammar import Format
from tests.servers.vertica.copy_values import Reject

#: A field that does not end within so many octets never does.
_LONGEST = 64_000_000


@dataclass(frozen=True)
class Record:
    """A record: its fields (None is NULL) or why there are none, and its own octets."""

    fields: list[str | None] | None
    reason: str
    raw: bytes


class Records:
    """Takes records from the beginning of a buffer that grows."""

    def __init__(self, form: Format) -> None:
        self._delimiter = form.delimiter.encode()
        self._terminator = form.terminator.encode()
        self._escape = form.escape.encode() if form.escape else None
        self._quote = form.enclosed.encode() if form.enclosed else None
        self._null = form.null.encode()
        # The word NULL is recognised in any case (facts, D6).
        self._any_case = form.null.casefold() == "null"
        d, t, e, q = (
            re.escape(each)
            for each in (form.delimiter, form.terminator, form.escape or "", form.enclosed or "")
        )
        # Possessive: what has matched is never tried again, so a long field costs its length only.
        free = rf"[^{d}{t}{e}]++" if len(form.terminator) == 1 else rf"(?!{t})[^{d}{e}]"
        escaped = rf"|{e}." if e else ""
        self._bare = re.compile(rf"(?:{free}{escaped})*+".encode(), re.DOTALL)
        self._enclosed = re.compile(rf"{q}((?:[^{q}{e}]++{escaped})*+){q}".encode(), re.DOTALL) if q else None
        self._unescape = re.compile(rf"{e}(.)".encode(), re.DOTALL) if e else None
        #: A line of only `\.` ended the data.
        self.ended = False
        self.used = 0

    def take(self, buffer: bytes, *, final: bool) -> Iterator[Record | None]:
        """The whole records of a buffer; None is an empty line. `used` tells afterwards how much was taken."""
        self.used = 0
        while self.used < len(buffer) and not self.ended:
            if self._ends_here(buffer, final=final):
                self.ended = True
                self.used = len(buffer)
                return
            found = self._record(buffer, final=final)
            if found is None:
                return
            start, (self.used, record) = self.used, found
            empty = buffer[start : self.used] in (self._terminator, b"")
            yield None if empty else record

    def _ends_here(self, buffer: bytes, *, final: bool) -> bool:
        if not buffer.startswith(b"\\.", self.used):
            return False
        after = self.used + 2
        return buffer.startswith(self._terminator, after) or (final and after == len(buffer))

    def _record(self, buffer: bytes, *, final: bool) -> tuple[int, Record] | None:
        at = self.used
        fields: list[str | None] = []
        while True:
            found = self._field(buffer, at)
            if found is None:
                return self._broken(buffer, at, final=final)
            end, value = found
            if end == len(buffer) and not final:
                return None
            after_delimiter = buffer.startswith(self._delimiter, end)
            if not after_delimiter and end < len(buffer) and not buffer.startswith(self._terminator, end):
                return self._broken(buffer, end, final=final)
            fields.append(value)
            if after_delimiter:
                at = end + 1
                continue
            raw = buffer[self.used : end]
            return end + len(self._terminator), self._checked(fields, raw)

    def _checked(self, fields: list[str | None], raw: bytes) -> Record:
        try:
            raw.decode()
        except UnicodeDecodeError:
            return Record(None, "Invalid UTF-8 in the record", raw)
        return Record(fields, "", raw)

    def _field(self, buffer: bytes, at: int) -> tuple[int, str | None] | None:
        """A field's end and its value; None when it does not end in this buffer, or not as it should."""
        if self._quote and self._enclosed and buffer.startswith(self._quote, at):
            found = self._enclosed.match(buffer, at)
            if found is None:
                return None
            return found.end(), self._plain(found[1]).decode(errors="replace")
        found = self._bare.match(buffer, at)
        assert found is not None
        raw = found[0]
        return found.end(), None if self._is_null(raw) else self._plain(raw).decode(errors="replace")

    def _is_null(self, raw: bytes) -> bool:
        return raw.lower() == b"null" if self._any_case else raw == self._null

    def _plain(self, raw: bytes) -> bytes:
        if self._unescape is None or self._escape is None or self._escape not in raw:
            return raw
        return self._unescape.sub(rb"\1", raw)

    def _broken(self, buffer: bytes, at: int, *, final: bool) -> tuple[int, Record] | None:
        """An enclosed field without its end, or with something behind it: the record ends at the next terminator."""
        open_end = (
            self._quote is not None and buffer.startswith(self._quote, at) and self._field(buffer, at) is None
        )
        if open_end and not final and len(buffer) - at < _LONGEST:
            return None
        end = buffer.find(self._terminator, at)
        if end < 0:
            if not final:
                return None
            end = len(buffer)
        reason = "Enclosed field does not end" if open_end else "Data behind the end of an enclosed field"
        return end + len(self._terminator), Record(None, reason, buffer[self.used : end])


def fitted(record: Record, count: int, *, trailing_nulls: bool) -> list[str | None]:
    """The fields of a record, so many as there are columns; Reject when it has others."""
    fields = record.fields
    if fields is None:
        raise Reject(record.reason)
    if len(fields) < count and trailing_nulls:
        return fields + [None] * (count - len(fields))
    if len(fields) < count:
        raise Reject(f"Too few columns found: {len(fields)} of {count}")
    if len(fields) > count:
        raise Reject(f"Too many columns found: {len(fields)} instead of {count}")
    return fields
