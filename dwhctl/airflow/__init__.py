"""Import of connections and variables from Airflow into the configuration.

Read in this order:
- `importing` is the whole import: read, map, write, report.
- `export` reads the files that Airflow exports; `examples.toml` has the examples that Airflow creates.
- `mapping` maps connections to tables of the configuration, and mail and Telegram connections to alerts.
- `pieces` has the parts of an import, and maps variables.
- `writing` writes them to `config/dwhctl.toml`, which keeps its comments, and the secrets to their own files.
Data goes from `export` through `mapping` and `pieces` to `writing`.
"""
