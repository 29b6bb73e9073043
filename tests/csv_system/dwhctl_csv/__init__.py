"""CSV files as a system of dwhctl: a package of its own, which shows how one is added.

Read in this order:
- `system`: the keys of the connection, what the system can do, and what opens it.
- `tables`: a table as a CSV file, whose header declares the types. `engine`: SQL over the tables of a folder.
- `source` reads a folder of tables. `target` stages, publishes and refreshes by replacing files.
- `console`: ad hoc statements.
It imports what is public for systems: `dwhctl.core`, `dwhctl.project` and `dwhctl.systems.base`.
"""
