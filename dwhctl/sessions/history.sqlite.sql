-- What `dwhctl report` reads of the past, in SQLite.

-- name: streaks
-- How many slices in a row are unsuccessful, and since which day, going back from the given sessions, which are
-- unsuccessful; so many at most are counted. `ids` is a JSON list.
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
SELECT walk.place, max(walk.streak), min(slice_date) AS slice_date
FROM walk JOIN sessions ON sessions.id = walk.id
GROUP BY walk.place

-- name: task_durations
-- The milliseconds of a task's sessions as a text `id ms,id ms,...`, in no order.
-- What was adopted (attempt 0) took no time.
SELECT max(load), max(shard),
       group_concat(id || ' ' || CAST(round((julianday(finished) - julianday(started)) * 86400000) AS INTEGER))
FROM sessions
WHERE run_id IS NOT NULL AND started >= :since AND attempt > 0 AND successful AND finished IS NOT NULL
GROUP BY task_name || ''

-- name: of_ids
SELECT $columns FROM sessions WHERE run_id IS NOT NULL AND id IN (SELECT value FROM json_each(:ids))
