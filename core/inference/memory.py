"""What a picture took goes back to the system when it is done, and does not stay in the pools of many threads.

glibc keeps blocks up to 32 MB in a pool for each thread once it has seen one freed. Pictures come through any of some
hundred threads, so eight clients who send large ones left 2 GB behind; with this 0.2 GB.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
# Above what a network works with at usual sizes, which is quicker out of a pool.
LARGE_BYTES = 8_000_000


def return_large_blocks() -> None:
    """Take blocks of this process from the system, and give them back to it, one by one when they are large."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return  # not glibc: other allocators do not do that
    mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def return_freed() -> None:
    """Give back to the system what was freed in small blocks, too: a closed network leaves thousands of them."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return  # not glibc
