-- The outbox: one row for each digest and channel, written before anything is sent; and the failures
-- of which each channel was last notified. docs/alerts.md explains the states.

-- name: alerts_queue
INSERT INTO dwhctl_alerts (created, run_id, channel, kind, subject, digest, state, attempts, doubts)
VALUES (:created, :run_id, :channel, :kind, :subject, :digest, 'queued', 0, 0)
RETURNING id

-- name: alerts_due_channels
-- A channel that asked for a pause, or refused a message lately, gets nothing now.
SELECT channel
FROM dwhctl_alerts
WHERE (
    state = 'queued'
    OR (state = 'refused' AND not_before <= :now)
    OR (state = 'unknown' AND doubts < 2)
    OR (state = 'sending' AND lease_until < :now)
)
AND channel NOT IN (
    SELECT channel FROM dwhctl_alerts WHERE state IN ('queued', 'refused') AND not_before > :now
)
GROUP BY channel
ORDER BY min(id)

-- name: alerts_due
-- Oldest first, and what was refused last: one message that a channel refuses must not hold up the others. What was
-- sent and not answered is sent once more; so is what a run that died, or hangs, had in hand.
SELECT id, created, channel, subject, digest
FROM dwhctl_alerts
WHERE channel = :channel AND (
    state = 'queued'
    OR (state = 'refused' AND not_before <= :now)
    OR (state = 'unknown' AND doubts < 2)
    OR (state = 'sending' AND lease_until < :now)
)
ORDER BY CASE WHEN state = 'refused' THEN attempts ELSE 0 END, id
LIMIT :limit

-- name: alerts_claim
-- Of two runs one takes the row: the condition of the other no longer holds.
UPDATE dwhctl_alerts
SET doubts = doubts + CASE WHEN state = 'sending' THEN 1 ELSE 0 END,
    state = 'sending', claim = :claim, lease_until = :lease_until, attempts = attempts + 1, not_before = NULL
WHERE id = :id AND (
    state = 'queued'
    OR (state = 'refused' AND not_before <= :now)
    OR (state = 'unknown' AND doubts < 2)
    OR (state = 'sending' AND lease_until < :now)
)
AND NOT EXISTS (
    SELECT 1 FROM dwhctl_alerts AS other
    WHERE other.channel = dwhctl_alerts.channel AND other.state IN ('queued', 'refused') AND other.not_before > :now
)
RETURNING doubts

-- name: alerts_settle
UPDATE dwhctl_alerts
SET state = :state, answer = :answer, sent_at = :sent_at, not_before = :not_before,
    doubts = doubts + :doubt, claim = NULL, lease_until = NULL
WHERE id = :id AND claim = :claim

-- name: alerts_heard
UPDATE dwhctl_alert_failures SET heard = TRUE WHERE alert_id = :id

-- name: alerts_undelivered
-- What was not delivered, and no run is sending now: a later digest may replace it.
SELECT id, state, digest FROM dwhctl_alerts WHERE channel = :channel AND state IN ('queued', 'refused') ORDER BY id

-- name: alerts_replace
-- What was refused keeps its pause; what an earlier version left as refused, without one, is sent again.
UPDATE dwhctl_alerts
SET created = :created, run_id = :run_id, kind = :kind, subject = :subject, digest = :digest,
    state = CASE WHEN not_before IS NULL THEN 'queued' ELSE state END
WHERE id = :id AND state IN ('queued', 'refused')
RETURNING id

-- name: alerts_supersede
UPDATE dwhctl_alerts SET state = 'superseded' WHERE id = :id AND state IN ('queued', 'refused')

-- name: alerts_refusal
SELECT subject, answer FROM dwhctl_alerts
WHERE channel = :channel AND state = 'refused' AND not_before > :now
ORDER BY id DESC LIMIT 1

-- name: alerts_newest
SELECT id, created, channel, subject, state, answer, attempts, sent_at
FROM dwhctl_alerts
WHERE :everything = 1 OR state NOT IN ('sent', 'superseded')
ORDER BY id DESC
LIMIT :limit

-- name: alerts_facts
-- Of what a channel refused it was not notified; of what still waits for it, it will be.
SELECT f.work, f.connection, f.error_class, f.shard, f.day, f.told_at, f.newest, f.well, f.alert_id, f.heard,
       coalesce(a.state, '') IN ('queued', 'sending', 'sent', 'unknown')
FROM dwhctl_alert_failures AS f LEFT JOIN dwhctl_alerts AS a ON a.id = f.alert_id
WHERE f.channel = :channel AND f.day BETWEEN '1000-01-01' AND '8999-12-31'
