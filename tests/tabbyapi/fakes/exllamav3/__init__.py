"""ExLlamaV3 without a GPU: TabbyAPI's own code runs on it, container, templates and HTTP included.

A generation gives the words ``w0 w1 ...``, five unless the request asks for fewer. The prompt
steers it: FAIL ends it with an error after two words, HANG keeps it from ending, LONG gives 300
words, slowly. A model folder with a file BROKEN cannot be loaded; FAKE_LOAD_SECONDS is what a load
takes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

MODULES = 5
USUAL = 5


class Config:
    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.model_classes: dict[str, Any] = {}
        self.eos_token_id_list: list[int] = []
        self.infer_params = SimpleNamespace()

    @classmethod
    def from_directory(cls, directory: str) -> Config:
        return cls(directory)


class Model:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.caps: dict[str, Any] = {}

    @classmethod
    def from_config(cls, config: Config, component: str = "text") -> Model:
        return cls(config)

    def load_gen(self, callback: Any = None, **_: Any) -> Iterator[tuple[int, int]]:
        for module in range(MODULES + 1):
            time.sleep(float(os.environ.get("FAKE_LOAD_SECONDS", "0")) / MODULES)
            if module == 2 and Path(self.config.directory, "BROKEN").exists():
                raise RuntimeError("CUDA out of memory")
            yield module, MODULES

    def unload(self) -> None:
        pass


class Cache:
    def __init__(self, model: Model, max_num_tokens: int, **_: Any) -> None:
        self.max_num_tokens = max_num_tokens


class Tokenizer:
    bos_token, eos_token, pad_token, unk_token = "<s>", "</s>", None, "<unk>"
    bos_token_id, eos_token_id = 1, 2

    @classmethod
    def from_config(cls, config: Config) -> Tokenizer:
        return cls()

    def encode(self, text: str, **_: Any) -> Tensor:
        return Tensor(range(len(text.split())), text)

    def decode(self, ids: Tensor, **_: Any) -> list[str]:
        return [" ".join(f"w{number}" for number in ids.values)]

    def single_id(self, token: str) -> None:
        return None

    def get_id_to_piece_list(self, special: bool = False) -> list[str]:
        return [f"w{number}" for number in range(1000)]


class AsyncGenerator:
    def __init__(self, **_: Any) -> None:
        self.generator = SimpleNamespace(
            recurrent_cache=None, recurrent_checkpoint_interval=256, max_batch_size=4
        )

    async def close(self) -> None:
        pass


class AsyncJob:
    def __init__(
        self, generator: AsyncGenerator, *, input_ids: Any, max_new_tokens: int, **_: Any
    ) -> None:
        ids = input_ids[0] if isinstance(input_ids, list) else input_ids
        self.prompt, self.prompt_tokens = ids.text, ids.size()
        self.most = max_new_tokens
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = False

    async def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        wanted = 300 if "LONG" in self.prompt else USUAL
        count = min(self.most, wanted)
        for number in range(count):
            await asyncio.sleep(0.05 if "LONG" in self.prompt else 0.001)
            if self.cancelled:
                raise asyncio.CancelledError
            if "FAIL" in self.prompt and number == 2:
                raise RuntimeError("no kernel image is available for execution on the device")
            while "HANG" in self.prompt and not self.cancelled:
                await asyncio.sleep(0.05)
            result: dict[str, Any] = {
                "stage": "streaming",
                "text": f"w{number} ",
                "token_ids": Tensor([number]),
                "eos": number == count - 1,
            }
            if result["eos"]:
                full = count == self.most
                result |= {"eos_reason": "max_new_tokens" if full else "stop_token"}
                result |= {"prompt_tokens": self.prompt_tokens, "cached_tokens": 0}
                result |= {"new_tokens": count, "time_enqueued": 0.0}
                result |= {"time_prefill": 0.01, "time_generate": 0.05}
            yield result


class Anything:
    """What no test goes into."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


def __getattr__(name: str) -> type[Anything]:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Anything,), {})
