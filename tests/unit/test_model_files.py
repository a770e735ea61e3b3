"""Where downloads go, and what a list of files means."""

from __future__ import annotations

import pytest

from llm_router.model_files import directory, gguf_file, model_path, unmatched, wanted

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATHS = ["README.md", "Q4/a-1.gguf", "Q4/a-2.gguf", "Q8/a.gguf", "odd[1].gguf"]


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        (None, "/m/org/name"),
        ("main", "/m/org/name"),
        (COMMIT, "/m/org/name"),
        ("4.0bpw", "/m/org/name@4.0bpw"),
        ("refs/pr/1", "/m/org/name@refs--pr--1"),
    ],
)
def test_a_commit_changes_no_path(revision: str | None, expected: str) -> None:
    assert directory("/m/", "org/name", revision) == expected


def test_what_the_engine_is_given() -> None:
    assert model_path("/m", "vllm", "o/n", None, ["*.safetensors"]) == "/m/o/n"
    assert (
        model_path("/m", "llamacpp", "o/n", "v1", ["Q4/a-1.gguf", "*"]) == "/m/o/n@v1/Q4/a-1.gguf"
    )
    assert model_path("/m", "llamacpp", "o/n", None, []) is None
    assert gguf_file(["*.gguf"]) is None
    assert gguf_file(["mmproj.bin", "a.gguf"]) is None


def test_files_are_names_and_patterns() -> None:
    assert wanted(PATHS, []) == PATHS
    assert wanted(PATHS, ["*.gguf"]) == PATHS[1:]
    assert wanted(PATHS, ["Q8/a.gguf", "Q4/*"]) == PATHS[1:4]
    assert wanted(PATHS, ["odd[1].gguf"]) == ["odd[1].gguf"]  # a name first, then a pattern
    assert unmatched(PATHS, ["Q4/*", "q8/*", "README"]) == ["q8/*", "README"]
