"""The data of the demo: a few weeks of taxi orders on three servers with several city databases each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from dwhctl.project.loads import Shard
from dwhctl.project.model import Project
from dwhctl.systems.duckdb import client as engine

DAYS = 21
_CREATE = """
CREATE TABLE orders (
    id          BIGINT PRIMARY KEY,
    start_time  TIMESTAMP NOT NULL,
    end_time    TIMESTAMP,
    customer    VARCHAR,
    driver_id   INTEGER,
    distance_km DOUBLE,
    price       DECIMAL(10, 2),
    comment     VARCHAR
)
"""
_NAMES = ("Анна", "Борис", "Вера", "Глеб", "Дарья", "Егор", "Жанна", "Зоя", "Илья", "Ксения", "Лев", "Пётр")
_SURNAMES = ("Бондаренко", "Шевчук", "Кузьменко", "Черных", "Долгих", "Седых", "Коваленко", "Ткач")
_COMMENTS = ("у подъезда №2", 'кафе "Ёлка"', "детское кресло", "C:\\чек | срочно", "позвонить за 5 минут")


@dataclass(frozen=True, slots=True)
class Order:
    """One row of a city's database, in the order of the table's columns."""

    id: int
    start_time: datetime
    end_time: datetime | None
    customer: str | None
    driver_id: int | None
    distance_km: float | None
    price: Decimal | None
    comment: str | None


def first_day(today: date) -> date:
    return today - timedelta(days=DAYS)


def make_shards(project: Project, now: datetime) -> int:
    """Make the database of every shard, with orders until now, and return the number of orders."""
    shards = [shard for group in project.shard_groups.values() for shard in group]
    return sum(_make(project, shard, now.replace(tzinfo=None)) for shard in shards)


def _make(project: Project, shard: Shard, now: datetime) -> int:
    connection = project.connections[shard.connection]
    path: Path = getattr(connection, "path") / f"{shard.database}.duckdb"  # noqa: B009
    path.parent.mkdir(parents=True, exist_ok=True)
    orders = list(orders_of(shard.database, now))
    with engine.connect(str(path), {}) as db:
        db.execute(_CREATE)
        schema = db.table("orders").to_arrow_table().schema
        db.register("new_orders", pa.Table.from_pylist([asdict(order) for order in orders], schema))
        db.execute("INSERT INTO orders FROM new_orders")
    return len(orders)


def orders_of(city: str, now: datetime) -> Iterator[Order]:
    """Yield a city's orders: random, but always the same for the same city and day."""
    for back in range(DAYS, -1, -1):
        day = now.date() - timedelta(days=back)
        chance = random.Random(f"{city} {day}")  # noqa: S311 - made-up orders, no secrets
        for number in range(chance.randint(40, 120)):
            order = _order(chance, day, number)
            if order.start_time <= now:
                yield order


def _order(chance: random.Random, day: date, number: int) -> Order:
    start = datetime.combine(day, time()) + timedelta(microseconds=chance.randrange(86_400_000_000))
    taken = chance.random() < 0.9  # a cancelled order has neither driver nor price
    minutes = chance.uniform(4, 60)
    return Order(
        id=day.toordinal() * 1000 + number,
        start_time=start,
        end_time=start + timedelta(minutes=minutes) if taken else None,
        customer=f"{chance.choice(_NAMES)} {chance.choice(_SURNAMES)}" if chance.random() < 0.95 else None,
        driver_id=chance.randint(1, 900) if taken else None,
        distance_km=round(minutes * chance.uniform(0.3, 0.7), 3) if taken else None,
        price=Decimal(chance.randint(9_900, 150_000)) / 100 if taken else None,
        comment=chance.choice(_COMMENTS) if chance.random() < 0.2 else None,
    )
