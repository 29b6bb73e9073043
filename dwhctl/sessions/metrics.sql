-- What `dwhctl report metrics` reads, the same in SQLite and PostgreSQL. The rest reads single tasks, each by one
-- step in an index, however long the history is.

-- name: running_by_load
-- (`|| ''`: else SQLite would walk the whole index by load to have the groups in order.)
SELECT min(load), shard IS NULL, count(*) FROM sessions
WHERE state = 'running' AND run_id IS NOT NULL
GROUP BY load || '', shard IS NULL
