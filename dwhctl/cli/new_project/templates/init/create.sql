-- EDIT 4: the columns of the extract, by the same names<< ", and the ORDER BY" if target == "vertica" else "" >>. dwhctl fills the first three: keep them.
-- Which type holds which: dwhctl docs reference#types
CREATE SCHEMA IF NOT EXISTS stage;

CREATE TABLE IF NOT EXISTS {{ load.table }} (
<% if target == "vertica" %>
    etl_source VARCHAR(200) NOT NULL,   -- the shard
    etl_id     INT NOT NULL,            -- the session that loaded the row
    hash_id    INT NOT NULL,            -- a stable hash of etl_source and the load's key
    id         INT NOT NULL,
    start_time TIMESTAMP NOT NULL,
    end_time   TIMESTAMP,
    customer   VARCHAR(400),            -- octets: up to four for each character of an nvarchar(100)
    price      NUMERIC(12, 2)
)
ORDER BY etl_source, start_time
SEGMENTED BY hash_id ALL NODES;
<% else %>
    etl_source VARCHAR NOT NULL,        -- the shard
    etl_id     BIGINT NOT NULL,         -- the session that loaded the row
    hash_id    BIGINT NOT NULL,         -- a stable hash of etl_source and the load's key
    id         BIGINT NOT NULL,
    start_time TIMESTAMP NOT NULL,
    end_time   TIMESTAMP,
    customer   VARCHAR,
    price      DECIMAL(12, 2)
);
<% endif %>
