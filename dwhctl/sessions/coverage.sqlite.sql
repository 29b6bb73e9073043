-- name: latest_of_slices
-- The latest session of every slice of a load: one look into the index for each slice, however many sessions it has.
-- `days` and `shards` are JSON lists; a slice is named by its places in them.
SELECT days.key, shards.key, latest.state, latest.started
FROM json_each(:days) AS days CROSS JOIN json_each(:shards) AS shards CROSS JOIN sessions AS latest
WHERE latest.id = (
    SELECT id FROM sessions
    WHERE run_id IS NOT NULL AND load = :load AND slice_date = days.value AND shard = shards.value
    ORDER BY id DESC LIMIT 1
)
