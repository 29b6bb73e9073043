"""The files of the demonstration project: `dwhctl demo` copies them."""
