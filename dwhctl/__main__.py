"""`python -m dwhctl`: the same as the command `dwhctl`."""

from dwhctl.core.start import forget_current_folder

if __name__ == "__main__":  # a worker imports this module as well, under another name
    forget_current_folder()
    from dwhctl.cli.main import main

    main()
