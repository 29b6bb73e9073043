-- One slice of one shard. Jinja is for structure, :start and :end are bound values: the slice is [start, end).
-- To see it as it will run: dwhctl render orders --date yesterday
SELECT
    id,
    start_time,
    end_time,
    customer,
    price
FROM dbo.Orders
WHERE start_time >= :start
  AND start_time < :end
  AND (price IS NULL OR price >= {{ var.value.smallest_price }})
