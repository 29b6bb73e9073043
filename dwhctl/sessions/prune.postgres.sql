-- name: prune
-- Delete and sums are one statement, so one transaction. In order of the slices: two that prune at once then wait for
-- each other's sums and not in a circle.
WITH gone AS (
    DELETE FROM sessions
    WHERE id = ANY(:ids::bigint[]) AND run_id IS NOT NULL AND state <> 'running'
    RETURNING load, shard, slice_date, state, loaded_rows, bytes, started, finished
), folded AS (
    INSERT INTO dwhctl_days (
        load, shard, slice_date, sessions, loaded, skipped, up_for_retry, failed, abandoned, loaded_rows, bytes,
        seconds, first_started, last_started
    )
    SELECT load, shard, slice_date, count(*), count(*) FILTER (WHERE state = 'loaded'),
           count(*) FILTER (WHERE state = 'skipped'), count(*) FILTER (WHERE state = 'up_for_retry'),
           count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'abandoned'),
           coalesce(sum(loaded_rows) FILTER (WHERE loaded_rows BETWEEN 0 AND 1000000000000000), 0),
           coalesce(sum(bytes) FILTER (WHERE bytes BETWEEN 0 AND 1000000000000000), 0),
           coalesce(sum(CASE WHEN isfinite(finished) AND isfinite(started)
                             THEN extract(epoch FROM finished - started) END), 0)::double precision, min(started), max(started)
    FROM gone
    GROUP BY load, shard, slice_date
    ORDER BY load, shard, slice_date
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
        first_started = least(dwhctl_days.first_started, excluded.first_started),
        last_started = greatest(dwhctl_days.last_started, excluded.last_started)
    RETURNING 1
)
SELECT count(*) FROM gone
