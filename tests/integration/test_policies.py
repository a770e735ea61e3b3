"""The command that a host with GPUs runs: every policy over every model, and all as before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import ROOT, Router
from .test_residency import engine

pytestmark = pytest.mark.long


def test_every_policy_has_its_row_and_models_yml_is_as_before(router: Router) -> None:
    router.write(
        {
            "v": engine(router, "vllm", "v", "auto"),
            "t": engine(router, "tabby", "t", "stop"),
        },
        switch={"timeout": 20, "stop_timeout": 5, "sleep_memory": 1},
    )
    router.start()
    models = router.dir / "models.yml"
    before = models.read_bytes()
    paths = [str(ROOT), str(ROOT / "roles/llm_router/files")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.policies", "--config", str(router.config)),
            *("--rounds", "1", "--bus", "25"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[3:]]
    assert [row[:3] for row in rows] == [
        ["v", "stop", "Stop"],
        ["t", "stop", "Stop"],
        ["v", "discard", "Sleep"],
        ["v", "sleep", "Sleep"],
        ["t", "unload", "Unload"],
    ]
    # a GiB over 25 GB/s
    assert {row[9] for row in rows} == {"0.04"}
    assert models.read_bytes() == before
