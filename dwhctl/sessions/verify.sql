-- What `verify` reads.

-- name: successful_sessions
SELECT id, shard
FROM sessions
WHERE run_id IS NOT NULL AND load = :load AND slice_date BETWEEN :first AND :last AND successful

-- name: successful_session
SELECT id
FROM sessions
WHERE id = :id AND run_id IS NOT NULL AND load = :load AND shard = :shard AND successful

-- name: running_tasks
SELECT DISTINCT load, shard
FROM sessions
WHERE state = 'running' AND run_id IS NOT NULL

-- name: adopted_shards
-- The shards whose last successful session of a load and day (or of all days) has adopted the rows of another tool.
SELECT shard
FROM (
    SELECT shard, attempt, row_number() OVER (PARTITION BY shard ORDER BY id DESC) AS age
    FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND slice_date BETWEEN :first AND :last AND successful
) AS newest_first
WHERE age = 1 AND attempt = 0
