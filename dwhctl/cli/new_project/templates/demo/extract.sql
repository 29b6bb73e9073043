-- One slice of one city. The values :start and :end are bound: the slice is [start, end).
SELECT id, start_time, end_time, customer, driver_id, distance_km, price, comment
FROM orders
WHERE start_time >= :start
  AND start_time < :end
