"""``gpus`` and ``environment`` in the environment of a running engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_engine_environment import ONE, TWO, nvidia

from .conftest import Router, wait_until
from .test_switch import ask


@pytest.fixture
def host(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Router:
    """A router on a host with two GPUs."""
    root = tmp_path / "root"
    nvidia(root, "0000:17:00.0", ONE)
    nvidia(root, "0000:65:00.0", TWO)
    monkeypatch.setenv("GPU_ROOT", str(root))
    router.module = "tests.integration.with_host_gpus"
    return router


def environment(router: Router) -> dict[str, str]:
    """What the one engine that runs was started with."""
    (pid,) = router.engine_pids().values()
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries if entry)


def visible(router: Router) -> dict[str, str]:
    found = environment(router)
    return {name: found[name] for name in found if "VISIBLE" in name or name == "CUDA_DEVICE_ORDER"}


def test_each_backends_engine_sees_its_models_gpus(host: Router) -> None:
    by_number = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    by_name = {"CUDA_VISIBLE_DEVICES": TWO}
    expected: dict[str, dict[str, str]] = {
        **dict.fromkeys(("sglang", "vllm", "command"), by_number),
        **dict.fromkeys(("llamacpp", "tabby"), by_name),
    }
    models: dict[str, Any] = {}
    for backend in expected:
        options = {} if backend == "command" else {"engine": backend}
        models[backend] = {**host.standin(backend, **options), "backend": backend, "gpus": [TWO]}
    models["all"] = host.standin("all")
    host.write(models)
    host.start()
    for model in models:
        answer = ask(host, model)
        assert answer.status_code == 200, answer.text
        assert visible(host) == expected.get(model, {}), model


def test_a_changed_variable_restarts_its_engine_and_nothing_else_does(host: Router) -> None:
    model = host.standin("a")
    host.write({"a": {**model, "environment": {"GREETING": "a 'b' $c"}}})
    host.start()
    assert ask(host, "a").status_code == 200
    first = host.engine_pids()
    assert environment(host)["GREETING"] == "a 'b' $c"
    host.write({"a": {**model, "environment": {"GREETING": "a 'b' $c"}, "ttl": 1000}})
    assert host.cli("reload", "--config", str(host.config)).returncode == 0
    assert host.engine_pids() == first
    host.write({"a": {**model, "environment": {"GREETING": "other"}, "ttl": 1000}})
    assert host.cli("reload", "--config", str(host.config)).returncode == 0
    wait_until(lambda: host.engine_pids() != first, "the old engine is gone")
    assert ask(host, "a").status_code == 200
    assert environment(host)["GREETING"] == "other"


def test_a_gpu_that_is_not_there_is_named_and_the_former_model_answers(host: Router) -> None:
    host.write({"a": host.standin("a"), "b": {**host.standin("b"), "gpus": [2]}})
    host.start()
    assert ask(host, "a").status_code == 200
    engines = host.engine_pids()
    answer = ask(host, "b")
    assert answer.status_code == 503
    message = answer.json()["error"]["message"]
    assert host.engine_pids() == engines
    assert (
        f"model b: gpus cannot be used: GPU 2 is not on this host; its GPUs are 0 ({ONE})"
        in message
    )
    assert ask(host, "a").status_code == 200
