"""Compare sources and warehouse, slice by slice.

Read in this order:
- `run` is `dwhctl verify`: it plans, and chooses the two sides.
- `compare` is the comparison of two `Sides`: which slices are complete, what differs, what was loaded meanwhile.
- `sources` has the sources and the warehouse as sides, `tables` two tables of a warehouse (`verify --against`).
- `checks` reads sources and tables. `row_differences` finds the rows that differ between a source and the warehouse.
- `findings` has the result of a slice, as it is shown. `last` keeps the last result of each load for the page.
- `adopt` writes sessions for days that another tool loaded and that compare equal.
Data goes from `checks` through the sides into `findings`; only `adopt` writes to databases.
"""
