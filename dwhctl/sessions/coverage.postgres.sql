-- name: latest_of_slices
-- The latest session of every slice of a load, and when its last successful one started: two index look-ups for each
-- slice, however many sessions it has. A success that started after `until` does not count: it is of a clock that was
-- ahead. `days` and `shards` are arrays; the result has the positions in them.
SELECT days.place - 1, shards.place - 1, latest.state, latest.started, good.started AS last_success, latest.id
FROM unnest(:days::date[]) WITH ORDINALITY AS days (day, place)
CROSS JOIN unnest(:shards::text[]) WITH ORDINALITY AS shards (shard, place)
CROSS JOIN LATERAL (
    SELECT id, task_name, state, started FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND slice_date = days.day AND shard = shards.shard
    ORDER BY id DESC LIMIT 1
) AS latest
LEFT JOIN LATERAL (
    SELECT started FROM sessions
    WHERE run_id IS NOT NULL AND state <> 'running' AND state IN ('loaded', 'skipped') AND task_name = latest.task_name
      AND slice_date = days.day AND started <= :until
    ORDER BY started DESC LIMIT 1
) AS good ON true

-- name: last_good
-- The last successful session of the newest day of each task that has one, and of the day before it: two steps in the
-- index for each task, however long it has been failing. A session that started after `until` does not count. `tasks`
-- is an array; a task is named by its place in it.
SELECT tasks.place - 1, newest.slice_date, newest.started, older.slice_date, older.started
FROM unnest(:tasks::text[]) WITH ORDINALITY AS tasks (name, place)
CROSS JOIN LATERAL (
    SELECT slice_date, started FROM sessions
    WHERE run_id IS NOT NULL AND state <> 'running' AND state IN ('loaded', 'skipped') AND task_name = tasks.name
      AND started <= :until
    ORDER BY slice_date DESC, started DESC LIMIT 1
) AS newest
LEFT JOIN LATERAL (
    SELECT slice_date, started FROM sessions
    WHERE run_id IS NOT NULL AND state <> 'running' AND state IN ('loaded', 'skipped') AND task_name = tasks.name
      AND started <= :until
      -- The first day that the server knows has none before it.
      AND slice_date = CASE WHEN newest.slice_date > '0001-01-01' THEN newest.slice_date - 1 END
    ORDER BY started DESC LIMIT 1
) AS older ON true
