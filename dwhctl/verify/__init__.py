"""Compare sources and warehouse, slice by slice.

Read in this order:
- `run` is `dwhctl verify`: it plans, asks, compares.
- `questions` asks sources and warehouses for fingerprints, and for rows that belong to no slice.
- `findings` has the result of a slice, and what the sessions say about it.
- `row_differences` finds the rows that differ in a slice.
- `compare` is `verify --against`, the comparison with a table of another tool; `table_questions` asks its questions.
- `adopt` writes sessions for days that another tool loaded and that compare equal.
Data goes from `questions` to `findings`; only `adopt` writes.
"""
