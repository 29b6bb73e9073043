-- What `dwhctl report metrics` reads, as PostgreSQL says it. `tasks` and `ids` are arrays.

-- name: newest_closed
-- Of each task the last closed session of its newest slice.
SELECT tasks.place - 1, last.id, last.run_id, last.state, last.started, last.finished, last.loaded_rows
FROM unnest(:tasks::text[]) WITH ORDINALITY AS tasks (name, place)
CROSS JOIN LATERAL (
    SELECT id, run_id, state, started, finished, loaded_rows FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.name AND slice_date IS NOT NULL AND state <> 'running'
    ORDER BY slice_date DESC, id DESC LIMIT 1
) AS last

-- name: streaks
-- How many slices in a row were unsuccessful, back from the sessions that are given: they are unsuccessful. So many at
-- most are counted.
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
SELECT place, max(streak) FROM walk
WHERE state IN ('up_for_retry', 'failed', 'abandoned')
GROUP BY place

-- name: last_successes
-- When each task succeeded last: of its newest slice that did, no older than `first`.
SELECT tasks.place - 1, last.finished
FROM unnest(:tasks::text[]) WITH ORDINALITY AS tasks (name, place)
CROSS JOIN LATERAL (
    SELECT finished FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.name AND slice_date IS NOT NULL
      AND slice_date >= :first AND state IN ('loaded', 'skipped')
    ORDER BY slice_date DESC, id DESC LIMIT 1
) AS last
