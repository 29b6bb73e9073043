"""Databases: a folder for each system, behind common contracts.

Read in this order:
- `base`: the contracts of a source, a target and a console, and what the systems share.
- `registry` opens the source, target or console of a connection; drivers are imported only then.
- `duckdb`: source and target in files. `mssql`: source. `vertica`: target.
- `postgres` and `sqlite`: the sessions database, and consoles.
A folder has `client` (connect, errors), `types`, `source`, `target`, `console` as far as the system has them.
To add a system, add a folder and its lines in `registry`, and run the suites in `tests/contract`.
The folders import `base` only; `registry` imports them inside its functions.
"""
