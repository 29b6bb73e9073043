-- What is the same in SQLite and PostgreSQL. Every block starts with a line "-- name: ..."; ":word" is a
-- bound value, "$columns" the columns of a session.

-- name: last_sessions
-- A success that started after `until` is of a clock that was ahead: it loaded rows, at a time that nobody knows, which
-- counts as `unknown`.
SELECT load, shard, slice_date, state, started, finished, last_success
FROM (
    SELECT load, shard, slice_date, state, started, finished,
           row_number() OVER (PARTITION BY slice_date, shard ORDER BY id DESC) AS age,
           max(CASE WHEN started <= :until THEN started ELSE :unknown END)
               FILTER (WHERE state IN ('loaded', 'skipped')) OVER (PARTITION BY slice_date, shard) AS last_success
    FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND slice_date BETWEEN :first AND :last
) AS newest_first
WHERE age = 1

-- name: unfinished_runs
-- Slices that wait for a retry are looked for among those of the last days only: the rows of all earlier
-- retries stay `up_for_retry` for ever, and would have to be looked through each time. A report has no shard: an
-- equation of its own, for the index serves no "both are NULL".
SELECT run_id
FROM (
    SELECT run_id, id FROM sessions WHERE state = 'running' AND run_id IS NOT NULL
    UNION ALL
    SELECT run_id, id
    FROM sessions AS waiting
    WHERE state = 'up_for_retry' AND state IN ('up_for_retry', 'failed', 'abandoned')
      AND run_id IS NOT NULL AND finished >= :since
      AND NOT EXISTS (
        SELECT 1 FROM sessions AS later
        WHERE later.load = waiting.load AND later.slice_date = waiting.slice_date
          AND later.shard = waiting.shard AND later.id > waiting.id AND later.run_id = waiting.run_id
      )
      AND NOT (waiting.shard IS NULL AND EXISTS (
        SELECT 1 FROM sessions AS later
        WHERE later.load = waiting.load AND later.slice_date = waiting.slice_date
          AND later.shard IS NULL AND later.id > waiting.id AND later.run_id = waiting.run_id
      ))
) AS unfinished
GROUP BY run_id
ORDER BY min(id)

-- name: unfinished
SELECT $columns FROM sessions WHERE run_id = :run_id AND state = 'running' ORDER BY id

-- name: of_run
SELECT $columns FROM sessions WHERE run_id = :run_id ORDER BY id

-- name: recent
SELECT $columns FROM sessions WHERE run_id IS NOT NULL ORDER BY id DESC LIMIT :limit

-- name: any_of_load
SELECT 1 FROM sessions WHERE run_id IS NOT NULL AND load = :load LIMIT 1

-- name: fail_waiting
UPDATE sessions
SET state = 'failed',
    comment = CASE
        WHEN :comment IS NULL THEN comment
        WHEN length(coalesce(comment || '; ', '') || :comment) <= 500
        THEN coalesce(comment || '; ', '') || :comment
        ELSE substr(coalesce(comment || '; ', '') || :comment, 1, 500 - length(:ellipsis)) || :ellipsis
    END
WHERE run_id = :run_id AND state = 'up_for_retry'
  AND NOT EXISTS (
    SELECT 1 FROM sessions AS later
    WHERE later.load = sessions.load AND later.slice_date = sessions.slice_date
      AND later.shard = sessions.shard AND later.id > sessions.id AND later.run_id = sessions.run_id
  )
  AND NOT (sessions.shard IS NULL AND EXISTS (
    SELECT 1 FROM sessions AS later
    WHERE later.load = sessions.load AND later.slice_date = sessions.slice_date
      AND later.shard IS NULL AND later.id > sessions.id AND later.run_id = sessions.run_id
  ))

-- Indexes. They leave out the rows of other programs, so that these pay nothing for them. Each is paid for by every
-- open and close (benchmarks/reports.py measures it): a new one needs a statement that none of these serves.

-- name: index sessions_of_slice
-- With run_id: whether a slice was tried again by the same run is asked of every retry of the last days.
CREATE INDEX IF NOT EXISTS sessions_of_slice
ON sessions (load, slice_date, shard, id DESC, run_id) WHERE run_id IS NOT NULL

-- name: index sessions_by_run
CREATE INDEX IF NOT EXISTS sessions_by_run
ON sessions (run_id, id) WHERE run_id IS NOT NULL

-- name: index sessions_running
CREATE INDEX IF NOT EXISTS sessions_running
ON sessions (run_id, id) WHERE state = 'running' AND run_id IS NOT NULL

-- name: index sessions_unsuccessful
-- SQLite uses it only where the statement repeats `state IN (...)` word for word.
CREATE INDEX IF NOT EXISTS sessions_unsuccessful
ON sessions (finished) WHERE state IN ('up_for_retry', 'failed', 'abandoned') AND run_id IS NOT NULL

-- name: index sessions_closed
-- The only index in which the sessions of a run are far from each other, so that each costs a page of its own: it has
-- no running sessions. SQLite uses it only where the statement repeats `state <> 'running'` word for word.
CREATE INDEX IF NOT EXISTS sessions_closed
ON sessions (task_name, slice_date, started, id, state) WHERE state <> 'running' AND run_id IS NOT NULL

-- name: index sessions_by_start
CREATE INDEX IF NOT EXISTS sessions_by_start
ON sessions (started) WHERE run_id IS NOT NULL
