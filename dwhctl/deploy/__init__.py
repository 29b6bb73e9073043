"""The schedules of a project for other schedulers than cron: units of systemd, CronJobs of Kubernetes.

Read in this order:
- `times`: the times of a crontab as systemd and Kubernetes write them.
- `files`: the files, one or two for each entry of the crontab, from `templates/`.
"""
