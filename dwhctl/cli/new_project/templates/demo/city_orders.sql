-- Orders and revenue by city.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.city_orders (
    city         VARCHAR NOT NULL,
    orders       BIGINT NOT NULL,
    cancelled    BIGINT NOT NULL,   -- no price
    revenue      DECIMAL(18, 2),
    refreshed_at TIMESTAMPTZ DEFAULT now()  -- not in the view: a column with a DEFAULT fills itself
);

CREATE OR REPLACE VIEW reports.city_orders_view AS
SELECT
    etl_source AS city,
    count(*) AS orders,
    count(*) - count(price) AS cancelled,
    sum(price)::DECIMAL(18, 2) AS revenue
FROM stage.orders
GROUP BY etl_source;
