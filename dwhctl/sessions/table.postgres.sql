-- The statements that only PostgreSQL executes.

-- name: connect
-- One statement per setting, sent together; statement_timeout and lock_timeout come with answer_timeout. `synchronous_commit = off` would let a crash of the server take
-- back a commit, and hand out its ids again. The server's side gives a vanished client up after 60 seconds,
-- later than the client gives up the server (postgres_link.py): a run must know first that it lost its lock.
SET TIME ZONE 'UTC';
SET default_transaction_isolation = 'read committed';
SET tcp_keepalives_idle = 30;
SET tcp_keepalives_interval = 10;
SET tcp_keepalives_count = 3;
SELECT set_config(name, '60000', false) FROM pg_settings WHERE name = 'tcp_user_timeout';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')

-- name: create_table
CREATE TABLE IF NOT EXISTS sessions (
    id SERIAL PRIMARY KEY,
    task_name VARCHAR(200) NOT NULL,
    started TIMESTAMPTZ NOT NULL,
    finished TIMESTAMPTZ,
    successful BOOL,
    loaded_rows BIGINT,
    comment VARCHAR(500)
)

-- name: add_columns
ALTER TABLE sessions
    ADD COLUMN IF NOT EXISTS run_id TEXT,
    ADD COLUMN IF NOT EXISTS load TEXT,
    ADD COLUMN IF NOT EXISTS shard TEXT,
    ADD COLUMN IF NOT EXISTS slice_date DATE,
    ADD COLUMN IF NOT EXISTS attempt INTEGER,
    ADD COLUMN IF NOT EXISTS state TEXT,
    ADD COLUMN IF NOT EXISTS staged TEXT,
    ADD COLUMN IF NOT EXISTS extracted_rows BIGINT,
    ADD COLUMN IF NOT EXISTS bytes BIGINT,
    ADD COLUMN IF NOT EXISTS error_class TEXT,
    ADD COLUMN IF NOT EXISTS host TEXT,
    ADD COLUMN IF NOT EXISTS pid INTEGER,
    ADD COLUMN IF NOT EXISTS dwhctl_version TEXT,
    ADD COLUMN IF NOT EXISTS worker INTEGER,
    ADD COLUMN IF NOT EXISTS busy_seconds DOUBLE PRECISION

-- name: raise_sequence
-- Other programs may have written ids of their own choice. Runs while the table is locked.
SELECT setval(pg_get_serial_sequence('sessions', 'id'), max(id)) FROM sessions
HAVING max(id) >= nextval(pg_get_serial_sequence('sessions', 'id'))

-- name: last_id
SELECT greatest(
    coalesce(pg_sequence_last_value(pg_get_serial_sequence('sessions', 'id')::regclass), 0),
    coalesce((SELECT max(id) FROM sessions), 0)
)

-- name: raise_id_floor
SELECT setval(pg_get_serial_sequence('sessions', 'id'), :above)
WHERE :above >= nextval(pg_get_serial_sequence('sessions', 'id'))

-- name: table
SELECT relkind = 'r' FROM pg_class WHERE oid = to_regclass('sessions')

-- name: tables
-- Where the table itself is found, or would be made.
SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'dwhctl%' AND pg_table_is_visible(oid)

-- name: columns
SELECT a.attname,
       format_type(a.atttypid, a.atttypmod),
       a.attnotnull,
       a.atthasdef OR a.attidentity <> '',
       EXISTS (
           SELECT 1 FROM pg_index AS i
           WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indpred IS NULL
             AND i.indkey::text = a.attnum::text
       )
FROM pg_attribute AS a
WHERE a.attrelid = to_regclass('sessions') AND a.attnum > 0 AND NOT a.attisdropped

-- name: indexes
SELECT c.relname, i.indisvalid
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass('sessions')

-- name: users
-- Who else holds a lock on the table: for the message.
SELECT DISTINCT l.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(a.state, '')
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.relation = to_regclass('sessions') AND l.granted AND l.pid <> pg_backend_pid()
LIMIT 5

-- name: open
INSERT INTO sessions (
    task_name, started, run_id, load, shard, slice_date, attempt, state, staged, host, pid, dwhctl_version, worker
)
SELECT task_name, started, run_id, load, shard, slice_date, attempt, 'running', staged, :host, :pid, :version, worker
FROM unnest(
    :task_name::text[], :started::timestamptz[], :run_id::text[], :load::text[], :shard::text[], :day::date[],
    :attempt::integer[], :staged::text[], :worker::integer[]
) WITH ORDINALITY AS given (task_name, started, run_id, load, shard, slice_date, attempt, staged, worker, place)
ORDER BY place
RETURNING staged, id

-- name: adopt
INSERT INTO sessions (
    task_name, started, finished, successful, loaded_rows, comment, run_id, load, shard, slice_date, attempt, state,
    staged, host, pid, dwhctl_version
)
SELECT task_name, at, at, TRUE, loaded_rows, comment, run_id, load, shard, slice_date, 0, state,
       '', :host, :pid, :version
FROM unnest(
    :task_name::text[], :at::timestamptz[], :rows::bigint[], :comment::text[], :run_id::text[], :load::text[],
    :shard::text[], :day::date[], :state::text[]
) AS given (task_name, at, loaded_rows, comment, run_id, load, shard, slice_date, state)
RETURNING id

-- name: close
UPDATE sessions AS s
SET state = c.state, successful = c.successful, finished = c.finished, loaded_rows = c.loaded_rows,
    extracted_rows = c.extracted_rows, bytes = c.bytes, error_class = c.error_class, comment = c.comment,
    busy_seconds = c.busy_seconds
FROM unnest(
    :id::bigint[], :state::text[], :successful::boolean[], :finished::timestamptz[], :loaded_rows::bigint[],
    :extracted_rows::bigint[], :bytes::bigint[], :error_class::text[], :comment::text[],
    :busy_seconds::double precision[]
) AS c (id, state, successful, finished, loaded_rows, extracted_rows, bytes, error_class, comment, busy_seconds)
WHERE s.id = c.id AND s.state = 'running' AND s.run_id IS NOT NULL

-- name: durations
-- Of so many sessions, not of so many days: a load may run once a day or once a minute.
-- What was adopted (attempt 0) took no time.
SELECT shard, avg(extract(epoch FROM finished - started))::double precision
FROM (
    SELECT shard, started, finished
    FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND attempt > 0 AND successful AND isfinite(finished) AND isfinite(started)
    ORDER BY slice_date DESC
    LIMIT :newest
) AS lately
GROUP BY shard

-- name: runs_lately
-- Of each run the seconds of its sessions added up, and its seconds by the clock.
SELECT sum(extract(epoch FROM finished - started))::double precision,
       extract(epoch FROM max(finished) - min(started))::double precision
FROM (
    SELECT run_id, started, finished
    FROM sessions
    WHERE run_id IS NOT NULL AND isfinite(finished) AND isfinite(started)
    ORDER BY id DESC
    LIMIT :newest
) AS lately
GROUP BY run_id

-- name: hold
SELECT pg_try_advisory_lock(:key), pg_backend_pid()

-- name: release
SELECT pg_advisory_unlock(:key)

-- name: hold_work
SELECT name, pg_try_advisory_lock(key)
FROM unnest(:names::text[], :keys::bigint[]) AS wanted (name, key)

-- name: release_work
SELECT pg_advisory_unlock(key) FROM unnest(:keys::bigint[]) AS held (key)

-- name: holder
-- A key of 64 bits is in pg_locks as two halves: https://www.postgresql.org/docs/current/view-pg-locks.html
SELECT a.application_name, a.backend_start
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((l.classid::bigint << 32) | l.objid::bigint) = :key

-- name: alive
SELECT 1
