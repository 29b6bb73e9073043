"""The configuration in `config/` as typed objects, and the rendering of its SQL.

Read in this order:
- `find` finds the project's folder (light: every command imports it). `files` reads its files, the environment and the
  defaults; `read` makes a `Project` of them.
- `fields` has the types of values; `connections`, `loads` and `model` have the tables (all are in `model.Project`). The
  text below a field is its description in docs/reference.md. `endpoint` has what a load asks of an HTTP source,
  `response_columns` its columns.
- `checks` checks names across tables; `problems` has places in the configuration and the errors for them.
- `names` finds a load, report or connection by its name, shadow tables, and the commands that messages propose.
- `days` turns days into slices, `parts` cuts a slice for `split`. `context` has the variables of a template, `sandbox`
  limits its time and size, `templates` renders it to a `query` and maps error lines to the file.
Data goes from files through `read` to `model`; the other packages only read `Project`.
"""
