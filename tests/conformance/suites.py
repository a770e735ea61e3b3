"""The suites: each runs at a server by itself, and at the router in front of that server."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from tests.conformance import mock
from tests.conformance.compare import Outcomes, read_report
from tests.integration.conftest import ROOT, Router, free_port

HERE = Path(__file__).parent
REPORTS = ROOT / ".cache/reports"
PYTHON = mock.ENVIRONMENT / "bin/python"
LONGEST = 1800.0
"""Seconds in which one run of a suite must end."""
MODEL = "tiny"


class Suite(Protocol):
    """Tests of somebody else."""

    @property
    def name(self) -> str: ...

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways through the router, beside the direct one."""
        ...

    @property
    def version(self) -> str: ...

    def outcomes(self, directory: Path) -> dict[str, Outcomes]:
        """By way, ``direct`` among them. ``directory`` is empty, and removed afterwards."""
        ...


def fetched(project: str) -> Path:
    """The folder of a source archive."""
    (found,) = mock.FETCHED.glob(f"{project}-[0-9]*")
    return found


def _pytest(
    folder: Path, report: Path, tests: list[str], environment: dict[str, str], *options: str
) -> Outcomes:
    """Run some tests with the settings of their project, in one process."""
    report.unlink(missing_ok=True)
    command = [str(PYTHON), "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    command += ["--timeout=120", f"--junit-xml={report}", *options, *tests]
    with tempfile.TemporaryDirectory() as home, Path(home, "log").open("wb") as log:
        given = {"HOME": home, "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run(
            command,
            cwd=folder,
            env={**given, **environment},
            stdout=log,
            stderr=log,
            timeout=LONGEST,
            check=False,
        )
        if not report.exists():
            tail = Path(home, "log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"pytest wrote no report in {folder}:\n{tail}")
    return read_report(report)


def load(router: Router, model: str) -> None:
    """Have the router start the server."""
    answer = httpx.post(router.url + "/admin/switch", json={"model": model}, timeout=200)
    if answer.status_code != 200:
        raise RuntimeError(f"the server does not start: {answer.text}")


@dataclass(frozen=True)
class Sdk:
    """Tests of an SDK, at a mock of its API."""

    name: str
    vendor: str
    base: str
    """The path below which the SDK expects the API."""
    tests: tuple[str, ...]
    ways: tuple[str, ...] = ("v1",)

    @property
    def version(self) -> str:
        return fetched(self.vendor).name.removeprefix(f"{self.vendor}-")

    def outcomes(self, directory: Path) -> dict[str, Outcomes]:
        files = [fetched(self.vendor) / "tests/api_resources" / test for test in self.tests]
        router = Router(directory)
        model = mock.entry(self.vendor, files, directory)
        limits = {"timeout": 180, "stop_timeout": 5}
        router.write({mock.NAME: model}, requests={"default_model": mock.NAME}, switch=limits)
        try:
            router.start()
            load(router, mock.NAME)
            servers = {"direct": f"http://127.0.0.1:{model['port']}", "v1": router.url}
            return {way: self._run(files, way, url) for way, url in servers.items()}
        finally:
            router.end(may_be_gone=True)

    def _run(self, files: list[Path], way: str, url: str) -> Outcomes:
        report = REPORTS / f"conformance-{self.name}-{way}.xml"
        environment = {"TEST_API_BASE_URL": url + self.base}
        found = _pytest(fetched(self.vendor), report, list(map(str, files)), environment)
        return {name.removeprefix("tests.api_resources."): it for name, it in found.items()}


@dataclass(frozen=True)
class LlamaServer:
    """llama.cpp's tests of its server, at PyPI's xllamacpp with a tiny model.

    Each test starts the server with the options that it needs, or a router with that server.
    """

    tests: tuple[str, ...]
    name: str = "llama.cpp"
    ways: tuple[str, ...] = ("through",)

    @property
    def version(self) -> str:
        return "in " + fetched("llama_cpp_python").name.replace("_", "-")

    def outcomes(self, directory: Path) -> dict[str, Outcomes]:
        folder = fetched("llama_cpp_python") / "vendor/llama.cpp/tools/server/tests"
        model = directory / "tiny.gguf"
        tool = ROOT / "tests/hosts/tiny_gguf.py"
        subprocess.run([ROOT / ".venv/bin/python", tool, model], check=True)
        tests = [f"unit/{test}" for test in self.tests]
        names = mock.named_models([folder / test for test in tests])
        found = {}
        for way in ("direct", "through"):
            program = directory / f"llama-server-{way}"
            own = f'PYTHONPATH="{ROOT}:{ROOT / "roles/llm_router/files"}"'
            python, script = ROOT / ".venv/bin/python", HERE / "llama_server.py"
            program.write_text(
                f'#!/bin/sh\n{own} exec "{python}" "{script}" {way} "{model}" "$@"\n'
            )
            program.chmod(0o755)
            environment = {
                "LLAMA_SERVER_BIN_PATH": str(program),
                "LLAMA_TESTS_MODELS": json.dumps(names),
                "LLAMA_TESTS_WAY": way,
                "PYTHONPATH": str(HERE),
            }
            environment["PORT"] = str(free_port())
            report = REPORTS / f"conformance-llama.cpp-{way}.xml"
            options = ("-m", "not slow", "-p", "llama_plugin")
            found[way] = _pytest(folder, report, tests, environment, *options)
        return {
            way: {name.removeprefix("unit."): it for name, it in outcomes.items()}
            for way, outcomes in found.items()
        }


@dataclass(frozen=True)
class HttpLint:
    """httplint's notes on answers of PyPI's xllamacpp, and of the router in front of it."""

    name: str = "httplint"
    ways: tuple[str, ...] = ("through",)

    @property
    def version(self) -> str:
        (library,) = mock.ENVIRONMENT.glob("lib/python3*/site-packages")
        (found,) = library.glob("httplint-*.dist-info")
        return found.name.removeprefix("httplint-").removesuffix(".dist-info")

    def outcomes(self, directory: Path) -> dict[str, Outcomes]:
        path, port = directory / "tiny.gguf", free_port()
        tool = ROOT / "tests/hosts/tiny_gguf.py"
        subprocess.run([ROOT / ".venv/bin/python", tool, path], check=True)
        router = Router(directory)
        entry = {"backend": "llamacpp", "port": port, "model_path": str(path)}
        router.write({MODEL: entry})
        try:
            router.start()
            load(router, MODEL)
            notes = {"direct": self._notes(port), "through": self._notes(router.port)}
        finally:
            router.end(may_be_gone=True)
        notes = {
            way: {name.replace(" ", "-"): each for name, each in said.items()}
            for way, said in notes.items()
        }
        seen = {(name, note) for each in notes.values() for name in each for note in each[name]}
        found: dict[str, Outcomes] = {}
        for way, said in notes.items():
            plain: Outcomes = dict.fromkeys(said, "passed")
            noted: Outcomes = {
                f"{name}::{note}": "failed" if note in said[name] else "passed"
                for name, note in sorted(seen)
            }
            found[way] = {**plain, **noted}
        return found

    def _notes(self, port: int) -> dict[str, list[str]]:
        done = subprocess.run(
            [PYTHON, HERE / "lint.py", str(port), MODEL],
            stdout=subprocess.PIPE,
            timeout=120,
            check=True,
        )
        read: dict[str, list[str]] = json.loads(done.stdout)
        return read


SUITES: tuple[Suite, ...] = (
    Sdk(
        "openai-python",
        "openai",
        "/v1",
        (
            "audio/test_speech.py",
            "audio/test_transcriptions.py",
            "audio/test_translations.py",
            "chat/test_completions.py",
            "responses",
            "test_completions.py",
            "test_embeddings.py",
            "test_images.py",
            "test_models.py",
            "test_responses.py",
        ),
    ),
    Sdk(
        "anthropic-python",
        "anthropic",
        "",
        (
            "test_messages.py",
            "test_models.py",
            "beta/test_messages.py",
            "beta/test_models.py",
        ),
    ),
    LlamaServer(("test_compat_oai_responses.py", "test_tokenize.py")),
    HttpLint(),
)
