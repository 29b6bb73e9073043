"""Refresh report tables from their views. `dwhctl.engine` has the loop.

Read in this order:
- `run`: the request, the plan and what a run of reports adds to a run.
- `scheduler`: what the loop does with a report; it waits for the data that the report needs.
- `transaction` refreshes one report in one transaction, in a thread.
Data stays in the warehouse: the view is read and the table is replaced there.
"""
