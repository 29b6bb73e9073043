-- How clients order: how many of their orders are done, how many paid in cash, what a kilometre costs them.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.client_rates (
    city         VARCHAR(200) NOT NULL,
    client_name  VARCHAR(400),
    orders       INT NOT NULL,
    done_share   FLOAT NOT NULL,    -- 0 to 1
    cash_share   FLOAT NOT NULL,    -- 0 to 1
    price_per_km FLOAT              -- of orders with a price and a way
)
ORDER BY city, client_name
UNSEGMENTED ALL NODES;

CREATE OR REPLACE VIEW reports.client_rates_view AS
SELECT
    etl_source AS city,
    client_name,
    COUNT(*) AS orders,
    CAST(AVG(CASE WHEN status = 'done' THEN 1.0 ELSE 0.0 END) AS FLOAT) AS done_share,
    CAST(AVG(CASE WHEN paid_in_cash THEN 1.0 ELSE 0.0 END) AS FLOAT) AS cash_share,
    CAST(AVG(CASE WHEN distance_km > 0 THEN CAST(price AS FLOAT) / distance_km END) AS FLOAT) AS price_per_km
FROM stage.orders
GROUP BY etl_source, client_name;
