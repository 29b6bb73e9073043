"""The contracts that systems implement, and the code that they share.

Read in this order:
- `system`: `System` says what a system can do, and opens its sources, targets and cursors.
- `source`: `Source` streams the answer of one query as record batches; `Console` runs what a person wrote.
  It also explains failures of TLS.
- `target`: `Target` stages slices in many workers and publishes them in one transaction.
- `inspection`: what can be asked about a target's table, and about two of them, key by key. `sql_inspection` has the
  queries, which differ between warehouses only in the words of the dialect.
- `fingerprint`: row count, key range and checksums of a slice, computed by the system (`fingerprint.<dialect>.sql`).
Data goes from a `Source` through the worker to a `Target`, as Arrow record batches.
"""
