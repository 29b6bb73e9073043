-- Orders and revenue by day.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.daily_orders (
    day     DATE NOT NULL,
    cities  BIGINT NOT NULL,
    orders  BIGINT NOT NULL,
    revenue DECIMAL(18, 2)
);

CREATE OR REPLACE VIEW reports.daily_orders_view AS
SELECT
    start_time::DATE AS day,
    count(DISTINCT etl_source) AS cities,
    count(*) AS orders,
    sum(price)::DECIMAL(18, 2) AS revenue
FROM stage.orders
GROUP BY start_time::DATE;
