"""What every package uses and what knows nothing of the configuration.

Read in this order:
- `errors`: every error that dwhctl raises, its exit code, and whether a retry can help.
- `columns`: the column types that sources and targets share. `sql`: bind parameters and ends of statements in SQL text.
- `secrets` and `masking`: secrets are registered when they are read, and masked in all that is written.
- `words`: quoting, counting, times and printable text for messages. `files`: safe reading, writing and file modes.
- `links`: connections that another thread can end, their failures in words; `http` makes such connections by requests.
- `waiting`: waits with an end, and signals. `start`: what a process does before any other import.
- `faults`: the points at which the tests inject failures.
Nothing here imports another package of dwhctl, except for type annotations.
"""
