"""Notification at the end of a run.

Read in this order:
- `run` makes an `Outcome` of the result of a run, however it ended, and passes it to `dwhctl.alerts`.
- `pings` sends the start and end of each load and report to its `ping_url`.
Data goes from `runtime.events` to `alerts.notifier`. A failed notification never changes the result of the run.
"""
