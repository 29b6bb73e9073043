"""`dwhctl report`: the past at a glance.

Read in this order:
- `group`: the table of reports, their common options and their access to the sessions.
- `slices`: failures, gaps and grid. `history`: runs, sessions and durations.
- `monitoring`: sla, metrics and alerts, and the timeline and log of one run.
- `grid_picture` and `pictures` draw grid, timeline and gaps with rich; they are imported only when they draw.
Each report reads from `dwhctl.monitor` or `dwhctl.sessions` and passes rows to `cli.common.output`.
"""
