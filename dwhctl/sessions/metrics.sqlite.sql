-- What `dwhctl report metrics` reads, in SQLite. `tasks` is a JSON list.

-- name: newest_closed
-- Of each task the last closed session of its newest slice.
SELECT tasks.key, last.id, last.run_id, last.state, last.started, last.finished, last.loaded_rows, last.attempt
FROM json_each(:tasks) AS tasks CROSS JOIN sessions AS last
WHERE last.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.value AND slice_date IS NOT NULL AND state <> 'running'
    ORDER BY slice_date DESC, id DESC LIMIT 1
)

-- name: last_successes
-- When each task succeeded last: of its newest slice that did, no older than `first`.
SELECT tasks.key, last.finished
FROM json_each(:tasks) AS tasks CROSS JOIN sessions AS last
WHERE last.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.value AND slice_date IS NOT NULL
      AND slice_date >= :first AND state <> 'running' AND state IN ('loaded', 'skipped')
    ORDER BY slice_date DESC, id DESC LIMIT 1
)
