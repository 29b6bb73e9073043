-- The statements that only SQLite executes. The times are texts: '2020-07-13 01:02:03.000004+00:00', always in UTC and
-- always of one length, so that they sort as times do and SQLite's own date functions read them.

-- name: connect
-- An id must outlive a power cut: FULL makes every commit wait for the disk.
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = OFF;
-- Kibibytes, taken as they are needed: a report over all loads comes back to the same pages again and again.
PRAGMA cache_size = -65536

-- name: create_table
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_name VARCHAR(200) NOT NULL,
    started TIMESTAMPTZ NOT NULL,
    finished TIMESTAMPTZ,
    successful BOOL,
    loaded_rows BIGINT,
    comment VARCHAR(500)
)

-- name: add_columns
ALTER TABLE sessions ADD COLUMN run_id TEXT;
ALTER TABLE sessions ADD COLUMN load TEXT;
ALTER TABLE sessions ADD COLUMN shard TEXT;
ALTER TABLE sessions ADD COLUMN slice_date DATE;
ALTER TABLE sessions ADD COLUMN attempt INTEGER;
ALTER TABLE sessions ADD COLUMN state TEXT;
ALTER TABLE sessions ADD COLUMN staged TEXT;
ALTER TABLE sessions ADD COLUMN extracted_rows BIGINT;
ALTER TABLE sessions ADD COLUMN bytes BIGINT;
ALTER TABLE sessions ADD COLUMN error_class TEXT;
ALTER TABLE sessions ADD COLUMN host TEXT;
ALTER TABLE sessions ADD COLUMN pid INTEGER;
ALTER TABLE sessions ADD COLUMN dwhctl_version TEXT;
ALTER TABLE sessions ADD COLUMN worker INTEGER;
ALTER TABLE sessions ADD COLUMN busy_seconds REAL

-- name: table
SELECT type = 'table', sql FROM sqlite_schema WHERE name = 'sessions' COLLATE NOCASE AND type IN ('table', 'view')

-- name: tables
SELECT name FROM sqlite_schema WHERE type = 'table'

-- name: columns
SELECT lower(name), type, "notnull", dflt_value IS NOT NULL OR hidden > 0 OR pk > 0,
       pk > 0 AND (SELECT count(*) FROM pragma_table_xinfo('sessions') WHERE pk > 0) = 1
FROM pragma_table_xinfo('sessions')

-- name: indexes
SELECT name, TRUE FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'sessions' COLLATE NOCASE

-- name: attached
-- Other programs' indexes and triggers on the table: gone with it when it is made anew, so made anew as well.
SELECT sql FROM sqlite_schema
WHERE type IN ('index', 'trigger') AND tbl_name = 'sessions' COLLATE NOCASE AND sql IS NOT NULL

-- name: copy_rows
-- Rows whose id the other program left NULL get one here, above all others.
INSERT INTO dwhctl_sessions_anew (id, task_name, started, finished, successful, loaded_rows, comment)
SELECT id, task_name, started, finished, successful, loaded_rows, comment
FROM sessions
ORDER BY id IS NULL, id, rowid

-- name: last_id
SELECT max(
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sessions'), 0),
    coalesce((SELECT max(id) FROM sessions), 0)
)

-- name: raise_id_floor
-- AUTOINCREMENT's own memory, which has no row before the first insert.
UPDATE sqlite_sequence SET seq = max(seq, :above) WHERE name = 'sessions'

-- name: begin_ids
INSERT INTO sqlite_sequence (name, seq) VALUES ('sessions', :above)

-- name: open
INSERT INTO sessions (
    task_name, started, run_id, load, shard, slice_date, attempt, state, staged, host, pid, dwhctl_version, worker
)
VALUES (
    :task_name, :started, :run_id, :load, :shard, :day, :attempt, 'running', :staged, :host, :pid, :version, :worker
)
RETURNING staged, id

-- name: adopt
INSERT INTO sessions (
    task_name, started, finished, successful, loaded_rows, comment, run_id, load, shard, slice_date, attempt, state,
    staged, host, pid, dwhctl_version
)
VALUES (
    :task_name, :at, :at, TRUE, :rows, :comment, :run_id, :load, :shard, :day, 0, :state, '', :host, :pid, :version
)
RETURNING id

-- name: close
UPDATE sessions
SET state = :state, successful = :successful, finished = :finished, loaded_rows = :loaded_rows,
    extracted_rows = :extracted_rows, bytes = :bytes, error_class = :error_class, comment = :comment,
    busy_seconds = :busy_seconds
WHERE id = :id AND state = 'running' AND run_id IS NOT NULL

-- name: durations
-- Of so many sessions, not of so many days: a load may run once a day or once a minute.
-- What was adopted (attempt 0) took no time.
SELECT shard, avg(seconds)
FROM (
    SELECT shard, (julianday(finished) - julianday(started)) * 86400.0 AS seconds
    FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND attempt > 0 AND successful AND finished IS NOT NULL
    ORDER BY slice_date DESC
    LIMIT :newest
) AS lately
GROUP BY shard

-- name: runs_lately
-- Of each run the seconds of its sessions added up, and its seconds by the clock.
SELECT sum(julianday(finished) - julianday(started)) * 86400.0,
       (julianday(max(finished)) - julianday(min(started))) * 86400.0
FROM (
    SELECT run_id, started, finished
    FROM sessions
    WHERE run_id IS NOT NULL AND finished IS NOT NULL
    ORDER BY id DESC
    LIMIT :newest
) AS lately
GROUP BY run_id
