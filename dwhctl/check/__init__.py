"""Checks before data moves: `config check` and `connections test`.

Read in this order:
- `offline` renders every template and reads every secret; it also renders the SQL of one load or report.
- `local` looks at this machine: databases in files, certificates, file modes.
- `online` asks the databases whether a load and a refresh would work.
- `connections` does a round trip over one connection in each way in which
  the project uses it, and reports secrets that travel in clear.
Each returns lines for the command to show; nothing is changed in a source or a warehouse.
"""
