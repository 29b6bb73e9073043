"""The reference page is whole."""

from __future__ import annotations

import pytest

from dwhctl.cli.reference import descriptions, reference
from dwhctl.core import errors
from dwhctl.project.connections import CONNECTION_TYPES
from dwhctl.project.fields import Table
from dwhctl.project.loads import Load, Need, Refreshing, Report, ShardEntry
from dwhctl.project.model import ALERT_TYPES, ProjectTable, SessionsTable

MODELS: list[type[Table]] = [
    ProjectTable,
    SessionsTable,
    Load,
    Report,
    Need,
    Refreshing,
    ShardEntry,
    *CONNECTION_TYPES.values(),
    *ALERT_TYPES.values(),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_has_a_description_and_an_example(model: type[Table]) -> None:
    page = reference()
    for key, field in model.file_keys().items():
        assert descriptions(model)[key], key
        assert field.examples, key
        assert f"| `{key}` |" in page
        assert f"| `{key} = " in page


def test_the_page_tells_types_and_defaults() -> None:
    page = reference()
    assert '| `retry_delay` | duration | `"10s"` |' in page
    assert '| `slice_zone` | text | `"wall"` |' in page
    assert "| `key` | list of text | required |" in page
    assert '| `on_new_column` | `"refuse"`, `"add"` | `"refuse"` |' in page
    assert "| `port` | whole number | `1433` |" in page
    assert "| `from` | date | none |" in page
    assert "`name`" not in page.partition("## `config/loads/NAME.toml`")[2].partition("## Environment")[0]


def test_every_error_class_that_is_raised_in_a_run_is_listed() -> None:
    rows = reference().partition("## Error classes")[2].partition("## Listings")[0]
    named = {
        name for name, found in vars(errors).items() if isinstance(found, type) and not name.startswith("_")
    }
    attempts = {name for name in named if issubclass(getattr(errors, name), errors.AttemptError)} - {
        "AttemptError"
    }
    assert len(attempts) > 20
    assert {name for name in attempts if f"| `{name}` |" not in rows} == set()
    assert "| `ConnectError` | The server cannot be reached | retried |" in rows
    assert "| `QueryError` | The source refused the query | no retry |" in rows
    assert "| `LockHeldError` | Another dwhctl is doing this work | exit code 75 |" in rows
