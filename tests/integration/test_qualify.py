"""``llm-router qualify`` against a real router: what is checked, what is left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_router.cli.exits import Exit

from .conftest import ROOT, Router, wait_until
from .terminal import Terminal
from .test_cli import ENVIRONMENT, Question
from .test_residency import engine

pytestmark = pytest.mark.long

SECONDS = 100


def begin(router: Router, *arguments: str, module: str = "llm_router") -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", module, "qualify", "--config", str(router.config)]
    path = f"{ENVIRONMENT['PYTHONPATH']}:{ROOT}"
    return subprocess.Popen(
        [*argv, *arguments],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def qualify(
    router: Router, *arguments: str, module: str = "llm_router"
) -> tuple[int, str, dict[str, Any]]:
    """Exit status, what was printed, the report; an empty one where none was written."""
    path = router.dir / "report.json"
    path.unlink(missing_ok=True)
    process = begin(router, "--json", str(path), *arguments, module=module)
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out + err, json.loads(path.read_text()) if path.exists() else {}


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {row["id"]: row for row in report["rows"]}
    assert len(found) == len(report["rows"]), "each row has an id of its own"
    return found


def loaded(router: Router) -> str | None:
    found = router.status()["groups"]["default"]["loaded"]
    return None if found is None else str(found)


def load(router: Router, model: str) -> None:
    httpx.post(router.url + "/admin/switch", json={"model": model}).raise_for_status()


def test_everything_is_checked_and_left_as_it_was(router: Router) -> None:
    models = {
        "a": router.standin("a", interval=0.002),
        "b": router.standin("b", interval=0.002),
        "v": engine(router, "vllm", "v", "sleep", interval=0.002),
    }
    router.write(models, switch={"timeout": 20, "stop_timeout": 5, "sleep_memory": 1})
    router.start()
    load(router, "b")
    page = router.dir / "report.html"
    status, said, report = qualify(router, "--yes", "--html", str(page), "--label", "<i>rack 7")
    assert status == Exit.DONE, said
    assert (report["schema"], report["result"], report["label"]) == (1, "passed", "<i>rack 7")
    assert report["counts"]["failed"] == 0
    found = rows(report)
    for name in models:
        assert found[f"load:{name}"]["values"]["load_seconds"] > 0
        assert found[f"answer:{name}"]["values"]["operation"] == "chat"
        assert found[f"speed:{name}"]["values"]["tokens_per_second_p50"] > 20
        assert found[f"learned:{name}"]["values"]["expected_seconds"] > 0
        assert found[f"residency:{name}:stop"]["status"] == "passed"
    for way in ("sleep", "discard"):
        assert found[f"residency:v:{way}"]["status"] == "passed", found[f"residency:v:{way}"]
        assert "residency:a:" + way not in found
    switches = found["switches:default"]["values"]
    assert (switches["switches"], switches["requests_lost"], switches["requests"]) == (20, 0, 42)
    for check in ("gpu", "memory"):
        assert (found[check]["status"], found[check]["detail"][:7]) == ("skipped", "no GPU:")
    assert found["restore:default"]["status"] == "passed"
    assert loaded(router) == "b"
    assert router.status()["models"]["v"]["state"] == "asleep"
    for path in (router.dir / "report.json", page):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    html = page.read_text()
    assert "<i>rack" not in html
    assert "&lt;i&gt;rack 7" in html
    assert "Write the numbers" not in json.dumps(report)
    for row in report["rows"]:
        assert row["detail"] in said

    earlier = router.dir / "earlier.json"
    earlier.write_text(json.dumps(report))
    status, said, second = qualify(
        *(router, "--yes", "--models", "a", "--budget", "30s"),
        *("--compare", str(earlier), "--slower", "100000"),
    )
    assert status == Exit.DONE, said
    compared = second["comparison"]
    assert (compared["label"], compared["versions"]) == ("<i>rack 7", [])
    assert "load:v" in compared["only_before"]
    assert rows(second)["comparison"]["status"] == "passed"


def test_an_engine_that_breaks_off_is_found(router: Router) -> None:
    router.write(
        {
            "good": router.standin("good", tokens=5),
            "bad": router.standin("bad", tokens=5, fault="cut-mid-stream", after=2),
            "dead": router.standin("dead", fault="exit-while-loading"),
            "other": router.standin("other", answers_as="somebody"),
        },
        switch={"timeout": 20, "stop_timeout": 5},
    )
    router.start()
    status, said, report = qualify(router, "--yes")
    assert status == Exit.CHECK_FAILED, said
    found = rows(report)
    failed = {name for name, row in found.items() if row["status"] == "failed"}
    assert {"load:dead", "speed:bad"} <= failed
    assert found["answer:dead"]["status"] == "skipped"
    assert found["speed:good"]["status"] == "passed"
    assert loaded(router) is None


def test_others_are_not_disturbed(router: Router) -> None:
    router.write({"a": router.standin("a", interval=0.1, tokens=600), "b": router.standin("b")})
    router.start()
    question = Question(router, "a")
    wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 1, "it is answered")
    status, said, report = qualify(router, "--yes")
    assert (status, report) == (Exit.NOT_CHECKED, {})
    assert "1 request is in flight or waiting (for a)" in said
    assert "--force" in said
    status, said, report = qualify(router)
    assert status == Exit.NOT_CHECKED
    assert loaded(router) == "a"
    assert router.status()["models"]["a"]["in_flight"] == 1
    router.stop(signal.SIGKILL)
    question.join(10)


def test_nobody_was_asked_and_nothing_is_done(router: Router) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    status, said, report = qualify(router)
    assert (status, report) == (Exit.NOT_CHECKED, {})
    assert "Add --yes" in said
    status, said, report = qualify(router, "--yes", "--models", "a,c")
    assert (status, report) == (Exit.NOT_CHECKED, {})
    assert "the router has no model c; known models: a" in said
    status, said, report = qualify(router, "--yes", "--compare", str(router.dir / "first.json"))
    assert (status, report) == (Exit.NOT_CHECKED, {})
    assert "first.json cannot be read" in said
    status, said, report = qualify(router, "--yes", "--html", str(router.dir / "no/page.html"))
    assert (status, report) == (Exit.NOT_CHECKED, {})
    assert "page.html cannot be written" in said
    assert loaded(router) is None
    pin = {"model": "a", "seconds": 600}
    httpx.post(router.url + "/admin/pin", json=pin).raise_for_status()
    status, said, report = qualify(router, "--yes", "--force")
    assert (status, report) == (Exit.NOT_CHECKED, {})
    assert "group default is pinned to a; run `llm-router unpin a`" in said
    assert router.status()["groups"]["default"]["pinned"]["model"] == "a"
    router.stop()
    status, said, report = qualify(router, "--yes")
    assert (status, report) == (Exit.UNREACHABLE, {})
    assert "the router does not run" in said


@pytest.mark.parametrize(
    ("keys", "status"), [("n\r", Exit.NOT_CHECKED), ("\x04", Exit.NOT_CHECKED), ("\x03", 130)]
)
def test_a_person_is_asked_and_may_refuse(router: Router, keys: str, status: int) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    argv = [sys.executable, "-m", "llm_router", "qualify", "--config", str(router.config)]
    with Terminal(argv, cwd=router.dir, env=ENVIRONMENT) as terminal:
        terminal.read_until(r"This loads and unloads a for up to 10 minutes.*\[y/N\] ")
        terminal.type(keys)
        terminal.read_rest()
        assert terminal.process.wait(20) == status
    assert loaded(router) is None
    assert not router.events.exists(), "no engine was started"


def test_what_does_not_fit_into_the_budget_is_named(router: Router) -> None:
    router.write({"a": router.standin("a", tokens=5), "slow": router.standin("slow", load=60)})
    router.start()
    status, said, report = qualify(router, "--yes", "--budget", "6s")
    assert status == Exit.DONE, said
    found = rows(report)
    assert found["answer:a"]["status"] == "passed"
    for check in ("load:slow", "answer:slow", "speed:slow", "residency:slow:stop"):
        assert found[check]["status"] == "skipped", found[check]
    assert "time budget" in found["load:slow"]["detail"]
    assert report["seconds"] < 20
    assert loaded(router) is None
    assert not router.status()["switches"]


def test_a_slow_model_leaves_time_for_the_next(router: Router) -> None:
    """On a machine with much to do, one model's streams took all of the time."""
    router.write({"slow": router.standin("slow", interval=0.1), "b": router.standin("b")})
    router.start()
    status, said, report = qualify(router, "--yes", "--budget", "40s")
    assert status == Exit.DONE, said
    found = rows(report)
    assert found["speed:slow"]["values"]["streams"] < 5
    assert found["answer:b"]["status"] == "passed"
    assert found["speed:b"]["values"]["streams"] >= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_early_it_leaves_the_host_as_it_was(router: Router, number: signal.Signals) -> None:
    router.write({"a": router.standin("a", tokens=5), "slow": router.standin("slow", load=60)})
    router.start()
    load(router, "a")
    path = router.dir / "ended.json"
    process = begin(router, "--yes", "--json", str(path))
    wait_until(lambda: router.status()["models"]["slow"]["state"] == "loading", "it loads")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED, out + err
    assert loaded(router) == "a"
    report = json.loads(path.read_text())
    found = rows(report)
    assert report["result"] == "interrupted"
    assert found["speed:a"]["status"] == "passed"
    assert found["restore:default"]["status"] == "passed"


@pytest.mark.engine
def test_the_real_engine_passes(router: Router, tiny_models: tuple[Path, Path]) -> None:
    models = {
        path.stem: {
            "backend": "llamacpp",
            "model_path": str(path),
            "port": router.standin("x")["port"],
            "args": ["--ctx-size", "512", "--threads", "1"],
        }
        for path in tiny_models
    }
    router.write(models)
    router.start()
    status, said, report = qualify(router, "--yes")
    assert status == Exit.DONE, said
    found = rows(report)
    assert found["switches:default"]["values"]["switches"] == 20
    assert found["switches:default"]["values"]["requests_lost"] == 0
    assert report["versions"]["llamacpp"]
    assert found["answer:a"]["values"]["answered_as"] == "a"


def test_what_is_run_on_a_machine_with_a_gpu_runs_without_one(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.gpu.run", "--plain", "--budget", "10s"]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{ROOT}"}
    done = subprocess.run(
        [*argv, "--out", str(tmp_path / "out")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {name for name, row in rows(report).items() if row["status"] == "failed"} == set()
    assert json.loads((tmp_path / "out/result.json").read_text())["passed"]


GPU = "tests.integration.with_live_gpu"


@pytest.mark.parametrize("sees", [True, False], ids=["the router sees it", "the router does not"])
def test_gpu_memory_is_seen_to_come_back(
    router: Router, monkeypatch: pytest.MonkeyPatch, sees: bool
) -> None:
    """A router that cannot ask about the GPU, as after the driver was installed beneath it, waits
    for no memory: the host has not passed."""
    monkeypatch.setenv("LIVE_GPU", str(router.dir / "state/children"))
    if sees:
        router.module = GPU
    router.write({"a": router.standin("a", interval=0.002)})
    router.start()
    status, said, report = qualify(router, "--yes", module=GPU)
    assert status == (Exit.DONE if sees else Exit.CHECK_FAILED), said
    found = rows(report)
    assert report["versions"]["driver"] == "580.65.06"
    assert report["gpus"][0]["compute_capability"] == "8.9"
    assert found["load:a"]["values"]["gpu_memory_held_bytes"] == 8 * 2**30
    values = found["residency:a:stop"]["values"]
    assert values["gpu_memory_freed_bytes"] == 8 * 2**30
    assert values["gpu_memory_out_bytes"] == 0
    if sees:
        assert found["gpu"]["values"] == {"gpus": 1, "gpus_of_router": 1}
        assert found["memory"]["values"]["stops"] == 1
        assert found["memory"]["status"] == "passed"
    else:
        assert "the router's service sees 0 GPUs" in found["gpu"]["detail"]
        assert "did not wait for the GPU memory of a" in found["memory"]["detail"]
