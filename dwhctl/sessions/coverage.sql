-- Which slices are complete: the same in SQLite and PostgreSQL.

-- name: first_day
-- The first day of a load that has a session.
SELECT slice_date FROM sessions
WHERE run_id IS NOT NULL AND load = :load
ORDER BY slice_date LIMIT 1

-- name: closed_slices
-- Whether the last closed session of each slice of a load, or of a report on each day, succeeded.
SELECT id, shard, slice_date, state IN ('loaded', 'skipped')
FROM (
    SELECT id, shard, slice_date, state, row_number() OVER (PARTITION BY slice_date, shard ORDER BY id DESC) AS age
    FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND slice_date BETWEEN :first AND :last AND state <> 'running'
) AS newest_first
WHERE age = 1
