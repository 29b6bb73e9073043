"""The configuration in `config/` as typed objects, and the rendering of its SQL.

Read in this order:
- `find` finds the project's folder (light: every command imports it). `files` reads its files, the environment and the
  defaults; `read` makes a `Project` of them.
- `fields` has the kinds of values; `connections`, `loads` and `model` have the tables (`model.Project` holds them all).
- `checks` checks names across tables; `problems` writes what is wrong as file, key and remedy.
- `names` resolves a load, report or shard that a user typed, shadow tables, and the commands that messages propose.
- `days` turns days into slices. `context` has the variables of a template, `sandbox` bounds its time and size,
  `templates` renders it and maps error lines back to the file.
Data goes from files through `read` to `model`; the other packages only read `Project`.
"""
