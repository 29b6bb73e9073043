"""Load slices: read them from the shards, stage them, publish them.

Read in this order:
- `run` is the whole of a run. `dispatcher` is its loop.
- `queue`: slices that wait. `attempts` starts an attempt, `workers` has the processes, `results` closes it.
- In a worker: `extract` streams a slice from its source to the staging, `cast` fits it to the target's columns,
  `hash_id` adds the service fields.
- `staging`: publish groups. `publisher` is the thread that publishes, `publish` the one place that commits.
- `history`: what past sessions tell a new run.
- `column_fit` compares the sizes of columns in source and target, before data moves.
Data goes from `extract` to the staging and by `publish` into the table; results go back through `dispatcher`.
"""
