"""Vertica as the warehouse, through vertica-python.

Read in this order:
- `system`: the keys of the connection, what the system can do, and what opens it.
- `client`: connections with bounded waits, and why one fails. `types`: what a column can hold.
- `target` is the contract's implementation, with the transactions that replace the rows of slices and of a report,
  and the inspection of a table.
- `staging` copies record batches into the staging table of a publish group, as delimited text.
- `catalog`: names of tables and sessions, columns, privileges, the sessions of dead runs, the meaning of an SQLSTATE.
- `console`: ad hoc statements.
Data goes from batches by COPY into the staging table, and by INSERT ... SELECT into the target.
"""

#: The most octets of a name: https://docs.vertica.com/24.2.x/en/sql-reference/language-elements/identifiers/
NAME_OCTETS = 128
