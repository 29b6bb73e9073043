-- name: latest_of_slices
-- The latest session of every slice of a load: one look into the index for each slice, however many sessions it has.
-- `days` and `shards` are arrays; a slice is named by its places in them.
SELECT days.place - 1, shards.place - 1, latest.state, latest.started
FROM unnest(:days::date[]) WITH ORDINALITY AS days (day, place)
CROSS JOIN unnest(:shards::text[]) WITH ORDINALITY AS shards (shard, place)
CROSS JOIN LATERAL (
    SELECT state, started FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND slice_date = days.day AND shard = shards.shard
    ORDER BY id DESC LIMIT 1
) AS latest
