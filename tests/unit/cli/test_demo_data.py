"""The demonstration's orders."""

from __future__ import annotations

from datetime import datetime, timedelta

from dwhctl.cli.new_project.demo_data import DAYS, first_day, orders_of

NOW = datetime(2020, 7, 13, 12, 30)  # noqa: DTZ001 - a clock's face


def test_a_city_has_the_same_orders_whenever_they_are_made() -> None:
    earlier = {order for order in orders_of("abakan", NOW) if order.start_time.date() == NOW.date()}
    later = set(orders_of("abakan", NOW + timedelta(hours=6)))
    assert earlier < later
    assert {order.id for order in orders_of("abakan", NOW)} != {order.id for order in orders_of("chita", NOW)}


def test_the_orders_reach_from_the_first_day_up_to_now() -> None:
    orders = list(orders_of("abakan", NOW))
    assert {order.start_time.date() for order in orders} == {
        first_day(NOW.date()) + timedelta(days=day) for day in range(DAYS + 1)
    }
    assert max(order.start_time for order in orders) <= NOW
    assert len({order.id for order in orders}) == len(orders)


def test_the_orders_hold_what_real_ones_hold() -> None:
    orders = list(orders_of("abakan", NOW))
    assert any(order.price is None for order in orders)
    assert any(order.customer is None for order in orders)
    assert any(order.comment and "|" in order.comment and "\\" in order.comment for order in orders)
    assert any(order.customer and order.customer.startswith("П") for order in orders)
