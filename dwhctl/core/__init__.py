"""Tools of every package, independent of the configuration.

Read in this order:
- `errors`: every error that dwhctl raises, its exit code, and whether a retry can help.
- `columns`: the column types that sources and targets share. `sql`: quoting, parameters and statements, named SQL.
- `secrets`: references to secrets in the configuration; every secret that was read is masked in all output.
- `words`: quoting, counting, times and printable text for messages. `files`: safe reading, writing, file modes and
  private folders.
- `links`: connections that another thread can end, their failures in words; `http` makes such connections by requests.
- `waiting`: time limits, polling, retries and signals. `start`: the first steps of a process, before any other import.
- `faults`: the points at which the tests inject failures.
Nothing here imports another package of dwhctl, except for type annotations.
"""
