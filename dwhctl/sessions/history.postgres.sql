-- What `dwhctl report` reads of the past, as PostgreSQL says it.

-- name: failures
-- The streaks of the tasks that failed lately. `walk` goes from slice to slice of a task, newest first, each time to the
-- last closed session, and on as long as it was unsuccessful: it reads as many rows as the streaks are long, however
-- long the history is. Reports have no shard: a task is known by its name. (LATERAL: a join by id would be planned as a
-- scan of the whole table.)
WITH RECURSIVE lately (task_name) AS (
    SELECT DISTINCT task_name
    FROM sessions
    WHERE run_id IS NOT NULL AND state IN ('up_for_retry', 'failed', 'abandoned') AND finished >= :since
),
walk AS (
    SELECT last.*
    FROM lately CROSS JOIN LATERAL (
        SELECT id, task_name, load, shard, slice_date, state, finished, error_class, comment FROM sessions
        WHERE run_id IS NOT NULL AND task_name = lately.task_name
          AND slice_date IS NOT NULL AND state <> 'running'
        ORDER BY slice_date DESC, id DESC LIMIT 1
    ) AS last
    UNION ALL
    SELECT last.*
    FROM walk CROSS JOIN LATERAL (
        SELECT id, task_name, load, shard, slice_date, state, finished, error_class, comment FROM sessions
        WHERE run_id IS NOT NULL AND task_name = walk.task_name
          AND slice_date < walk.slice_date AND state <> 'running'
        ORDER BY slice_date DESC, id DESC LIMIT 1
    ) AS last
    WHERE walk.state IN ('up_for_retry', 'failed', 'abandoned')
),
streaks AS (
    SELECT *, row_number() OVER (PARTITION BY task_name ORDER BY finished DESC, id DESC) AS age
    FROM walk
    WHERE state IN ('up_for_retry', 'failed', 'abandoned')
)
SELECT task_name, max(load), max(shard), count(*),
       count(*) FILTER (WHERE state <> 'up_for_retry'), count(*) FILTER (WHERE state = 'up_for_retry'),
       min(slice_date), max(finished),
       max(error_class) FILTER (WHERE age = 1), max(comment) FILTER (WHERE age = 1)
FROM streaks
GROUP BY task_name
HAVING max(finished) >= :since

-- name: task_durations
-- The milliseconds of a task's sessions as a text `id ms,id ms,...`, in no order.
SELECT max(load), max(shard), string_agg(id || ' ' || round(extract(epoch FROM finished - started) * 1000), ',')
FROM sessions
WHERE run_id IS NOT NULL AND started >= :since AND successful AND isfinite(finished) AND isfinite(started)
GROUP BY task_name
