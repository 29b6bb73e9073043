"""The contracts that systems implement, and the code that they share.

Read in this order:
- `system`: `System` says what a system can do, and opens its sources, targets and cursors. The type map has every
  source's types in every target.
- `source`: `Source` (or `SqlSource`) streams the answer of one query as record batches; `Cursor` (or `DriverCursor`)
  runs ad hoc statements. It also explains failures of TLS.
- `target`: `Target` stages slices in many workers and replaces them in one place. `staging` has the transaction in
  which SQL systems do it, and what they write: names, conditions, statements, the bytes of a COPY.
- `server`: `ServerTarget`, `ServerStage`, `ServerRefresh` and `ServerInspection`, what the targets on servers share.
- `ddl`: the table that a load without a `create` makes.
- `inspection`: the queries of a target's table, and of two tables key by key. Warehouses differ in their dialect.
- `fingerprint`: row count, key range and checksums of a slice, computed by the system (`fingerprint.<dialect>.sql`).
Data goes from a `Source` through the worker to a `Target`, as Arrow record batches.
"""
