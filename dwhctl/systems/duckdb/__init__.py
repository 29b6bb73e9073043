"""DuckDB files as sources, as the warehouse, and in the console.

Read in this order:
- `system`: the keys of the connection, what the system can do, and what opens it.
- `client` opens files with a bounded wait; column types, errors, syntax checks.
- `source` streams a query. `target` stages and publishes in one transaction.
- `staging` writes a slice as a Parquet file, and has the statements that replace the rows of slices and reports.
- `console`: ad hoc statements.
Data goes from Parquet files in the state folder into the table.
"""
