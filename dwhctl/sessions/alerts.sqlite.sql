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

-- name: table dwhctl_alert_facts
CREATE TABLE dwhctl_alert_facts (
    channel TEXT NOT NULL,
    work TEXT NOT NULL,
    connection TEXT NOT NULL,
    error_class TEXT NOT NULL,
    shard TEXT NOT NULL,
    told_at TIMESTAMPTZ NOT NULL,
    day DATE,
    newest BOOL NOT NULL,
    well BOOL NOT NULL,
    alert_id INTEGER,
    heard BOOL NOT NULL,
    PRIMARY KEY (channel, work, connection, error_class, shard)
)

-- name: alerts_alone
-- Whoever writes is alone anyway.
SELECT 1
