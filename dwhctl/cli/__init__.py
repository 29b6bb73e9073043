"""The command line: a command parses its options, calls one function and shows the result.

Read in this order:
- `main`: the table of commands; a command's module is imported only when it runs.
- `common`: options, output, progress and exit codes, which all commands use.
- `load` (and backfill), `refresh_reports`, `verify`, `query` (and render): work on data.
- `alerts` (watch, alert-test), `crontab`, `sessions` (and adopt), `connections` (and config), `docs`: operation.
- `page`: the state of everything as one HTML file.
- `report`: the group of reports on the past. `new_project`: `init` and `demo`.
- `schema`: the JSON Schema of what all of these write with --format json.
- `reference` writes docs/reference.md from all of these.
Options go down to the job as one request; events and results come back.
"""
