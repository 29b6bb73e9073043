-- What `dwhctl report` reads of the past, as SQLite says it.

-- name: failures
-- The streaks of the tasks that failed lately. `walk` goes from slice to slice of a task, newest first, each time to the
-- last closed session, and on as long as it was unsuccessful: it reads as many rows as the streaks are long, however
-- long the history is. Reports have no shard: a task is known by its name. (`|| ''`: else SQLite would find the distinct
-- names by walking the whole index of all tasks.)
WITH RECURSIVE lately (task_name) AS (
    SELECT DISTINCT task_name || ''
    FROM sessions
    WHERE run_id IS NOT NULL AND state IN ('up_for_retry', 'failed', 'abandoned') AND finished >= :since
),
walk (id) AS (
    SELECT (
        SELECT last.id FROM sessions AS last
        WHERE last.run_id IS NOT NULL AND last.task_name = lately.task_name
          AND last.slice_date IS NOT NULL AND last.state <> 'running'
        ORDER BY last.slice_date DESC, last.id DESC LIMIT 1
    )
    FROM lately
    UNION ALL
    SELECT (
        SELECT last.id FROM sessions AS last
        WHERE last.run_id IS NOT NULL AND last.task_name = newer.task_name
          AND last.slice_date < newer.slice_date AND last.state <> 'running'
        ORDER BY last.slice_date DESC, last.id DESC LIMIT 1
    )
    FROM walk JOIN sessions AS newer ON newer.id = walk.id
    WHERE newer.state IN ('up_for_retry', 'failed', 'abandoned')
),
streaks AS (
    SELECT task_name, load, shard, slice_date, state, finished, error_class, comment,
           row_number() OVER (PARTITION BY task_name ORDER BY finished DESC, sessions.id DESC) AS age
    FROM walk JOIN sessions ON sessions.id = walk.id
    WHERE state IN ('up_for_retry', 'failed', 'abandoned')
)
SELECT task_name, max(load), max(shard), count(*),
       count(*) FILTER (WHERE state <> 'up_for_retry'), count(*) FILTER (WHERE state = 'up_for_retry'),
       min(slice_date) AS slice_date, max(finished) AS finished,
       max(error_class) FILTER (WHERE age = 1), max(comment) FILTER (WHERE age = 1)
FROM streaks
GROUP BY task_name
HAVING max(finished) >= :since

-- name: task_durations
-- The milliseconds of a task's sessions as a text `id ms,id ms,...`, in no order.
SELECT max(load), max(shard),
       group_concat(id || ' ' || CAST(round((julianday(finished) - julianday(started)) * 86400000) AS INTEGER))
FROM sessions
WHERE run_id IS NOT NULL AND started >= :since AND successful AND finished IS NOT NULL
GROUP BY task_name || ''
