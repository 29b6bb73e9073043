-- Orders of each day over all cities.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.daily_orders (
    day       DATE NOT NULL,
    cities    INT NOT NULL,
    orders    INT NOT NULL,
    done      INT NOT NULL,
    cancelled INT NOT NULL,
    revenue   NUMERIC(18, 2)
)
ORDER BY day
UNSEGMENTED ALL NODES;

CREATE OR REPLACE VIEW reports.daily_orders_view AS
SELECT
    CAST(start_time AS DATE) AS day,
    COUNT(DISTINCT etl_source) AS cities,
    COUNT(*) AS orders,
    SUM(CASE WHEN status = 'done' THEN 1 ELSE 0 END) AS done,
    SUM(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END) AS cancelled,
    CAST(SUM(price) AS NUMERIC(18, 2)) AS revenue
FROM stage.orders
GROUP BY CAST(start_time AS DATE);
