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
-- A writer is alone anyway.
SELECT 1

-- name: alerts_remember
-- `facts` is a JSON list of lists: work, connection, error class, shard and day of what is so by now.
INSERT INTO dwhctl_alert_failures (
    channel, work, connection, error_class, shard, day, told_at, newest, well, alert_id, heard
)
SELECT :channel, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
       json_extract(value, '$[2]'), json_extract(value, '$[3]'),
       json_extract(value, '$[4]'),
       :told_at, :newest, :well, :alert_id, :heard
FROM json_each(:facts)
WHERE TRUE
ON CONFLICT (channel, work, connection, error_class, shard, day) DO UPDATE
SET told_at = excluded.told_at, newest = excluded.newest, well = excluded.well, alert_id = excluded.alert_id,
    heard = excluded.heard

-- name: alerts_forget
DELETE FROM dwhctl_alert_failures
WHERE channel = :channel AND (work, connection, error_class, shard, day) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
           json_extract(value, '$[2]'), json_extract(value, '$[3]'),
           json_extract(value, '$[4]')
    FROM json_each(:facts)
)
