-- Which columns each shard has delivered to a load's table: what `on_new_column = "add"` may not fill with NULL.

-- name: table dwhctl_columns
CREATE TABLE IF NOT EXISTS dwhctl_columns (
    load TEXT NOT NULL,
    shard TEXT NOT NULL,
    name TEXT NOT NULL,
    declared TEXT NOT NULL,
    first_seen TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (load, shard, name)
)

-- name: delivered_columns
SELECT shard, name, declared FROM dwhctl_columns WHERE load = :load

-- name: remember_column
INSERT INTO dwhctl_columns (load, shard, name, declared, first_seen)
VALUES (:load, :shard, :name, :declared, :first_seen)
ON CONFLICT (load, shard, name) DO UPDATE SET declared = excluded.declared

-- name: forget_columns
DELETE FROM dwhctl_columns WHERE load = :load
