-- How long the orders of each city and day took, from start to end.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.order_duration (
    city            VARCHAR(200) NOT NULL,
    day             DATE NOT NULL,
    finished_orders INT NOT NULL,
    average_minutes FLOAT NOT NULL,
    longest_minutes FLOAT NOT NULL
)
ORDER BY city, day
UNSEGMENTED ALL NODES;

CREATE OR REPLACE VIEW reports.order_duration_view AS
SELECT
    etl_source AS city,
    CAST(start_time AS DATE) AS day,
    COUNT(*) AS finished_orders,
    CAST(AVG(EXTRACT(EPOCH FROM end_time - start_time)) / 60 AS FLOAT) AS average_minutes,
    CAST(MAX(EXTRACT(EPOCH FROM end_time - start_time)) / 60 AS FLOAT) AS longest_minutes
FROM stage.orders
WHERE end_time IS NOT NULL
GROUP BY etl_source, CAST(start_time AS DATE);
