-- Orders of each city and day: how many, how many of them were cancelled, and what was earned.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.city_orders (
    city      VARCHAR(200) NOT NULL,
    day       DATE NOT NULL,
    orders    INT NOT NULL,
    cancelled INT NOT NULL,
    revenue   NUMERIC(18, 2)
)
ORDER BY city, day
UNSEGMENTED ALL NODES;

CREATE OR REPLACE VIEW reports.city_orders_view AS
SELECT
    etl_source AS city,
    CAST(start_time AS DATE) AS day,
    COUNT(*) AS orders,
    SUM(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END) AS cancelled,
    CAST(SUM(price) AS NUMERIC(18, 2)) AS revenue
FROM stage.orders
GROUP BY etl_source, CAST(start_time AS DATE);
