"""New projects: `dwhctl init` and `dwhctl demo`.

Read in this order:
- `init` makes a commented empty project of the files in `templates/`; it never replaces a file.
- `demo` makes a project with data, loads it, and shows a failure and its repair; `demo_data` makes the data.
"""
