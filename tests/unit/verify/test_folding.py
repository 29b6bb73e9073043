"""How the findings of `verify` are folded into lines, and how values are shown."""

from __future__ import annotations

import random
from datetime import date, timedelta

import pytest

from dwhctl.cli.verify import folded_rows
from dwhctl.core import secrets
from dwhctl.systems.base.inspection import Cut
from dwhctl.verify.findings import Check, SliceComparison, SliceFinding, missing, shown_pair

FIRST = date(2020, 7, 1)
SHARDS = [f"shard_{number:03}" for number in range(150)]
DAYS = [FIRST + timedelta(days=number) for number in range(7)]


def lines(verdicts: list[SliceComparison]) -> list[str]:
    return [what for _, _, what in folded_rows(verdicts, everything=False)]


def test_150_shards_and_seven_days_fit_two_screens() -> None:
    chance = random.Random(7)
    verdicts = []
    for shard in SHARDS:
        for day in DAYS:
            pair = ("'aaaa…' (36)", "'aaaa…' (32)")
            findings = [SliceFinding(Check.VALUES, *pair, column="data", rows=38, key="id=322")]
            kinds = [
                missing("stage.orders", 20, here=False),
                SliceFinding(Check.ROWS, "20", "19", f"only in stage.orders: id = {chance.randrange(1000)}"),
                SliceFinding(
                    Check.DUPLICATE_KEYS, "0", "1", f"in stage.orders, such as id = {chance.randrange(1000)}"
                ),
                SliceFinding(
                    Check.NOT_COMPARED, detail=f"{shard}: no answer within {chance.randrange(90)} s"
                ),
                SliceFinding(Check.INCOMPLETE, detail="never loaded"),
            ]
            findings += [one for one in kinds if chance.random() < 0.3]
            verdicts.append(SliceComparison("orders", shard, day, findings))
    found = lines(verdicts)
    assert len(found) == 6
    assert sum(len(one) // 80 + 1 for one in found) < 100
    assert found[0] == (
        "data: 1,050 slices, 39,900 rows, e.g. id=322: 'aaaa…' (36) / 'aaaa…' (32) (shard_000 2020-07-01);"
        " 150 shards x 2020-07-01..07-07"
    )


def test_missing_slices_are_shards_and_ranges() -> None:
    days = [FIRST + timedelta(days=number) for number in range(13)]
    verdicts = [
        SliceComparison("orders", shard, day, [missing("stage.orders", 20, here=False)])
        for shard in SHARDS[:12]
        for day in days
    ]
    expected = "missing in stage.orders: 12 shards x 2020-07-01..07-13 (156 slices, 3,120 rows)"
    assert lines(verdicts) == [expected]
    del verdicts[3]
    [line] = lines(verdicts)
    assert line == (
        "missing in stage.orders: 11 shards x 2020-07-01..07-13, shard_000 x 2020-07-05..07-13,"
        " shard_000 x 2020-07-01..07-03 (155 slices, 3,100 rows)"
    )


def test_rows_that_were_not_counted_are_not_claimed() -> None:
    def differs(rows: int | None, key: str | None = None) -> SliceFinding:
        return SliceFinding(Check.VALUES, "'1'", "NULL", column="price", rows=rows, key=key)

    verdicts = [
        SliceComparison("orders", "chita", day, [differs(rows)])
        for day, rows in zip(DAYS, (5, None), strict=False)
    ]
    assert lines(verdicts) == ["price: 2 slices, 5 rows in 1 of them; chita x 2020-07-01..07-02"]
    assert lines(verdicts[1:]) == ["price: 1 slice, rows not counted; chita 2020-07-02"]
    # The example is of a slice in which one was found.
    verdicts.append(SliceComparison("orders", "omsk", FIRST, [differs(None, "id=7")]))
    assert lines(verdicts)[0].startswith(
        "price: 3 slices, 5 rows in 1 of them, e.g. id=7: '1' / NULL (omsk 2020-07-01);"
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        (Cut("abc", 3), None, ("'abc'", "NULL")),
        (Cut("a\x1b[31m\nb", 7), Cut("", 0), ("'a\\x1b[31m\\nb'", "''")),
        (Cut("a" * 36, 36), Cut("a" * 32, 32), (f"'{'a' * 20}…' (36)", f"'{'a' * 20}…' (32)")),
        (Cut("a" * 30 + "x", 31), Cut("a" * 30 + "y", 31), ("'…aaaaaax' (31)", "'…aaaaaay' (31)")),
        (Cut("a" * 400, 5000), Cut("a" * 400, 5000), (f"'…{'a' * 6}…' (5,000)",) * 2),
    ],
)
def test_values_are_short_and_show_where_they_differ(
    ours: Cut | None, theirs: Cut | None, shown: tuple[str, str]
) -> None:
    assert shown_pair(ours, theirs) == shown


def test_a_secret_is_masked_before_it_is_cut() -> None:
    secrets.remember("geheim-und-sehr-lang-4711")
    ours, theirs = shown_pair(Cut("x geheim-und-sehr-lang-4711 y", 29), Cut("x", 1))
    assert "geheim" not in ours + theirs
