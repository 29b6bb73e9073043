"""Other tools that copy tables from PostgreSQL to PostgreSQL, each in a virtual environment of its own below a folder.

    python -m venv TOOLS/dlt      && TOOLS/dlt/bin/pip install 'dlt[postgres,sql-database]' pyarrow numpy
    python -m venv TOOLS/ingestr  && TOOLS/ingestr/bin/pip install ingestr==0.15.9     (1.x downloads a binary)
    python -m venv TOOLS/sling    && TOOLS/sling/bin/pip install sling-linux-amd64     (sling downloads one as well)

Each copies in its fastest documented way that replaces the target: dlt by Arrow tables and COPY of CSV.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.postgres import PostgresServer

_DLT = """\
import sys
import dlt
from dlt.destinations import postgres
from dlt.sources.sql_database import sql_database

source, target, folder, *tables = sys.argv[1:]
source = source.replace("postgresql:", "postgresql+psycopg2:")
pipeline = dlt.pipeline("copy", pipelines_dir=folder, destination=postgres(target), dataset_name="dlt_copy")
tables = sql_database(source, schema="public", table_names=tables, backend="pyarrow", chunk_size=50_000)
pipeline.run(tables, write_disposition="replace", loader_file_format="csv")
"""
#: How many of ingestr's processes run at once: each copies one table.
_AT_ONCE = 2


@dataclass(frozen=True)
class Copy:
    """The tables of one database that are copied to another, and a folder for what a tool keeps."""

    server: PostgresServer
    source: str
    target: str
    tables: Sequence[str]
    folder: Path

    def url(self, database: str) -> str:
        """Return a database's URL, as each of the tools reads it."""
        # dlt wants a password, whatever the server wants.
        password = f":{self.server.password or 'none'}"
        if self.server.host.startswith("/"):
            host, options = "localhost", f"?host={self.server.host}"
        else:
            host, options = self.server.host, "?sslmode=disable"
        return f"postgresql://{self.server.user}{password}@{host}:{self.server.port}/{database}{options}"


def commands(tools: Path, copy: Copy) -> Iterator[tuple[str, list[str] | str]]:
    """Yield each tool with its command, or with the reason why there is none."""
    yield "dlt", _dlt(tools / "dlt/bin/python", copy)
    yield "ingestr", _ingestr(tools / "ingestr/bin/ingestr", copy)
    yield "sling", _sling(tools, copy)


def _dlt(python: Path, copy: Copy) -> list[str] | str:
    if not python.exists():
        return f"not installed in {python.parent.parent}"
    state = str(copy.folder / "dlt")
    command = [
        "env",
        "RUNTIME__DLTHUB_TELEMETRY=false",
        "EXTRACT__NEXT_ITEM_MODE=fifo",
        str(python),
        "-c",
        _DLT,
    ]
    return [*command, copy.url(copy.source), copy.url(copy.target), state, *copy.tables]


def _ingestr(program: Path, copy: Copy) -> list[str] | str:
    if not program.exists():
        return f"not installed in {program.parent.parent}"
    one = [str(program), "ingest", "--yes", "--source-uri", copy.url(copy.source)]
    one += ["--dest-uri", copy.url(copy.target)]
    each = 'exec "$@" --source-table "public.$0" --dest-table "ingestr_copy.$0"'
    script = f"printf '%s\\n' \"$@\" | xargs -P {_AT_ONCE} -I TABLE bash -c '{each}' TABLE {_quoted(one)}"
    return ["bash", "-c", script, "bash", *copy.tables]


def _quoted(words: Sequence[str]) -> str:
    return " ".join(f"'{word}'" for word in words)


def _sling(tools: Path, copy: Copy) -> list[str] | str:
    program = next(
        tools.glob("sling/lib/python*/site-packages/sling_linux_amd64/bin/sling-linux-amd64"), None
    )
    if program is None:
        return f"not installed in {tools / 'sling'}"
    if copy.server.host.startswith("/"):
        return "takes no socket: name a server by DWHCTL_TEST_POSTGRES"
    replication = copy.folder / "sling.json"
    streams = {f"public.{table}": {"object": f"sling_copy.{table}"} for table in copy.tables}
    replication.write_text(
        json.dumps(
            {"source": "SOURCE", "target": "TARGET", "defaults": {"mode": "full-refresh"}, "streams": streams}
        )
    )
    urls = [f"SOURCE={copy.url(copy.source)}", f"TARGET={copy.url(copy.target)}", "SLING_THREADS=2"]
    return ["env", *urls, str(program), "run", "-r", str(replication)]
