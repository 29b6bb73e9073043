-- One slice of one city. Jinja is for structure, :start and :end are bound values: the slice is [start, end).
-- To see it as it will run: dwhctl render orders --date 2020-07-14
SELECT
    id,
    start_time,
    end_time,
    client_name,
    driver_id,
    distance_km,
    price,
    status,
    paid_in_cash,
    comment
FROM dbo.Orders
WHERE start_time >= :start
  AND start_time < :end
  AND (price IS NULL OR price >= {{ var.value.smallest_price }})
