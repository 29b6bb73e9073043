"""HTTP APIs: a source. There is no SQL: a load has an endpoint and declared columns.

Read in this order:
- `system`: the connection's keys and the system's record.
- `source`: pages become batches of the declared columns; `verify` measures them in a DuckDB of its own.
- `client`: one request with retries, limits and redirects; `auth` logs it in; `budget` holds the rate limit.
- `paginators`: what the next request is, and when there is none.
- `records`: the records of an answer, JSON or CSV. `types`: their values as Arrow columns, exactly or not at all.
"""
