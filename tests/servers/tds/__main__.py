"""Run a server as a process: `python -m tests.servers.tds --port P --database abakan --cache DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .server import TdsServer


def main() -> None:
    """Serve until stdin closes; the port is the first line on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", default="sa")
    parser.add_argument("--password", default="Secret_123")
    parser.add_argument("--database", action="append", default=[], help="again for more")
    parser.add_argument(
        "--snapshot", action="append", default=[], help="a database that allows snapshot isolation"
    )
    parser.add_argument(
        "--tls", nargs="?", const=True, default=False, help="offer encryption; 'require': insist"
    )
    parser.add_argument(
        "--run", action="append", default=[], metavar="DATABASE:FILE", help="T-SQL to run first"
    )
    parser.add_argument(
        "--duckdb", action="append", default=[], metavar="DATABASE:FILE", help="DuckDB SQL to run then"
    )
    parser.add_argument("--cache", type=Path, default=None, help="keep answers in this folder")
    given = parser.parse_args()
    server = TdsServer(given.port, given.user, given.password, given.database, given.snapshot, given.tls)
    server.cache_answers = given.cache
    if given.cache is not None:
        given.cache.mkdir(parents=True, exist_ok=True)
    for way, files in ((server.execute, given.run), (server.duckdb, given.duckdb)):
        for each in files:
            database, _, path = each.partition(":")
            way(database, Path(path).read_text(encoding="utf-8"))
    server.run_alone()


if __name__ == "__main__":
    main()
