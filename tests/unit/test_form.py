"""Fields of a multipart form, by where they are."""

from __future__ import annotations

import contextlib
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.api.form import LONGEST_HEAD, MOST_PARTS, boundary_of, fields

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8)


def parts(raw: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    return [(one.name, raw[one.start : one.end]) for one in fields(raw, boundary)]


@given(
    st.dictionaries(
        NAMES.filter(lambda name: '"' not in name and "\\" not in name),
        st.binary(),
        max_size=MOST_PARTS - 1,  # the file is one more
    ),
    st.binary(),
)
def test_it_finds_what_a_client_library_wrote(values: dict[str, bytes], file: bytes) -> None:
    request = httpx.Request("POST", "http://x", data=values, files={"the file": ("a.wav", file)})
    raw, boundary = request.read(), boundary_of(request.headers["content-type"])
    assert boundary is not None
    assert parts(raw, boundary) == [*values.items(), ("the file", file)]
    assert [one.is_file for one in fields(raw, boundary)] == [False] * len(values) + [True]


def test_order_case_and_what_stands_around_it_do_not_matter() -> None:
    raw = (
        b"a preamble\r\n--B \r\nX: y\r\ncontent-DISPOSITION: form-data; filename=f; name=file"
        b"\r\n\r\n--B\r\r\n--B\r\n\r\nno headers\r\n"
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n\r\n--B--\r\nan epilogue'
    )
    assert parts(raw, b"B") == [("file", b"--B\r"), ("", b"no headers"), ("model", b"")]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; Boundary="a b"', b"a b"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=" + "x" * 201, None),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
        ("multipart/form-data; boundary=" + "x" * 71, None),
        ("multipart/form-data; boundary=abc; x=" + "y" * 220, None),
        ("multipart/form-data; boundary=abc; boundary=abd", None),
        ('multipart/form-data; boundary="a\x7fb"', None),
        ('multipart/form-data; boundary="ab "', None),
        ("multipart/form-data; boundary=abc;", b"abc"),
        ("multipart/mixed; boundary=abc", None),
        ("application/json", None),
        ("", None),
        ("\r\n", None),
    ],
)
def test_the_boundary(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"--",
        b"--B",
        b"--Bx\r\n\r\n\r\n--B--",
        b"--B\r\n",
        b"--B\r\nname: x",
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nno end',
        b"--B\r\nX: " + b"y" * 20_000 + b"\r\n\r\n\r\n--B--",
        b"--B\r\nX: " + b"y" * 1_030 + b"\r\n\r\n\r\n--B--",
        b"--B" + b"\r\n\r\nx\r\n--B" * 65 + b"--",
        b"--B\r\n" + b"Content-Disposition: form-data; name=a\r\n" * 2 + b"\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name=a; name=model\r\n\r\n\r\n--B--",
        b"--B\r\nContent-Disposition: form-data; name*=utf-8''model\r\n\r\n\r\n--B--",
    ],
)
def test_what_is_no_form_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        fields(raw, b"B")


@given(st.lists(st.sampled_from([b"--B", b"--", b"\r\n", b"\r", b"x", b": ", b"name=", b'"'])))
def test_no_bytes_surprise_it(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    try:
        found = fields(raw, b"B")
    except ValueError:
        return
    for one in found:
        assert 0 < one.start <= one.end <= len(raw)
        assert raw[one.end :].startswith(b"\r\n--B")


def test_heads_and_parts_up_to_the_limits_are_read() -> None:
    head = b'Content-Disposition: form-data; name="a\\"b"; filename="C:\\\\x"\r\nX: '
    head += b"y" * (LONGEST_HEAD - len(head) - 2)
    raw = b"--B" + (b"\r\n" + head + b"\r\n\r\nx\r\n--B") * MOST_PARTS + b"--\r\n"
    assert parts(raw, b"B") == [('a"b', b"x")] * MOST_PARTS


@pytest.mark.parametrize("hostile", [";", '; a="', "; a=b", '; a="\\"', "; a*0=b", " ", "=;"])
def test_hostile_headers_cost_no_time(hostile: str) -> None:
    """`email.message` is quadratic where a distribution's Python has not got its repair."""
    began = time.process_time()
    boundary_of("multipart/form-data" + hostile * (60_000 // len(hostile)))
    with contextlib.suppress(ValueError):
        fields(
            (b"--B\r\nContent-Disposition: form-data" + hostile.encode() * 1000 + b"\r\n\r\nx\r\n")
            * 200,
            b"B",
        )
    assert time.process_time() - began < 0.2
