"""PostgreSQL: a source, a warehouse, the connection of the sessions database, and the console.

Read in this order:
- `system`: the keys of the connection, what the system can do, and what opens it.
- `client` connects to one of several hosts for the sessions database; every wait ends, and signals are handled.
- `copy_client`: a connection that can COPY, for sources and targets; a timer ends a wait. `errors` says what failed.
- `types`: the column that each type makes, and the type that holds another system's column.
- `source` reads a shard: `copy_out` (COPY, blocks of rows), CSV, record batches.
- `target` writes: the transactions, refresh, inspection; `staging` (binary COPY), `catalog`.
- `console`: ad hoc statements in a cursor on the server.
The sessions table itself is in `dwhctl.sessions`.
"""

#: The most octets of a name, and of an application_name.
NAME_OCTETS = 63
