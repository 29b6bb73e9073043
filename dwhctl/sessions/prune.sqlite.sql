-- Both are one transaction.

-- name: fold
INSERT INTO dwhctl_days (
    load, shard, slice_date, sessions, loaded, skipped, up_for_retry, failed, abandoned, loaded_rows, bytes, seconds,
    first_started, last_started
)
SELECT load, shard, slice_date, count(*), sum(state = 'loaded'), sum(state = 'skipped'),
       sum(state = 'up_for_retry'), sum(state = 'failed'), sum(state = 'abandoned'),
       coalesce(sum(CASE WHEN loaded_rows BETWEEN 0 AND 1000000000000000 THEN loaded_rows END), 0),
       coalesce(sum(CASE WHEN bytes BETWEEN 0 AND 1000000000000000 THEN bytes END), 0),
       coalesce(sum((julianday(finished) - julianday(started)) * 86400.0), 0.0), min(started), max(started)
FROM sessions
WHERE id IN (SELECT value FROM json_each(:ids)) AND run_id IS NOT NULL AND state <> 'running'
GROUP BY load, shard, slice_date
ON CONFLICT (load, shard, slice_date) DO UPDATE SET
    sessions = dwhctl_days.sessions + excluded.sessions,
    loaded = dwhctl_days.loaded + excluded.loaded,
    skipped = dwhctl_days.skipped + excluded.skipped,
    up_for_retry = dwhctl_days.up_for_retry + excluded.up_for_retry,
    failed = dwhctl_days.failed + excluded.failed,
    abandoned = dwhctl_days.abandoned + excluded.abandoned,
    loaded_rows = dwhctl_days.loaded_rows + excluded.loaded_rows,
    bytes = dwhctl_days.bytes + excluded.bytes,
    seconds = dwhctl_days.seconds + excluded.seconds,
    first_started = min(dwhctl_days.first_started, excluded.first_started),
    last_started = max(dwhctl_days.last_started, excluded.last_started)

-- name: forget
DELETE FROM sessions
WHERE id IN (SELECT value FROM json_each(:ids)) AND run_id IS NOT NULL AND state <> 'running'
