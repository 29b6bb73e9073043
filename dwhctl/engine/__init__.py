"""The run engine of `load` and `refresh-reports`.

Read in this order:
- `run` is the whole of a run (log, locks, recovery of dead runs, the loop, the result, alerts and pings), and the loop.
- `jobs`: what waits for an attempt, the queue, an attempt; and `Attempts`, which opens and closes their sessions.
`load` and `refresh` say what an attempt does. Jobs go in; sessions, events and one `RunResult` come out.
"""
