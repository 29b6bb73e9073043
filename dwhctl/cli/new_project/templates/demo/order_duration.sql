-- How long orders take, by city.
CREATE SCHEMA IF NOT EXISTS reports;

CREATE TABLE IF NOT EXISTS reports.order_duration (
    city            VARCHAR NOT NULL,
    finished_orders BIGINT NOT NULL,
    average_minutes DOUBLE,
    longest_minutes DOUBLE
);
