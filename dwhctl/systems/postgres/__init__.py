"""PostgreSQL: the connection of the sessions database, and the console.

Read in this order:
- `system`: the keys of the connection, what the system can do, and what opens it.
- `client` connects to one of several hosts; every wait ends, and signals are handled while it waits. It also
  translates the errors of psycopg2.
- `console`: ad hoc statements in a cursor on the server.
The sessions table itself is in `dwhctl.sessions`.
"""
