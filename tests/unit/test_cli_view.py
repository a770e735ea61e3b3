"""What the status looks like, in whatever room there is."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llm_router.cli.view import cells, cut, one_line, paint, status_lines


def model(state: str = "stopped", **more: Any) -> dict[str, Any]:
    entry = {"state": state, "unit": "vllm.service", "in_flight": 0, "waiting": 0, "group": "left"}
    return {**entry, **more}


def request(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "path": "/v1/chat/completions",
        "model": "big",
        "key": "webui",
        "stream": True,
        "state": "waiting",
        "seconds": 61.25,
    }


FAILURE = {"message": "the engine exited\nwith 3", "count": 3, "log_lines": ["x"]}
STATUS: dict[str, Any] = {
    "models": {
        "big": model("loading", waiting=2),
        "small": model("loaded", in_flight=1, unit="llamacpp@small.service"),
        "bad": model("failed", failure=FAILURE),
        "idle": model(),
    },
    "groups": {"left": {"loaded": "small"}, "right": {"loaded": None}},
    "switches": [
        {
            "group": "left",
            "model": "big",
            "previous": "small",
            "reason": "request",
            "step": "Drain",
            "seconds": 3.4,
        }
    ],
}


def test_everything_that_matters_is_there() -> None:
    assert status_lines(STATUS, [request(7)]) == [
        "switching from small to big: Drain, 3 s",
        "",
        "big    loading  0 served, 2 waiting  group left  vllm.service",
        "small  loaded   1 served, 0 waiting  group left  llamacpp@small.service",
        "bad    failed   0 served, 0 waiting  group left  vllm.service",
        "  the engine exited with 3 (3 times in a row)",
        "idle   stopped  0 served, 0 waiting  group left  vllm.service",
        "",
        "REQUEST  STATE    SECONDS  MODEL  KEY    PATH",
        "7        waiting  61.2     big    webui  /v1/chat/completions",
    ]


@pytest.mark.parametrize(
    ("switch", "line"),
    [
        ({"model": "a", "previous": None, "step": ""}, "switching to a: beginning, 0 s"),
        ({"model": "a", "previous": "a", "step": "Stop"}, "switching to a: Stop, 0 s"),
        ({"model": None, "previous": "b", "step": "Stop"}, "unloading b: Stop, 0 s"),
    ],
)
def test_a_running_switch_in_one_line(switch: dict[str, Any], line: str) -> None:
    running = {**STATUS, "switches": [{**switch, "seconds": 0.0}]}
    assert status_lines(running, [])[0] == line


@pytest.mark.parametrize("width", range(1, 90, 4))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = status_lines(STATUS, [request(7)], width=width, paint=paint)
    plain = [re.sub(r"\x1b\[[0-9]*m", "", line) for line in lines]
    assert max(map(cells, plain)) <= width
    assert len(plain) == 10


def test_columns_that_matter_least_go_first() -> None:
    lines = status_lines(STATUS, [], width=50)
    assert lines[3] == "small  loaded   1 served, 0 waiting  group left"
    assert status_lines(STATUS, [], width=16)[3] == "small  loaded"


def test_models_that_do_nothing_give_way() -> None:
    many = {**STATUS["models"], **{f"m{n}": model() for n in range(50)}}
    lines = status_lines({**STATUS, "models": many}, [request(7)], rows=12)
    assert lines[6] == "… and 51 stopped"
    assert lines[-1].startswith("7 ")
    crowd = [request(n) for n in range(50)]
    lines = status_lines({**STATUS, "models": many}, crowd, rows=12)
    assert len(lines) == 12
    assert lines[-1] == "… 48 more lines"


def test_a_pin_is_shown() -> None:
    groups = {"left": {"loaded": "a", "pinned": {"model": "a", "seconds": 59.9}}}
    lines = status_lines({**STATUS, "groups": groups, "switches": []}, [])
    assert lines[:2] == ["a is pinned for 60 s more", ""]


def test_one_group_needs_no_column() -> None:
    one = {**STATUS, "groups": {"left": {"loaded": None}}}
    assert "group" not in "\n".join(status_lines(one, []))


def test_text_of_others_cannot_move_the_cursor() -> None:
    assert one_line("a\x1b[2J\r\nb\x9bc\u2028d") == "a  b d"
    assert cut("日本語モデル", 7) == "日本語…"
    assert cells("e\u0301") == 1
