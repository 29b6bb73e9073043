-- What `dwhctl report metrics` reads, as SQLite says it. `tasks` and `ids` are JSON lists.

-- name: newest_closed
-- Of each task the last closed session of its newest slice.
SELECT tasks.key, last.id, last.run_id, last.state, last.started, last.finished, last.loaded_rows
FROM json_each(:tasks) AS tasks CROSS JOIN sessions AS last
WHERE last.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.value AND slice_date IS NOT NULL AND state <> 'running'
    ORDER BY slice_date DESC, id DESC LIMIT 1
)

-- name: streaks
-- How many slices in a row were unsuccessful, back from the sessions that are given: they are unsuccessful. So many at
-- most are counted.
WITH RECURSIVE walk (place, id, streak) AS (
    SELECT key, value, 1 FROM json_each(:ids)
    UNION ALL
    SELECT walk.place, older.id, walk.streak + 1
    FROM walk JOIN sessions AS newer ON newer.id = walk.id CROSS JOIN sessions AS older
    WHERE walk.streak < :most AND older.id = (
        SELECT last.id FROM sessions AS last
        WHERE last.run_id IS NOT NULL AND last.task_name = newer.task_name
          AND last.slice_date < newer.slice_date AND last.state <> 'running'
        ORDER BY last.slice_date DESC, last.id DESC LIMIT 1
    ) AND older.state IN ('up_for_retry', 'failed', 'abandoned')
)
SELECT place, max(streak) FROM walk GROUP BY place

-- name: last_successes
-- When each task succeeded last: of its newest slice that did, no older than `first`.
SELECT tasks.key, last.finished
FROM json_each(:tasks) AS tasks CROSS JOIN sessions AS last
WHERE last.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND task_name = tasks.value AND slice_date IS NOT NULL
      AND slice_date >= :first AND state IN ('loaded', 'skipped')
    ORDER BY slice_date DESC, id DESC LIMIT 1
)
