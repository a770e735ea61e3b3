"""Weights are read ahead: what is missing, where it fits, and no longer than it is wanted."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llm_router import prewarm as module
from llm_router.prewarm import cached, prewarm, prewarm_model

SIZE = 70 << 20


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of which nothing is in memory."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(SIZE))
    forget(path)
    if cached(path, SIZE) > SIZE // 10:
        pytest.skip("this file system keeps its files in memory")
    return path


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_is_missing_is_read(cold: Path) -> None:
    assert prewarm({cold: SIZE}, threading.Event()) == SIZE
    assert cached(cold, SIZE) > SIZE * 0.95
    assert prewarm({cold: SIZE}, threading.Event()) == 0, "it is there already"


def test_it_can_be_stopped(cold: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert prewarm({cold: SIZE}, stop) == 0
    assert cached(cold, SIZE) < SIZE // 10


def test_what_does_not_fit_is_left_alone(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: SIZE)
    assert prewarm({cold: SIZE}, threading.Event()) == 0


def test_what_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    stop = threading.Event()
    assert prewarm({tmp_path / "nothing": SIZE}, stop) == 0
    assert prewarm_model(None, stop) == prewarm_model(str(tmp_path / "nothing"), stop) == 0


def test_a_models_weights_are_found_in_its_folder(cold: Path) -> None:
    (cold.parent / "config.json").write_text("{}")
    assert prewarm_model(str(cold.parent), threading.Event()) == SIZE


def io_priority() -> int:
    number = {"x86_64": 252, "aarch64": 31}.get(platform.machine())
    if number is None:
        pytest.skip("the number of ioprio_get is not known for this machine")
    priority: int = ctypes.CDLL(None).syscall(number, 1, 0)
    return priority


@pytest.mark.parametrize("ends", ["read", "stopped", "fails"])
def test_a_pooled_thread_keeps_its_io_priority(
    cold: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The reads have idle priority, and what the same thread does next has its own again."""
    during: list[int] = []
    pread = os.preadv

    def read(*args: Any) -> int:
        during.append(io_priority())
        if ends == "fails":
            raise OSError(errno.EIO, "Input/output error")
        if ends == "stopped":
            stop.set()
        return pread(*args)

    monkeypatch.setattr(os, "preadv", read)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(io_priority).result()
        assert before != 3 << 13, "an earlier test left its thread idle"
        pool.submit(prewarm, {cold: SIZE}, stop).result()
        assert set(during) == {3 << 13}
        assert pool.submit(io_priority).result() == before


def test_a_fifo_that_took_a_files_place_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.gguf")
    assert prewarm({tmp_path / "a.gguf": 8 << 20}, threading.Event()) == 0
