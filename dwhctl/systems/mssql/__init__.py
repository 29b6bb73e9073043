"""SQL Server as a source, through pymssql.

Read in this order:
- `system`: the keys of the connection, what the system can do, and what opens it.
- `client` connects and explains a refused login.
- `errors` gives the meaning of an error number, and probes a server without a login. It imports no driver.
- `sql`: the Arrow type of each SQL Server type, quoting, and the extract's SELECT with its bounds.
- `source` streams a query as record batches and refuses a value that does not fit its column.
- `console`: ad hoc statements, and the list of databases.
Data goes from the driver's tuples through `source` to record batches.
"""
