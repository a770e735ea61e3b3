"""Which header fields go on, in both directions."""

from __future__ import annotations

from llm_router.api.headers import (
    MAX_FIELDS,
    MAX_SIZE,
    encoding_of,
    from_engine,
    problem,
    to_engine,
)


def test_a_request_has_each_field_once() -> None:
    """W3C's tracestate is the one that may be several."""
    fields = [(b"tracestate", b"a=1"), (b"user-agent", b"x"), (b"tracestate", b"b=2")]
    fields += [(b"user-agent", b"y"), (b"cookie", b"z")]
    assert to_engine(fields) == {"tracestate": "a=1,b=2", "user-agent": "y"}


def test_what_a_connection_names_goes_no_further() -> None:
    fields = [("connection", "X-One , close"), ("x-one", "1"), ("x-two", "2"), ("x-two", "3")]
    assert from_engine(fields) == [("x-two", "2"), ("x-two", "3")]


def test_what_describes_the_engines_bytes_goes_on_with_these_bytes_alone() -> None:
    fields = [("content-type", "x/y"), ("content-length", "3"), ("etag", "e")]
    fields.append(("cache-control", "no-store"))
    assert from_engine(fields) == [fields[3]]
    assert from_engine(fields, unchanged=True) == fields[1:]
    assert from_engine(fields, unchanged=True, stream=True) == fields[1:3]
    assert from_engine(fields, stream=True) == []


def test_a_head_is_passed_on_within_its_bounds() -> None:
    assert problem(200, [("x", "y")] * MAX_FIELDS) is None
    assert "65 header fields" in (problem(200, [("x", "y")] * (MAX_FIELDS + 1)) or "")
    assert problem(200, [("x", "y" * (MAX_SIZE - 5))]) is None
    assert "16385 bytes" in (problem(200, [("x", "y" * (MAX_SIZE - 4))]) or "")


def test_which_statuses_go_on() -> None:
    length = [("content-length", "0")]
    for status in (200, 201, 204, 205, 206, 299, 304, 400, 499, 500, 599):
        assert problem(status, length) is None, status
    for status in (0, 99, 100, 199, 300, 301, 303, 307, 308, 399, 600, 999):
        assert problem(status, length) is not None, status


def test_every_coding_of_a_body_counts() -> None:
    assert encoding_of([]) == "identity"
    assert encoding_of([("content-encoding", " Identity")]) == "identity"
    fields = [("content-encoding", "GZIP, identity"), ("content-encoding", "br")]
    assert encoding_of(fields) == "gzip, br"
