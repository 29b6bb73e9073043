"""The files of an empty project: `dwhctl init` copies them."""
