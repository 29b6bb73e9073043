"""dwhctl loads sharded databases into a warehouse, from cron.

A command takes this way: `cli` parses it, `project` reads the configuration, `engine` runs it (load and refresh) with
what `runtime` has for every run, one package does the job, `alerts` and `notify.py` report the end. Read `load` first.

Jobs: `load`, `refresh`, `verify`, `monitor`, `page`, `check`, `airflow` (import), `query.py` (ad hoc SQL),
`cron.py` (the crontab) and `deploy` (units of systemd, CronJobs of Kubernetes).
Shared by the jobs: `engine`, `runtime` and `notify.py`. Storage: `systems` (sources, warehouses, drivers) and
`sessions` (the state of every slice). Below all of them: `project` (the configuration as typed objects) and `core` (no
configuration at all).
Imports go downwards only; the layers are in `pyproject.toml`.
"""

__version__ = "0.1.0"
