-- An example of a report: orders by shard. config/reports.toml switches it on.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.city_orders (
    city   << "VARCHAR(200)" if target == "vertica" else "VARCHAR" >> NOT NULL,
    orders << "INT" if target == "vertica" else "BIGINT" >> NOT NULL
);

CREATE OR REPLACE VIEW reports.city_orders_view AS
SELECT etl_source AS city, count(*) AS orders
FROM stage.orders
GROUP BY etl_source;
