"""dwhctl loads sharded databases into a warehouse, from cron.

A command takes this way: `cli` parses it, `project` reads the configuration, `runtime` begins a run, one package does
the job, `alerts` and `notify` report the end. Read `load` first: it is what the rest serves.

Jobs: `load`, `refresh`, `verify`, `monitor`, `check`, `airflow` (import), `query.py` (ad hoc SQL) and `cron.py` (the
crontab).
Shared by the jobs: `runtime` and `notify`. Storage: `systems` (sources, warehouses, drivers) and `sessions` (the state
of every slice). Below all of them: `project` (the configuration as typed objects) and `core` (no configuration at all).
Imports go downwards only; the layers are in `setup.cfg`.
"""

__version__ = "0.1.0"
