"""What becomes of the type of an engine's answer."""

from __future__ import annotations

import pytest

from llm_router.api.passed_on import BYTES, GUARD, PLAIN, headers_for, shown_type

AS_THEY_ARE = [
    "application/json",
    "Application/JSON; charset=utf-8",
    "application/problem+json",
    "application/x-ndjson",
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "text/plain",
    "text/plain; version=0.0.4; charset=utf-8",
    "text/event-stream; charset=utf-8",
    "text/csv",
    "audio/mpeg",
    "image/png",
    "video/mp4",
]
RUNS = [
    "text/html",
    " TEXT/HTML;charset=utf-7",
    "text/xml",
    "text/javascript",
    "text/css",
    "text/vbscript",
    "image/svg+xml",
    "text/xsl",
]
OTHERS = [
    "application/xhtml+xml",
    "application/javascript",
    "application/xml",
    "application/pdf",
    "application/x-shockwave-flash",
    "multipart/x-mixed-replace; boundary=x",
    "message/rfc822",
    "model/gltf+json",
    "font/woff2",
    "",
    "html",
    "text/html, application/json",
    "application/json\x00",
    "application/json; \xff",
    "text/plain; x=" + "y" * 1_000_000,
    "*/*",
]


@pytest.mark.parametrize("kind", AS_THEY_ARE)
def test_json_text_and_media_are_as_they_are(kind: str) -> None:
    assert shown_type(kind) == kind


@pytest.mark.parametrize("kind", RUNS)
def test_what_a_browser_would_run_is_plain_text(kind: str) -> None:
    assert shown_type(kind) == PLAIN


@pytest.mark.parametrize("kind", OTHERS)
def test_all_else_is_bytes(kind: str) -> None:
    assert shown_type(kind) == BYTES


@pytest.mark.parametrize("kind", [*AS_THEY_ARE, *RUNS, *OTHERS, None])
def test_an_engines_own_path_is_always_guarded(kind: str | None) -> None:
    assert set(GUARD) <= set(headers_for(kind, own_path=True))


def test_the_apis_json_is_as_before_and_nothing_else_is() -> None:
    assert headers_for("application/json") == [("content-type", "application/json")]
    assert headers_for("text/html") == [("content-type", PLAIN), *GUARD]
    assert headers_for(None) == []
