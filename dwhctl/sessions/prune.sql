-- Old sessions, and the daily sums that stay of them.

-- name: table dwhctl_days
CREATE TABLE IF NOT EXISTS dwhctl_days (
    load TEXT NOT NULL,
    shard TEXT NOT NULL,
    slice_date DATE NOT NULL,
    sessions BIGINT NOT NULL,
    loaded BIGINT NOT NULL,
    skipped BIGINT NOT NULL,
    up_for_retry BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    abandoned BIGINT NOT NULL,
    loaded_rows BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    first_started TIMESTAMPTZ NOT NULL,
    last_started TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (load, shard, slice_date)
)

-- name: prune_end
-- What comes later is younger: without an end a prune would run after the sessions that loads write meanwhile.
SELECT max(id) FROM sessions

-- name: prune_window
-- The next ids, of every program: how many there are, and the last of them.
SELECT count(*), max(id)
FROM (SELECT id FROM sessions WHERE id > :after AND id <= :end ORDER BY id LIMIT :size) AS ahead

-- name: prune_superseded
-- Of a slice stay the last closed session, for failures and streaks, the last successful one, whose id its rows in the
-- warehouse carry, and the successful one that started last, which makes the slice complete. A session may go when a
-- later one takes its place in all three.
SELECT old.id
FROM sessions AS old
WHERE old.id > :after AND old.id <= :last AND old.started < :before
  AND old.run_id IS NOT NULL AND old.state <> 'running'
  AND EXISTS (
    SELECT 1 FROM sessions AS later
    WHERE later.run_id IS NOT NULL AND later.load = old.load AND later.slice_date = old.slice_date
      AND later.shard = old.shard AND later.id > old.id
      AND ((later.state IN ('loaded', 'skipped') AND later.started >= old.started)
           OR (later.state <> 'running' AND old.state NOT IN ('loaded', 'skipped')))
  )

-- name: prune_all
SELECT id
FROM sessions
WHERE id > :after AND id <= :last AND started < :before
  AND run_id IS NOT NULL AND state <> 'running'
  AND load IS NOT NULL AND shard IS NOT NULL AND slice_date IS NOT NULL
