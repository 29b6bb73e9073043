-- The target table: the service fields that dwhctl adds to every row, and the columns of the extract.
-- A VARCHAR's length is in octets: up to four for each character of an nvarchar.
CREATE SCHEMA IF NOT EXISTS stage;

CREATE SCHEMA IF NOT EXISTS staging;

CREATE TABLE IF NOT EXISTS {{ load.table }} (
    etl_source   VARCHAR(200) NOT NULL,   -- the shard
    etl_id       INT NOT NULL,            -- the session that loaded the row
    hash_id      INT NOT NULL,            -- a stable hash of etl_source and the load's key
    id           INT NOT NULL,
    start_time   TIMESTAMP NOT NULL,
    end_time     TIMESTAMP,
    client_name  VARCHAR(400),
    driver_id    INT,
    distance_km  FLOAT,
    price        NUMERIC(12, 2),
    status       VARCHAR(20),
    paid_in_cash BOOLEAN,
    comment      VARCHAR(800)
)
ORDER BY etl_source, start_time
SEGMENTED BY hash_id ALL NODES;
