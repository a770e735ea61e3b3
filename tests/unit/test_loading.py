"""What an engine's log says of its load: lines as they were published in logs of real ones."""

from __future__ import annotations

import pytest

from llm_router.config.schema import Model
from llm_router.engines.loading import Bar, last_bar
from llm_router.engines.memory import memory_need


@pytest.mark.parametrize(
    ("line", "bar"),
    [
        (
            "(Worker_TP0 pid=576689) \rLoading safetensors checkpoint shards:  54% Completed "
            "| 20/37 [01:27<01:19,  4.66s/it]",
            Bar(True, 54, "20/37"),
        ),
        (
            "\x1b[32mLoading safetensors checkpoint shards:  22% Completed | 11/49 "
            "[04:29<18:47, 29.67s/it]\x1b[0m",
            Bar(True, 22, "11/49"),
        ),
        (
            "Multi-thread loading shards:   0% Completed | 0/9 [00:00<?, ?it/s]",
            Bar(True, 0, "0/9"),
        ),
        (
            "Loading safetensors using Runai Model Streamer: 100% Completed | 300/300 "
            "[00:08<00:00, 36.3it/s]",
            Bar(True, 100, "300/300"),
        ),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  45%|████▍     | 30/67 "
            "[00:02<00:02, 13.1it/s]",
            Bar(False, 45, "30/67"),
        ),
        (
            "Capturing batches (bs=32 avail_mem=7.11 GB):  20%|██        | 1/5 [00:00<00:03]",
            Bar(False, 20, "1/5"),
        ),
        ("No available shared memory broadcast block found in 60 seconds.", None),
        ("Processed prompts: 45%|████ | 3/7", None),
        ("Loading weights took 12.70 seconds", None),
    ],
)
def test_a_line(line: str, bar: Bar | None) -> None:
    assert last_bar([line]) == bar


def test_the_newest_counts_and_a_full_bar_is_no_part() -> None:
    form = "Loading safetensors checkpoint shards: {}% Completed | {}/4 [00:01<00:01]"
    lines = ["begin", form.format(25, 1), form.format(75, 3), "something else", ""]
    bar = last_bar(lines)
    assert bar is not None
    assert bar.part == 0.75
    assert Bar(True, 100, "4/4").part is None
    assert Bar(False, 20, "1/5").part is None
    assert last_bar([]) is None


@pytest.mark.parametrize(
    ("entry", "need"),
    [
        ({"settings": {"gpu-memory-utilization": 0.92}}, 0.92),
        ({"args": ["--gpu-memory-utilization", "0.5"]}, 0.5),
        ({"args": ["--gpu-memory-utilization=0.6"]}, 0.6),
        ({"args": ["--gpu-memory-utilization"]}, None),
        ({"settings": {"gpu-memory-utilization": "much"}}, None),
        ({}, None),
    ],
)
def test_what_a_model_asks_of_a_gpu(entry: dict[str, object], need: float | None) -> None:
    model = Model.model_validate({"name": "a", "backend": "vllm", **entry})
    assert memory_need(model, "gpu-memory-utilization") == need
    assert memory_need(model, None) is None
