"""Load slices: read them from the shards, stage them, publish them. `dwhctl.engine` has the loop.

Read in this order:
- `run`: the plan and what a run of slices adds to a run. `scheduler`: what the loop does with a slice.
- `ready`: slices that wait until a query on their shard is true. `attempts` starts an attempt, `workers` says how many
  workers a run has, `worker_server` starts the processes, `worker_process` is what they do.
- In a worker: `extract` streams a slice from its source to the staging, `hash_ids` adds the service fields and sees
  whether two rows have one key, `cast` checks the rows and fits them to the target's columns.
- `parts`: the orders of an attempt, one or those of the parts of a slice, and the workers that carry them out.
  `part_steps` is what a worker does for a part beside `extract`.
- `cluster` has workers on other machines in their place: `cluster_client` speaks with a Dask scheduler,
  `cluster_worker` is what its workers do with an order.
- `staging`: publish groups. `publish`: the thread that publishes, its rules, and commits in doubt.
- `direct`: a slice that its worker writes into the table itself, and the parent commits.
- `column_fit` compares the sizes of columns in source and target, before data moves.
Data goes from `extract` to the staging and by `publish` into the table; results go back through `scheduler`.
"""
