"""HTTP APIs: a source. There is no SQL: a load has an endpoint and declared columns.

Read in this order:
- `system`: the connection and the system's record; `keys` has the values of the connection's keys.
- `source`: pages become batches of the declared columns; `verify` measures them in a DuckDB of its own.
- `request`: what is sent, and its answer. `client`: sends it, with retries, limits and redirects; `auth` logs in;
  `budget` holds the rate limit.
- `paginators`: what the next request is, and when there is none.
- `records`: the records of an answer, JSON or CSV. `types`: their values as Arrow columns, exactly or not at all;
  `moments`: dates and times.
"""
