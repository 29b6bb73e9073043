"""Whether this machine can read the code pages of char and varchar columns.

FreeTDS converts them with the C library's iconv. A code page that it lacks (slim images leave most of them out) is
read as ISO 8859-1 without a word: https://github.com/FreeTDS/freetds, src/tds/iconv.c, tds_iconv_info_init.
"""

from __future__ import annotations

import ctypes
import functools
import os

#: Code pages that FreeTDS calls by another name than CP and the number; UTF-8 needs no conversion.
_NAMES = {65001: "UTF-8"}
_REFUSED = ctypes.c_void_p(-1).value


@functools.lru_cache(maxsize=64)
def can_read(code_page: int) -> bool:
    """Tell whether the C library converts this code page to UTF-8; True where it cannot be asked."""
    try:
        library = ctypes.CDLL(None)
        opened, closed = library.iconv_open, library.iconv_close
    except (OSError, AttributeError):
        return True
    opened.restype, opened.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    closed.argtypes = [ctypes.c_void_p]
    handle = opened(b"UTF-8", os.fsencode(_NAMES.get(code_page, f"CP{code_page}")))
    if handle == _REFUSED:
        return False
    closed(handle)
    return True
