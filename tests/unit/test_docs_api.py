"""docs/api.md says of paths and engines what the code says."""

from __future__ import annotations

from pathlib import Path

from llm_router.api import headers
from llm_router.api.paths import OPERATIONS, Operation
from llm_router.engines import ENGINES

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
COLUMNS = {
    "vLLM": "vllm",
    "SGLang": "sglang",
    "llama.cpp": "llamacpp",
    "TabbyAPI": "tabby",
    "command": "command",
}
ADMINISTRATIVE = (
    *("sleep", "wake", "load", "release", "resume", "flush", "profile", "rpc", "shutdown"),
    *("update", "weights", "token/", "template/", "override", "download", "abort", "pause"),
    *("slots", "server_info", "session", "internal_state", "logging"),
)


def listed(paths: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{path}`" for path in paths)


def row(operation: Operation) -> str:
    cells = []
    for backend in COLUMNS.values():
        path = ENGINES[backend].operations.get(operation.name)
        cells.append("–" if path is None else "yes" if path == operation.path else f"`{path}`")
    return f"| {listed(operation.paths)} | {operation.summary} | {' | '.join(cells)} |"


def test_the_table_of_paths() -> None:
    assert set(COLUMNS.values()) == set(ENGINES)
    rows = "\n".join(row(operation) for operation in OPERATIONS)
    assert (
        f"| path | what | {' | '.join(COLUMNS)} |\n|---|---|---|---|---|---|---|\n{rows}\n" in PAGE
    )


def test_the_table_of_the_engines_own_paths() -> None:
    for name, backend in COLUMNS.items():
        assert f"| {name} | {listed(sorted(ENGINES[backend].own_paths))} |\n" in PAGE


def test_no_operation_has_anothers_path() -> None:
    paths = [path for operation in OPERATIONS for path in operation.paths]
    assert len(paths) == len(set(paths))


def test_what_is_let_through_has_no_power_over_the_engine() -> None:
    for engine in ENGINES.values():
        for path in engine.own_paths:
            if path != "GET /load":  # vLLM's number of running requests
                assert not [word for word in ADMINISTRATIVE if word in path], path


def fields(names: frozenset[str], *others: str) -> str:
    return listed([*sorted(names), *others])


def test_the_tables_of_headers() -> None:
    assert f"| {fields(headers.TO_ENGINE)} | as the client sent it; " in PAGE
    assert f"| {fields(headers.OF_CONNECTION)}, and each header that `connection` names | " in PAGE
    assert f"| {fields(headers.ROUTERS_OWN, 'x-llm-router-…')} | the router's own |" in PAGE
    assert f"| {fields(headers.OF_ORIGIN, 'access-control-…')} | not sent |" in PAGE
    assert f"| {fields(headers.OF_BODY)} | sent if the body is sent unchanged" in PAGE
    assert f"| {fields(headers.OF_STREAM)} | in an event stream the router's own" in PAGE
    assert set(headers.PREFIXES) == {"x-llm-router-", "access-control-"}
    assert f"more than {headers.MAX_FIELDS} header fields" in PAGE
    assert f"more than {headers.MAX_SIZE // 1024} KiB of them" in PAGE
