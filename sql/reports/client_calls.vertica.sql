-- Clients to call: they asked for it in an order's comment ("call first"), or their order was cancelled.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.client_calls (
    city        VARCHAR(200) NOT NULL,
    client_name VARCHAR(400),
    asked       INT NOT NULL,       -- orders whose comment asks for a call
    cancelled   INT NOT NULL,
    last_order  TIMESTAMP
)
ORDER BY city, client_name
UNSEGMENTED ALL NODES;

CREATE OR REPLACE VIEW reports.client_calls_view AS
SELECT
    etl_source AS city,
    client_name,
    SUM(CASE WHEN LOWER(comment) LIKE '%call%' THEN 1 ELSE 0 END) AS asked,
    SUM(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END) AS cancelled,
    MAX(start_time) AS last_order
FROM stage.orders
WHERE LOWER(comment) LIKE '%call%' OR status = 'cancelled'
GROUP BY etl_source, client_name;
