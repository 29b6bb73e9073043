-- The tables of the alerts in SQLite.

-- name: table dwhctl_alerts
CREATE TABLE dwhctl_alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created TIMESTAMPTZ NOT NULL,
    run_id TEXT,
    channel TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL,
    answer TEXT,
    attempts INTEGER NOT NULL,
    doubts INTEGER NOT NULL,
    not_before TIMESTAMPTZ,
    sent_at TIMESTAMPTZ,
    claim TEXT,
    lease_until TIMESTAMPTZ
);
CREATE INDEX dwhctl_alerts_open ON dwhctl_alerts (state, id) WHERE state IN ('queued', 'refused', 'unknown', 'sending')

-- name: table dwhctl_alert_failures
-- `day` is 1000-01-01 where there is none: a key has no NULL.
CREATE TABLE dwhctl_alert_failures (
    channel TEXT NOT NULL,
    work TEXT NOT NULL,
    connection TEXT NOT NULL,
    error_class TEXT NOT NULL,
    shard TEXT NOT NULL,
    day DATE NOT NULL,
    told_at TIMESTAMPTZ NOT NULL,
    newest BOOL NOT NULL,
    well BOOL NOT NULL,
    alert_id INTEGER,
    heard BOOL NOT NULL,
    PRIMARY KEY (channel, work, connection, error_class, shard, day)
)

-- name: move dwhctl_alert_failures from dwhctl_alert_facts
-- Earlier versions kept one row for all days, with the newest one. An earlier version that still runs goes on with it.
INSERT INTO dwhctl_alert_failures (
    channel, work, connection, error_class, shard, day, told_at, newest, well, alert_id, heard
)
SELECT channel, work, connection, error_class, shard, coalesce(day, '1000-01-01'), told_at, newest, well, alert_id, heard
FROM dwhctl_alert_facts

-- name: alerts_alone
-- Whoever writes is alone anyway.
SELECT 1
