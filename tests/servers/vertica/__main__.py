"""`python -m tests.servers.vertica`: one server as a process of its own, until its stdin closes."""

from __future__ import annotations

import argparse

from tests.servers.vertica.server import VerticaServer


def main() -> None:
    """Read the options and serve; the first line on stdout is the port."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.vertica")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", default="dbadmin")
    parser.add_argument("--password", default="Secret_456")
    parser.add_argument("--database", default="docker")
    parser.add_argument("--max-sessions", type=int, default=50)
    parser.add_argument("--lock-timeout", type=float, default=300.0)
    parser.add_argument("--max-containers", type=int, default=1024)
    parser.add_argument("--execute", action="append", default=[], help="SQL to run before serving")
    parser.add_argument(
        "--count-rows", action="store_true", help="COPY stores the first row as often as rows come"
    )
    given = parser.parse_args()
    server = VerticaServer(
        given.port,
        given.user,
        given.password,
        given.database,
        given.max_sessions,
        given.lock_timeout,
        given.max_containers,
    )
    server.counts_rows = given.count_rows
    for sql in given.execute:
        server.execute(sql)
    server.run_alone()


if __name__ == "__main__":
    main()
