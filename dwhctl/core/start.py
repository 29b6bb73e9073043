"""The first steps of every process of dwhctl.

`python -m dwhctl` has the current folder first on its path until `forget_current_folder` has run. So this module and
those before it import only `os` and `sys`, which Python has loaded already: not even `__future__`.
"""

import os
import sys

_PATH = "PYTHONPATH"
#: New objects after which Python looks for garbage in cycles.
_GC_OBJECTS = 20_000
_is_forgotten = False


def begin() -> None:
    """Protect this process and all that it starts: its imports, its files, and its core dumps."""
    forget_current_folder()
    import atexit
    import gc

    protect_memory_and_files()
    # numpy's library of linear algebra, of which nothing here has a use, starts its threads when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imports make many objects and no garbage: to look through them all the time takes a tenth of a short run.
    gc.set_threshold(_GC_OBJECTS)
    # The end of the process frees everything: no search for garbage before it.
    atexit.register(gc.freeze)


def protect_memory_and_files() -> None:
    """Make files for this user only, and no core dump. Idempotent."""
    import resource

    from dwhctl.core.files import use_private_umask

    use_private_umask()
    # A core file has the passwords that were in memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forget_current_folder() -> None:
    """Import nothing from the current folder, here and in every Python that this process starts. Idempotent.

    Relative entries of PYTHONPATH are removed too: an empty one means the current folder. The folder of dwhctl itself
    stays, as the last.
    """
    global _is_forgotten
    if _is_forgotten:
        return
    _is_forgotten = True
    # With -m and -c the first entry is the current folder; of an installed command it is the command's own.
    first = set() if sys.flags.safe_path else {sys.path.pop(0)}
    relative = _relative_entries()
    sys.path[:] = [entry for entry in sys.path if entry not in relative]
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 - no pathlib yet
    if own in first | relative and own not in sys.path:
        sys.path.append(own)
    os.environ["PYTHONSAFEPATH"] = "1"


def _relative_entries() -> set[str]:
    """Remove the relative entries from PYTHONPATH; return the entries of sys.path made from them."""
    given = os.environ.pop(_PATH, "")
    entries = given.split(os.pathsep) if given else []
    kept = [entry for entry in entries if os.path.isabs(entry)]  # noqa: PTH117
    if kept:
        os.environ[_PATH] = os.pathsep.join(kept)
    try:
        relative = {os.path.abspath(entry) for entry in entries} - set(kept)  # noqa: PTH100
    except OSError:  # the current folder is gone: nothing is imported from it
        relative = set()
    return relative
