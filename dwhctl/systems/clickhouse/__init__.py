"""ClickHouse as a target.

Read in this order:
- `system`: the connection's keys, and what opens the target and the console.
- `client`: a connection over clickhouse-connect, with a timeout for every wait. `errors`: what its errors mean.
- `types`: the column of each type, with what it holds. `catalog`: names, columns, partitions, conditions of slices.
- `staging`: one slice as one INSERT of Arrow batches into the group's staging table.
- `publication`: copy the slice's partition, replace its rows in the copy, REPLACE PARTITION; the inspection.
- `target`: all of it behind `Target`, and the refresh of a report. `console`: ad hoc statements.
Data goes from `staging` (a worker) through `publication` (the parent) into the table.
"""

#: A table's name is that of a file `NAME.sql.tmp_move_...`.
NAME_OCTETS = 180
