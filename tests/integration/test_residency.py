"""Engines that give up their device and stay: what happens, and what is believed of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Router

pytestmark = pytest.mark.long

CHAT = "/v1/chat/completions"
GIB = 2**30
FLAGS = {"vllm": "dev", "sglang": "saver", "tabby": "empty"}


def engine(
    router: Router, backend: str, name: str, residency: str, *, gib: int = 1, **options: Any
) -> dict[str, Any]:
    """A stand-in with weights of so many GiB: a file without blocks."""
    folder = router.dir / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(gib * GIB)
    flags = FLAGS[backend] if backend != "tabby" or residency == "never" else ""
    made = router.standin(
        name,
        engine=backend,
        journal=router.dir / "journal.jsonl",
        **({"flags": flags} if flags else {}),
        **options,
    )
    return {**made, "backend": backend, "residency": residency, "model_path": str(folder)}


def journal(router: Router, *, path: str = "") -> list[str]:
    """``NAME WHAT`` of every start, end and call of a control path."""
    lines = []
    for text in (router.dir / "journal.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(text)
        if entry["what"] in ("start", "exit"):
            lines.append(f"{entry['name']} {entry['what']}")
        elif entry["what"] == "request" and entry["path"].startswith(CONTROL):
            lines.append(f"{entry['name']} {entry['path']}")
    return [line for line in lines if path in line]


CONTROL = (
    "/sleep",
    "/wake_up",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/release_memory",
    "/resume_memory",
    "/update_weights",
    "/v1/model/load",
    "/v1/model/unload",
)


def ask(router: Router, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    answer = httpx.post(router.url + CHAT, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].strip("!") != ""


def state(router: Router, model: str) -> str:
    return str(router.status()["models"][model]["state"])


def steps(router: Router, model: str) -> list[str]:
    plan = httpx.get(router.url + "/admin/plan", params={"model": model}).json()
    return [f"{step['step']} {step['model']}" for step in plan["steps"]]


OUT_AND_BACK = {
    ("vllm", "sleep"): (["/sleep"], ["/wake_up"]),
    ("vllm", "discard"): (
        ["/sleep"],
        ["/wake_up", "/collective_rpc", "/wake_up", "/reset_prefix_cache"],
    ),
    ("sglang", "sleep"): (["/release_memory_occupation"], ["/resume_memory_occupation"]),
    ("tabby", "unload"): (["/v1/model/unload"], ["/v1/model/load"]),
}


@pytest.mark.parametrize(("backend", "residency"), OUT_AND_BACK)
def test_it_goes_and_comes_back_without_a_start(
    router: Router, backend: str, residency: str
) -> None:
    out, back = OUT_AND_BACK[backend, residency]
    router.write(
        {"a": engine(router, backend, "a", residency), "b": router.standin("b")},
        switch={"timeout": 20, "stop_timeout": 5, "sleep_memory": 1},
    )
    router.start()
    ask(router, "a")
    assert steps(router, "b")[:2] == ["Drain a", "Unload a" if residency == "unload" else "Sleep a"]
    ask(router, "b")
    assert state(router, "a") == "asleep"
    assert journal(router) == ["a start", *[f"a {path}" for path in out]]
    assert ("Load a" if residency == "unload" else "Wake a") in steps(router, "a")
    router.stop(signal.SIGKILL)  # what is known outlives the router
    router.start()
    assert (state(router, "a"), state(router, "b")) == ("asleep", "loaded")
    ask(router, "a")
    assert journal(router) == ["a start", *[f"a {path}" for path in [*out, *back]]]
    assert "a" in httpx.get(router.url + "/health").json()["current_model"]


def test_an_operator_chooses_how_a_model_goes(router: Router) -> None:
    """For a check of a host: each way is tried, and models.yml stays as it is."""
    models = {
        "a": engine(router, "vllm", "a", "stop"),
        "b": router.standin("b"),
    }
    router.write(models, switch={"timeout": 20, "stop_timeout": 5, "sleep_memory": 1})
    router.start()

    def unload(way: str | None) -> httpx.Response:
        body = {"group": "default", **({"residency": way} if way is not None else {})}
        return httpx.post(router.url + "/admin/unload", json=body, timeout=60)

    for way, said, became in (
        ("sleep", ["a /sleep"], "asleep"),
        ("discard", ["a /sleep"], "asleep"),
        ("stop", [], "stopped"),
        (None, [], "stopped"),
    ):
        ask(router, "a")
        before = len(journal(router))
        (pid,) = router.engine_pids().values()
        answer = unload(way)
        assert answer.status_code == 200, answer.text
        assert [step["step"] for step in answer.json()["steps"]][-1] == (
            "Sleep" if became == "asleep" else "Stop"
        )
        assert (journal(router)[before:], state(router, "a")) == (said, became)
        assert Path(f"/proc/{pid}").exists() == (became == "asleep")
    ask(router, "a")
    refused = unload("unload")
    assert refused.status_code == 400
    assert "'a' cannot do 'unload'" in refused.json()["error"]["message"]
    assert unload("nap").status_code == 400
    assert state(router, "a") == "loaded"


def test_who_cannot_give_up_its_device_is_stopped(router: Router) -> None:
    """SGLang ends when it is asked without its flag; vLLM has no such path without its own."""
    models = {"b": router.standin("b")}
    for backend in ("vllm", "sglang"):
        made = engine(router, backend, backend, "sleep")
        made["command"] = [part for part in made["command"] if part not in ("dev", "saver")]
        made["command"].remove("--flags")
        models[backend] = made
    router.write(models, switch={"timeout": 20, "stop_timeout": 5, "sleep_memory": 1})
    router.start()
    for backend in ("vllm", "sglang"):
        ask(router, backend)
        answer = httpx.post(router.url + "/admin/switch", json={"model": "b"}, timeout=60).json()
        assert [step["step"] for step in answer["steps"]][:3] == ["Drain", "Sleep", "Stop"]
        assert state(router, backend) == "stopped"
        assert list(router.engine_pids()) == ["child_b"]


def test_a_first_sleep_is_had_once(router: Router) -> None:
    router.write(
        {
            "a": engine(router, "vllm", "a", "sleep"),
            "b": engine(router, "sglang", "b", "sleep"),
            "c": router.standin("c"),
        },
        switch={"timeout": 20, "stop_timeout": 5, "sleep_memory": 1},
    )
    router.start()
    ask(router, "c")

    def sleep(model: str, **more: Any) -> dict[str, Any]:
        body = {"model": model, **more}
        answer = httpx.post(router.url + "/admin/sleep", json=body, timeout=60)
        return dict(answer.raise_for_status().json())

    assert sleep("a", dry_run=True)["changed"]
    assert state(router, "a") == "stopped"
    done = [sleep(model) for model in ("a", "b", "c")]
    assert [one["changed"] for one in done] == [True, True, False]
    assert [step["step"] for step in done[0]["steps"]][-2:] == ["Drain", "Sleep"]
    assert [state(router, model) for model in ("a", "b", "c")] == ["asleep", "asleep", "stopped"]
    router.stop(signal.SIGKILL)
    router.start()
    assert [sleep(model)["changed"] for model in ("a", "b", "c")] == [False] * 3
    ask(router, "a")
    assert not sleep("a")["changed"]
    assert state(router, "a") == "loaded"
