"""SQLite files: the connection of the default sessions database, and the console.

Read in this order:
- `system`: the keys of the connection, what the system can do, and what opens it.
- `client` opens a file safely, translates the errors of sqlite3, and runs ad hoc statements on a file.
The sessions table itself is in `dwhctl.sessions`.
"""
