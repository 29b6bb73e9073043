-- What `dwhctl report metrics` reads, in PostgreSQL. `tasks` is an array.

-- name: newest_closed
-- Of each task the last closed session of its newest slice.
SELECT tasks.place - 1, last.id, last.run_id, last.state, last.started, last.finished, last.loaded_rows, last.attempt
FROM unnest(:tasks::text[]) WITH ORDINALITY AS tasks (name, place)
CROSS JOIN LATERAL (
    SELECT id, run_id, state, started, finished, loaded_rows, attempt FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.name AND slice_date IS NOT NULL AND state <> 'running'
    ORDER BY slice_date DESC, id DESC LIMIT 1
) AS last

-- name: last_successes
-- When each task succeeded last: of its newest slice that did, no older than `first`.
SELECT tasks.place - 1, last.finished
FROM unnest(:tasks::text[]) WITH ORDINALITY AS tasks (name, place)
CROSS JOIN LATERAL (
    SELECT finished FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.name AND slice_date IS NOT NULL
      AND slice_date >= :first AND state <> 'running' AND state IN ('loaded', 'skipped')
    ORDER BY slice_date DESC, id DESC LIMIT 1
) AS last
