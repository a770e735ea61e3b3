"""Reads a model's weights into the page cache while the model before it still answers and stops.

They are read at idle I/O priority, so that nobody who needs the disk waits for it. All calls but
`in_thread` block.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import platform
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from llm_router.weights import weight_files

log = logging.getLogger(__name__)

CHUNK = 4 << 20
"""Bytes that are read at a time: so often it can be stopped."""
MOST_OF_FREE = 0.9
"""Of the memory that is available. What does not fit would push out its own beginning."""

_IOPRIO = {"x86_64": (251, 252), "aarch64": (30, 31)}
"""The numbers of the system calls ioprio_set and ioprio_get, which libc has no functions for."""
_THIS_THREAD = 1  # IOPRIO_WHO_PROCESS; with id 0, the calling thread
_IDLE = 3 << 13
_PROT_READ, _MAP_SHARED = 1, 1
_PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


async def in_thread(model_path: str | None) -> int:
    """`prewarm_model` in a thread, which ends soon after this is cancelled."""
    stop = threading.Event()
    try:
        return await anyio.to_thread.run_sync(
            prewarm_model, model_path, stop, abandon_on_cancel=True
        )
    finally:
        stop.set()


def prewarm_model(model_path: str | None, stop: threading.Event) -> int:
    """`prewarm` for a model's file or folder; 0 too where there is none."""
    if model_path is None:
        return 0
    try:
        return prewarm(weight_files(model_path), stop)
    except OSError as error:
        log.debug("no weights are read ahead: %s", error)
        return 0


def prewarm(files: Mapping[Path, int], stop: threading.Event) -> int:
    """Read ``files`` (with their sizes), where some of them is not in memory yet.

    Ends early when ``stop`` is set. Returns the bytes that were read: none where everything is
    there already, where it would not fit, or where the files cannot be read.
    """
    done = 0
    try:
        missing = sum(size - cached(path, size) for path, size in files.items())
        if missing < CHUNK or missing > available_memory() * MOST_OF_FREE:
            return 0
        with _idle():
            for path, size in files.items():
                done += _read_ahead(path, size, stop)
    except OSError as error:
        log.debug("no weights are read ahead: %s", error)
    return done


def _read_ahead(path: Path, size: int, stop: threading.Event) -> int:
    """Plain reads: of what posix_fadvise(2) is asked for, the kernel takes only the beginning."""
    buffer = bytearray(CHUNK)
    descriptor = _open(path)
    try:
        for start in range(0, size, CHUNK):
            if stop.is_set():
                return start
            os.preadv(descriptor, [buffer], start)
        return size
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """A regular file; the owner of its folder can put a FIFO there, which must not block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def cached(path: Path, size: int) -> int:
    """How many bytes of a file are in the page cache. Raises OSError."""
    if size == 0:
        return 0
    descriptor = _open(path)
    try:
        address = _libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap", str(path))
        pages = ctypes.create_string_buffer(-(-size // _PAGE))
        failed = _libc.mincore(address, size, pages)
        number = ctypes.get_errno()
        _libc.munmap(address, size)
        if failed:
            raise OSError(number, "mincore", str(path))
    finally:
        os.close(descriptor)
    # of each byte only the lowest bit says something; the others are zero on Linux
    return min(size, pages.raw.count(1) * _PAGE)


def available_memory() -> int:
    """What the kernel could give without swapping, in bytes. Raises OSError."""
    with Path("/proc/meminfo").open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError("no MemAvailable in /proc/meminfo")


@contextlib.contextmanager
def _idle() -> Iterator[None]:
    """Meanwhile this thread's reads give way to everybody's. Where that fails they are ordinary
    reads. The thread is a pooled one: what it does next has the priority that it had before."""
    numbers = _IOPRIO.get(platform.machine())
    if numbers is None:
        yield
        return
    set_number, get_number = numbers
    before = _libc.syscall(get_number, _THIS_THREAD, 0)
    _libc.syscall(set_number, _THIS_THREAD, 0, _IDLE)
    try:
        yield
    finally:
        _libc.syscall(set_number, _THIS_THREAD, 0, max(before, 0))
