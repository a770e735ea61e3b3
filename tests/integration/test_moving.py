"""docs/moving.md does what it says: its own commands, in the places of a test."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .conftest import ROOT, Router

pytestmark = pytest.mark.long

PAGE = (ROOT / "docs/moving.md").read_text(encoding="utf-8")
FILES = ("config.yml", "models.yml", "keys.yml", "state")
KEY = "a key of sixteen characters"


def tar(section: str, root: Path, archive: Path) -> None:
    """Run the line of the page's section that calls tar."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (line,) = re.findall(r"^tar .*$", text, re.MULTILINE)
    line = line.replace("-C /", f"-C {root}").replace("/root/llm-router.tar.gz", str(archive))
    line = line.replace("etc/llm-router var/lib/llm-router", " ".join(FILES))
    subprocess.run(line, shell=True, check=True)


def write(router: Router, models: dict[str, Any]) -> None:
    key = {
        "name": "one",
        "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
        "scopes": ["admin", "switch", "use"],
    }
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": [key]}))
    router.write(models)


def call(router: Router, path: str, body: Any) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(router.url + path, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ask(router: Router, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    return str(call(router, "/v1/chat/completions", body)["model"])


def expected(router: Router, model: str) -> list[float | None]:
    """How long the steps of a load of the model usually take, as far as the router knows."""
    headers = {"authorization": f"Bearer {KEY}"}
    plan = httpx.get(f"{router.url}/admin/plan", params={"model": model}, headers=headers).json()
    return [step.get("expected_seconds") for step in plan["steps"] if step["model"] == model]


def test_a_backup_is_restored_and_moved(router: Router, tmp_path: Path) -> None:
    write(router, {"a": router.standin("a")})
    router.start()
    ask(router, "a")
    archive = tmp_path / "backup.tar.gz"
    tar("Back up", router.dir, archive)
    router.stop()
    before = {name: (router.dir / name).read_bytes() for name in FILES[:3]}
    for name in FILES:
        path = router.dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    tar("Restore", router.dir, archive)
    assert {name: (router.dir / name).read_bytes() for name in FILES[:3]} == before
    assert router.cli("check").stdout == "valid: 1 model, 1 key\n"
    router.start()
    assert all(seconds is not None for seconds in expected(router, "a"))
    assert ask(router, "a") == "a"
    router.stop()

    other = Router(tmp_path / "other")
    other.dir.mkdir()
    write(other, {"a": other.standin("a")})  # as site.yml does; the engine's command is another
    config = other.config.read_bytes()
    tar("Restore", other.dir, archive)
    other.config.write_bytes(config)
    try:
        other.start()
        assert all(seconds is not None for seconds in expected(other, "a"))
        assert ask(other, "a") == "a"
    finally:
        other.stop()


def test_a_model_is_renamed(router: Router) -> None:
    entry = {**router.standin("gemma"), "model_name": "gemma"}
    write(router, {"gemma": entry})
    router.start()
    ask(router, "gemma")
    (old_pid,) = router.engine_pids().values()
    block = re.findall(r"## Rename a model\n.*?```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
    ((name, shown),) = yaml.safe_load(block)["models"].items()
    write(router, {name: {**entry, "aliases": shown["aliases"]}})
    assert router.cli("check").returncode == 0
    assert router.cli("reload").returncode == 0
    assert ask(router, "gemma") == ask(router, name)
    (new_pid,) = router.engine_pids().values()
    assert new_pid != old_pid
    metrics = httpx.get(f"{router.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    (count,) = re.findall(
        rf'^llm_router_requests_total{{model="{name}".*?}} (\S+)$', metrics, re.MULTILINE
    )
    assert float(count) == 2
