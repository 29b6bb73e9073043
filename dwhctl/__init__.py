"""dwhctl: loads sharded databases into a warehouse, from cron."""

__version__ = "0.1.0"
