"""Memory of large requests and answers is given back to the kernel when they are over.

glibc raises the size from which a block has a mapping of its own, up to 32 MiB, when the first such
block is freed. Later bodies then come from the heap, which shrinks only at its end: after a burst
of them the router keeps most of the memory.
"""

from __future__ import annotations

import ctypes

MAPPED = 256 * 1024
"""Bytes from which a block has a mapping of its own."""
_M_MMAP_THRESHOLD = -3  # malloc.h


def map_large_blocks() -> bool:
    """Fix that size for this process; whether the C library takes it (musl has no such thing)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED))
