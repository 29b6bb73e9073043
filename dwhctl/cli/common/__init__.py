"""What the commands share.

Read in this order:
- `options`: common options, days and ranges, completion, and the groups that import a command when it runs.
- `ending` writes the page at the end of a run, turns errors into messages and exit codes, and notifies when a command
  from cron could not begin.
- `output` writes results to stdout and messages to stderr. `listing` declares columns and writes them as a table
  (drawn by `table`), JSON or CSV; `rows` writes the rows of a query.
- `objects`: the result objects of `--format json`; `results` fills them from what runs return.
- `progress` (plain lines) and `live` (on a terminal) show a run; `summary` shows the plan and the result.
rich is imported only to draw: `table` and `live`.
"""
