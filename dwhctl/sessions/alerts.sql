-- The outbox: one row for each digest and channel, written before anything is sent; and what each channel was
-- last told to be failing. What the states mean stands in docs/alerts.md.

-- name: alerts_queue
INSERT INTO dwhctl_alerts (created, run_id, channel, kind, subject, digest, state, attempts, doubts)
VALUES (:created, :run_id, :channel, :kind, :subject, :digest, 'queued', 0, 0)
RETURNING id

-- name: alerts_due_channels
-- A channel that wants to be left alone is left alone with all that waits for it.
SELECT channel
FROM dwhctl_alerts
WHERE (
    state = 'queued'
    OR (state = 'unknown' AND doubts < 2)
    OR (state = 'sending' AND lease_until < :now)
)
AND channel NOT IN (SELECT channel FROM dwhctl_alerts WHERE state = 'queued' AND not_before > :now)
GROUP BY channel
ORDER BY min(id)

-- name: alerts_due
-- Oldest first. What was sent and not answered is sent once more; so is what a run that died, or hangs, had in hand.
SELECT id, created, channel, subject, digest
FROM dwhctl_alerts
WHERE channel = :channel AND (
    state = 'queued'
    OR (state = 'unknown' AND doubts < 2)
    OR (state = 'sending' AND lease_until < :now)
)
ORDER BY id
LIMIT :limit

-- name: alerts_claim
-- Of two runs one takes the row: the other's condition does not hold any more.
UPDATE dwhctl_alerts
SET doubts = doubts + CASE WHEN state = 'sending' THEN 1 ELSE 0 END,
    state = 'sending', claim = :claim, lease_until = :lease_until, attempts = attempts + 1, not_before = NULL
WHERE id = :id AND (
    state = 'queued'
    OR (state = 'unknown' AND doubts < 2)
    OR (state = 'sending' AND lease_until < :now)
)
RETURNING doubts

-- name: alerts_settle
UPDATE dwhctl_alerts
SET state = :state, answer = :answer, sent_at = :sent_at, not_before = :not_before,
    doubts = doubts + :doubt, claim = NULL, lease_until = NULL
WHERE id = :id AND claim = :claim

-- name: alerts_heard
UPDATE dwhctl_alert_facts SET heard = TRUE WHERE alert_id = :id

-- name: alerts_newest
SELECT id, created, channel, subject, state, answer, attempts, sent_at
FROM dwhctl_alerts
WHERE state <> :hidden
ORDER BY id DESC
LIMIT :limit

-- name: alerts_facts
-- What a channel refused for good it was not told; what still waits for it, it will be.
SELECT f.work, f.connection, f.error_class, f.shard, f.told_at, f.day, f.newest, f.well, f.alert_id,
       f.heard OR coalesce(a.state, '') NOT IN ('refused', 'given_up')
FROM dwhctl_alert_facts AS f LEFT JOIN dwhctl_alerts AS a ON a.id = f.alert_id
WHERE f.channel = :channel

-- name: alerts_remember
INSERT INTO dwhctl_alert_facts (
    channel, work, connection, error_class, shard, told_at, day, newest, well, alert_id, heard
)
VALUES (
    :channel, :work, :connection, :error_class, :shard, :told_at, :day, :newest, :well, :alert_id, :heard
)
ON CONFLICT (channel, work, connection, error_class, shard) DO UPDATE
SET told_at = excluded.told_at, day = excluded.day, newest = excluded.newest, well = excluded.well,
    alert_id = excluded.alert_id, heard = excluded.heard

-- name: alerts_forget
DELETE FROM dwhctl_alert_facts
WHERE channel = :channel AND work = :work AND connection = :connection AND error_class = :error_class
  AND shard = :shard
