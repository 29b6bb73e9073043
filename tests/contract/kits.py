"""The systems that the shared contract suites run over: a new one joins by a kit here.

A kit's own module imports from `kit_base`, never from here.
"""

from __future__ import annotations

from tests.contract.kit_base import NASTY_TEXTS, Kit, SourceKit, TargetKit, TypeCase
from tests.contract.kits_clickhouse import ClickHouseTargetKit
from tests.contract.kits_csv import CsvSourceKit, CsvTargetKit
from tests.contract.kits_duckdb import DuckdbSourceKit, DuckdbTargetKit
from tests.contract.kits_http import HttpSourceKit
from tests.contract.kits_mssql import MssqlArrowSourceKit, MssqlSourceKit
from tests.contract.kits_postgres import PostgresSourceKit, PostgresTargetKit
from tests.contract.kits_vertica import VerticaTargetKit

__all__ = ["NASTY_TEXTS", "READERS", "SOURCES", "TARGETS", "Kit", "SourceKit", "TargetKit", "TypeCase"]

SOURCES: tuple[SourceKit, ...] = (
    DuckdbSourceKit(),
    MssqlSourceKit(),
    PostgresSourceKit(),
    HttpSourceKit(),
    CsvSourceKit(),
)
#: The sources with each of their drivers, for the suites that read only.
READERS: tuple[SourceKit, ...] = (*SOURCES, MssqlArrowSourceKit())
TARGETS: tuple[TargetKit, ...] = (
    DuckdbTargetKit(),
    VerticaTargetKit(),
    PostgresTargetKit(),
    ClickHouseTargetKit(),
    CsvTargetKit(),
)
