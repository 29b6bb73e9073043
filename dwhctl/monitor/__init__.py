"""What is loaded, late or missing, and cleaning up what is old.

Read in this order:
- `coverage`: the expected slices, the status of each, and gaps as ranges of days.
- `freshness`: deadlines and ages. `watch` checks them from cron and notifies.
- `timeline`: the sessions of one run on its workers. `metrics`: numbers for Prometheus.
- `prune` deletes old sessions and what old runs left in the state folder.
Data comes from the sessions table alone; no source is asked.
"""
