-- EDIT 3: your table and columns. dwhctl runs this query on each shard, for one day: [:start, :end).
-- :start and :end are bound values; Jinja is for structure. As it will run: dwhctl render orders --date yesterday
SELECT
    id,
    start_time,
    end_time,
    customer,
    price
FROM << "dbo.Orders" if source == "mssql" else "orders" >>
WHERE start_time >= :start
  AND start_time < :end
