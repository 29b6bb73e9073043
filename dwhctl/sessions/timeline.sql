-- name: next_run
-- The first run whose id is the given text or comes after it.
SELECT run_id FROM sessions
WHERE run_id IS NOT NULL AND run_id >= :text
ORDER BY run_id LIMIT 1

-- name: run_after
SELECT run_id FROM sessions
WHERE run_id IS NOT NULL AND run_id > :text
ORDER BY run_id LIMIT 1
