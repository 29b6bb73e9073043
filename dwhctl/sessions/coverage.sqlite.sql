-- name: latest_of_slices
-- The latest session of every slice of a load, and when its last successful one started: two index look-ups for each
-- slice, however many sessions it has. A success that started after `until` does not count: it is of a clock that was
-- ahead. `days` and `shards` are JSON lists; the result has the positions in them.
SELECT days.key, shards.key, latest.state, latest.started, (
    SELECT started FROM sessions
    WHERE run_id IS NOT NULL AND state <> 'running' AND state IN ('loaded', 'skipped') AND task_name = latest.task_name
      AND slice_date = days.value AND started <= :until
    ORDER BY slice_date DESC, started DESC LIMIT 1
) AS last_success, latest.id
FROM json_each(:days) AS days CROSS JOIN json_each(:shards) AS shards CROSS JOIN sessions AS latest
WHERE latest.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND slice_date = days.value AND shard = shards.value
    ORDER BY id DESC LIMIT 1
)

-- name: last_good
-- The last successful session of the newest day of each task that has one, and of the day before it: two steps in the
-- index for each task, however long it has been failing. A session that started after `until` does not count. `tasks`
-- is a JSON list; a task is named by its place in it.
SELECT tasks.key, newest.slice_date, newest.started, older.slice_date, older.started
FROM json_each(:tasks) AS tasks
CROSS JOIN sessions AS newest ON newest.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND state <> 'running' AND state IN ('loaded', 'skipped') AND task_name = tasks.value
      AND started <= :until
    ORDER BY slice_date DESC, started DESC LIMIT 1
)
LEFT JOIN sessions AS older ON older.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND state <> 'running' AND state IN ('loaded', 'skipped') AND task_name = tasks.value
      AND started <= :until
      AND slice_date = date(newest.slice_date, '-1 day')
    ORDER BY started DESC LIMIT 1
)
