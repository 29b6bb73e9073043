"""`python -m dwhctl`: the same as the command `dwhctl`."""

from __future__ import annotations

from dwhctl.cli.main import main

if __name__ == "__main__":
    main()
