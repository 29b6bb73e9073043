"""The run engine of `load` and `refresh-reports`.

Read in this order:
- `run`: `Run` is one run from plan to alerts (log, locks, recovery of dead runs, loop, result, alerts and pings);
  `Scheduler` is its loop, which starts attempts, ends those past their timeout, and decides on retries.
- `jobs`: what waits for an attempt, the queue, an attempt; and `Attempts`, which opens and closes their sessions.
`load` and `refresh` define what an attempt does. Jobs go in; sessions, events and one `RunResult` come out.
"""
