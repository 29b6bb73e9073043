"""What the commands share.

Read in this order:
- `options`: common options, completion, and the groups that import a command when it runs.
- `ending` turns errors into messages and exit codes. `unattended` notifies when a command from cron could not begin.
- `output` writes results to stdout and messages to stderr; `table` and `rows` write listings and query results.
- `progress` (plain lines) and `live` (on a terminal) show a run; `summary` shows the plan and the result.
`output` is light: rich is imported only to draw a table on a terminal.
"""
