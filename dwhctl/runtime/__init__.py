"""The parts that every run needs.

Read in this order:
- `plan`: which slices of which loads, in which order, and about how long they take.
- `run_context` begins a run: run id, locks, recovery. `locks` (and the state folder), `slots`, `recovery` of dead runs.
- `prepare` creates and describes the target tables, and knows which columns each shard delivered; `new_tables` makes
  those of loads without a `create`.
- `events`: what a run publishes while it works, and its result. `messages`: what goes to workers and back.
- `failures` groups failures, proposes the commands that retry them, and finds the place of an error in the user's SQL.
- `circuit_breaker` stops attempts on a server that is down. `fanout` runs checks on many systems at once.
- `log` writes and rotates the logs of runs, `log_reader` finds and reads them.
Requests come in as a plan; results leave as events.
"""
