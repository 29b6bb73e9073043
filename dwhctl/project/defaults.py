"""`[load_defaults]` and `[report_defaults]`: the keys that every load or report begins with.

The own key of a load or report wins, and replaces the whole value. An error in a value that came from the defaults
has their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .loads import Load, Report
from .problems import Place, Problems
from .words import nearest


@dataclass(frozen=True, slots=True)
class Defaults:
    """The values of one table of defaults, and its place."""

    place: Place
    values: Mapping[str, Any] = field(default_factory=dict)

    def under(self, table: object, place: Place) -> tuple[object, Place]:
        """Return the table with the defaults for the keys that it lacks, and the place that knows their origin."""
        if not isinstance(table, dict):
            return table, place
        inherited = frozenset(self.values) - frozenset(table)
        return {**self.values, **table}, replace(place, inherited=inherited, origin=self.place)


def read_defaults(
    model: type[Load | Report], main: Mapping[str, Any], place: Place, problems: Problems
) -> Defaults:
    """Return the defaults of a kind of work; note unknown keys, keys that each one has for itself, and wrong values."""
    home = "config/loads/NAME.toml" if model is Load else "[reports.NAME] in config/reports.toml"
    values = problems.table(main.get(place.key, {}), place)
    shared = {}
    for key, value in values.items():
        if key in model.shared_keys():
            shared[key] = value
        elif key in model.own_keys:
            problems.add(place.at(key), f"cannot be shared: move it to {home}")
        else:
            problems.add(place.at(key), f"unknown key; {nearest(key, model.shared_keys())}")
    problems.check_part(model, shared, place, name="")
    return Defaults(place, shared)
