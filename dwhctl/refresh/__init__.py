"""Refresh report tables from their views.

Read in this order:
- `run` is the whole of a run, from the request to the result.
- `scheduler` is its loop: it waits for the data that a report needs, starts attempts and retries them.
- `transaction` has the objects of the loop, and refreshes one report in one transaction, in a thread.
Data stays in the warehouse: the view is read and the table is replaced there.
"""
