"""Databases: a folder for each system, behind common contracts.

Read in this order:
- `base`: the contracts of a source, a target and a console, and what the systems share.
- `duckdb` (files) and `postgres`: sources and targets. `mssql`, `http`: sources. `vertica`, `clickhouse`: targets.
- `postgres` and `sqlite` also have the connection of the sessions database.
A folder has `client` (connect, errors), `types`, `source`, `target`, `console` as far as the system has them.
A folder's `system` has the keys of its connection and a `System`: what the system can do, and what opens it. Drivers
are imported only then. The registry of the systems is `SYSTEMS` in `dwhctl/project/connections.py`.
To add a system, add a folder and its name there, or an entry point `dwhctl.systems` of a package of your own, and run
the suites in `tests/contract`. The folders import `base` only; `http` measures in DuckDB.
"""
