-- What says which slices are complete: the same in SQLite and PostgreSQL.

-- name: first_day
-- The first day of a load that has a session.
SELECT slice_date FROM sessions
WHERE run_id IS NOT NULL AND load = :load
ORDER BY slice_date LIMIT 1
