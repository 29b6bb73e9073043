-- What `dwhctl report` reads of the past, the same in SQLite and PostgreSQL.

-- name: unsuccessful_slices
-- The slices whose last closed session is unsuccessful and ended lately. `replaced`: a later session succeeded for the
-- same day or a newer one, which clears the failure of what is replaced whole. (Only the last unsuccessful session of a
-- slice is looked at: a slice that is tried often has many. Subqueries with LIMIT: PostgreSQL would plan EXISTS as a
-- join that scans the whole table.)
SELECT id, task_name, load, shard, slice_date, state, finished, error_class, comment, (
    SELECT good.started FROM sessions AS good
    WHERE good.run_id IS NOT NULL AND good.state <> 'running' AND good.state IN ('loaded', 'skipped')
      AND good.task_name = tried.task_name AND good.slice_date >= tried.slice_date AND good.started > tried.started
    LIMIT 1
) IS NOT NULL AS replaced
FROM (
    SELECT *, row_number() OVER (PARTITION BY task_name, slice_date ORDER BY id DESC) AS place
    FROM sessions
    WHERE run_id IS NOT NULL AND state IN ('up_for_retry', 'failed', 'abandoned') AND finished >= :since
      AND slice_date IS NOT NULL
) AS tried
WHERE place = 1 AND (
    SELECT later.id FROM sessions AS later
    WHERE later.run_id IS NOT NULL AND later.task_name = tried.task_name AND later.slice_date = tried.slice_date
      AND later.id > tried.id AND later.state <> 'running'
    LIMIT 1
  ) IS NULL

-- name: newest_runs
-- A run's id begins with its moment. From one id to the next below it is one step in the index.
WITH RECURSIVE newest (run_id, place) AS (
    SELECT max(run_id), 1 FROM sessions WHERE run_id IS NOT NULL
    UNION ALL
    SELECT (SELECT max(older.run_id) FROM sessions AS older WHERE older.run_id < newest.run_id), place + 1
    FROM newest
    WHERE place < :limit AND newest.run_id IS NOT NULL
)
SELECT min(s.run_id), s.load, s.shard IS NULL, min(s.started) AS started, max(s.finished) AS finished,
       count(*) FILTER (WHERE s.attempt <= 1),
       count(*) FILTER (WHERE s.state = 'loaded'), count(*) FILTER (WHERE s.state = 'skipped'),
       count(*) FILTER (WHERE s.state = 'failed'), count(*) FILTER (WHERE s.state = 'up_for_retry'),
       count(*) FILTER (WHERE s.state = 'abandoned'), count(*) FILTER (WHERE s.state = 'running'),
       -- A slice has no more than a trillion rows: a sum of other numbers could be too large for the database.
       CAST(sum(CASE WHEN s.loaded_rows BETWEEN 0 AND 1000000000000000 THEN s.loaded_rows END) AS BIGINT),
       max(s.host), max(s.pid)
FROM newest JOIN sessions AS s ON s.run_id = newest.run_id
WHERE newest.run_id >= :first
GROUP BY newest.place, s.load, s.shard IS NULL

-- name: history
-- A list of names is a text `,a,b,`: a name is in it if the list without it is another one.
SELECT $columns
FROM sessions
WHERE run_id IS NOT NULL AND started >= :since
  AND (:states IS NULL OR replace(:states, ',' || state || ',', '') <> :states)
  AND (:loads IS NULL OR replace(:loads, ',' || load || ',', '') <> :loads)
  AND (:shards IS NULL OR replace(:shards, ',' || shard || ',', '') <> :shards)
ORDER BY started DESC, id DESC
LIMIT :limit

-- name: history_of_run
SELECT $columns
FROM sessions
WHERE run_id = :run_id AND started >= :since
  AND (:states IS NULL OR replace(:states, ',' || state || ',', '') <> :states)
  AND (:loads IS NULL OR replace(:loads, ',' || load || ',', '') <> :loads)
  AND (:shards IS NULL OR replace(:shards, ',' || shard || ',', '') <> :shards)
ORDER BY id DESC
LIMIT :limit

-- name: newest_id
SELECT id FROM sessions WHERE run_id IS NOT NULL ORDER BY id DESC LIMIT 1

-- name: started_of
SELECT started FROM sessions WHERE run_id IS NOT NULL AND id >= :id ORDER BY id LIMIT 1

-- name: newest_run_ids
WITH RECURSIVE newest (run_id, place) AS (
    SELECT max(run_id), 1 FROM sessions WHERE run_id IS NOT NULL
    UNION ALL
    SELECT (SELECT max(older.run_id) FROM sessions AS older WHERE older.run_id < newest.run_id), place + 1
    FROM newest
    WHERE place < :limit AND newest.run_id IS NOT NULL
)
SELECT run_id FROM newest WHERE run_id IS NOT NULL ORDER BY place
