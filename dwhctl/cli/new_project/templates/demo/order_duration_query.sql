-- Jinja with the names of extracts (ds, var.value.x ...): here nothing depends on the date.
SELECT
    etl_source AS city,
    count(*) AS finished_orders,
    round(avg(date_diff('second', start_time, end_time)) / 60, 1) AS average_minutes,
    round(max(date_diff('second', start_time, end_time)) / 60, 1) AS longest_minutes
FROM stage.orders
WHERE end_time IS NOT NULL
GROUP BY etl_source
