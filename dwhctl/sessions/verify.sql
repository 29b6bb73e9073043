-- What `verify` asks.

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
