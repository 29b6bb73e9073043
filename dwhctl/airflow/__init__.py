"""Import of connections and variables from Airflow into the configuration.

Read in this order:
- `importing` is the whole import: read, map, write, report.
- `export` reads the files that Airflow exports.
- `mapping` maps connections to tables of the configuration, and mail and Telegram connections to alerts.
- `pieces` has the parts that an import consists of, and maps variables.
- `writing` writes them to `config/dwhctl.toml`, with its comments kept, and the secrets to files of their own.
Data goes from `export` through `mapping` and `pieces` to `writing`.
"""
