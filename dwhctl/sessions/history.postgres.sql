-- What `dwhctl report` reads of the past, in PostgreSQL.

-- name: streaks
-- How many slices in a row are unsuccessful, and since which day, going back from the given sessions, which are
-- unsuccessful; so many at most are counted. `ids` is an array. (LATERAL: a join by id would scan the whole table.)
WITH RECURSIVE walk AS (
    SELECT ids.place - 1 AS place, first.task_name, first.slice_date, 1 AS streak, first.state
    FROM unnest(:ids::bigint[]) WITH ORDINALITY AS ids (id, place)
    CROSS JOIN LATERAL (SELECT task_name, slice_date, state FROM sessions WHERE sessions.id = ids.id) AS first
    UNION ALL
    SELECT walk.place, walk.task_name, older.slice_date, walk.streak + 1, older.state
    FROM walk CROSS JOIN LATERAL (
        SELECT slice_date, state FROM sessions
        WHERE run_id IS NOT NULL AND task_name = walk.task_name
          AND slice_date < walk.slice_date AND state <> 'running'
        ORDER BY slice_date DESC, id DESC LIMIT 1
    ) AS older
    WHERE walk.streak < :most AND walk.state IN ('up_for_retry', 'failed', 'abandoned')
)
SELECT place, max(streak), min(slice_date) AS slice_date FROM walk
WHERE state IN ('up_for_retry', 'failed', 'abandoned')
GROUP BY place

-- name: task_durations
-- The milliseconds of a task's sessions as a text `id ms,id ms,...`, in no order.
-- What was adopted (attempt 0) took no time.
SELECT max(load), max(shard), string_agg(id || ' ' || round(extract(epoch FROM finished - started) * 1000), ',')
FROM sessions
WHERE run_id IS NOT NULL AND started >= :since AND attempt > 0 AND successful AND isfinite(finished) AND isfinite(started)
GROUP BY task_name

-- name: of_ids
SELECT $columns FROM sessions WHERE run_id IS NOT NULL AND id = ANY(:ids::bigint[])
