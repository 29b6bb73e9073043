-- The target table: the service fields that dwhctl adds to every row, and the columns of the extract.
CREATE SCHEMA IF NOT EXISTS stage;

CREATE TABLE IF NOT EXISTS {{ load.table }} (
    etl_source  VARCHAR NOT NULL,   -- the shard
    etl_id      BIGINT NOT NULL,    -- the session that loaded the row
    hash_id     BIGINT NOT NULL,    -- a stable hash of etl_source and the load's key
    id          BIGINT NOT NULL,
    start_time  TIMESTAMP NOT NULL,
    end_time    TIMESTAMP,
    customer    VARCHAR,
    driver_id   INTEGER,
    distance_km DOUBLE,
    price       DECIMAL(10, 2),
    comment     VARCHAR
);
