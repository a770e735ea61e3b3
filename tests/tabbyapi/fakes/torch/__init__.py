"""As much of PyTorch as TabbyAPI's own code touches, for a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any


class Tensor:
    """One row of numbers."""

    def __init__(self, values: Iterable[int], text: str = "") -> None:
        self.values = list(values)
        self.text = text
        """What it was encoded from."""

    @property
    def shape(self) -> tuple[int, int]:
        return (1, len(self.values))

    def size(self, dim: int = -1) -> int:
        return self.shape[dim]

    def numel(self) -> int:
        return len(self.values)

    def flatten(self) -> Tensor:
        return self

    def tolist(self) -> list[int]:
        return self.values


def tensor(rows: list[list[int]]) -> Tensor:
    return Tensor(rows[0])


def cat(tensors: Iterable[Tensor], dim: int = -1) -> Tensor:
    return Tensor([value for each in tensors for value in each.values])


def inference_mode() -> Callable[[Any], Any]:
    return lambda function: function


cuda = SimpleNamespace(
    device_count=lambda: 1,
    empty_cache=lambda: None,
    is_available=lambda: True,
    get_device_capability=lambda device=0: (8, 6),
)
version = SimpleNamespace(hip=None, cuda="12.8")
