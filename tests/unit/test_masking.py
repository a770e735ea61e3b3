"""Keys in lines that engines logged."""

from __future__ import annotations

import time

import pytest

from llm_router.logs.masking import CONTEXT, last_masked, masked

KEY = "3f1c0d9a4be27f60"


@pytest.mark.parametrize(
    "line",
    [
        # SGLang 0.5.23 and 0.5.19: entrypoints/engine.py
        f"[2026-11-30 06:00:00] server_args={{'api_key': '{KEY}', 'admin_api_key': None}}",
        f"server_args=ServerArgs(model_path='/m', api_key='{KEY}', admin_api_key='{KEY}')",
        # TabbyAPI: common/auth.py
        f"INFO:     Your API key is: {KEY}",
        f"INFO:     Your API key is: {KEY}, {KEY}",
        f"INFO:     Your admin key is: {KEY}",
        # pydantic, of an api_tokens.yml that 79126f9 does not take
        f"Input should be a valid string [type=string_type, input_value=['{KEY}...'], input]",
        # vLLM
        f"non-default args: {{'api_key': ['{KEY}', '{KEY}'], 'port': 8000}}",
        f"VLLM_API_KEY={KEY} is set",
        f"python -m engine --api-key {KEY} --port 8000",
        f"python -m engine --api-key={KEY} --port 8000",
        f"['python', '--api-key', '{KEY}', '--port', '8000']",
        f'{{"api_key": "{KEY}"}}',
        f"headers: {{'authorization': 'Bearer {KEY}'}}",
        f"Authorization: Bearer {KEY}",
        f"x-api-key: {KEY}",
        f"X-Admin-Key: {KEY}",
        f"ssl_keyfile_password='{KEY}'",
        # the end of the line was cut off
        f"server_args=ServerArgs(api_key='{KEY}",
    ],
)
def test_what_stands_where_a_key_is_written_is_masked(line: str) -> None:
    (shown,) = masked([line])
    assert KEY not in shown
    assert "***" in shown


# what TabbyAPI e632af4 and 79126f9 print at a start where no width of the log is set
BROKEN_LINES = [
    "2026-11-30 13:43:35.877 INFO:     Your API key is: ",
    "ccc078dceee889732471f307fb990f4b",
    "2026-11-30 13:43:35.877 INFO:     Your admin key is: ",
    "2ce621421ff8700f42b3a8b83945fc8a",
    "2026-11-30 13:43:35.877 INFO:     If these keys get compromised, make sure to ",
    "delete api_tokens.yml and restart the server. Have fun!",
    "2026-11-30 13:43:36.216 INFO:     Finished chat completion request ",
    "ecd66ef66ff2423bb6562c08a680d988",
]


def test_keys_that_stand_below_their_name_are_masked() -> None:
    shown = masked(BROKEN_LINES)
    assert shown == [BROKEN_LINES[0], "***", BROKEN_LINES[2], "***", *BROKEN_LINES[4:]]


def test_many_keys_and_long_ones_are_masked_over_all_their_lines() -> None:
    name = "2026-11-30 13:43:35.877 INFO:     Your API key is:"
    lists = [[f"{KEY},", f"short, {KEY},", KEY], [f"{KEY}{KEY}", f"{KEY}"]]
    for keys in lists:
        assert masked([name, *keys, "INFO: Starting OAI API"]) == [
            name,
            *(["***"] * len(keys)),
            "INFO: Starting OAI API",
        ]
    assert masked([f"{name} {KEY}, short,", f"{KEY}, short"]) == [f"{name} ***", "***"]


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_the_end_of_a_log_is_masked_by_the_lines_before_it(wanted: int) -> None:
    shown = last_masked(BROKEN_LINES[:4], wanted)
    assert len(shown) == wanted
    assert "2ce62142" not in "".join(shown)
    assert shown[-1] == "***"
    assert CONTEXT > 3


def test_a_known_key_is_masked_wherever_it_stands() -> None:
    assert masked([f"GET /?k={KEY}x", "short: ab"], {KEY, "ab"}) == ["GET /?k=***x", "short: ab"]
    assert masked(["abcdef-ghi"], ["abcdef", "abcdef-ghi"]) == ["***"]


@pytest.mark.parametrize(
    "line",
    [
        "api_key=None, admin_api_key=None",
        "api_key_file=/etc/sglang/api_key",
        "tokens: 512, max_tokens=16, input token: 3",
        "the key is: in the file",
        "loading /srv/models/key-value/model.safetensors",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_other_lines_stay(line: str) -> None:
    assert masked([line]) == [line]


def test_a_hostile_line_takes_no_longer_than_its_length() -> None:
    began = time.process_time()
    for piece in ("api_key ", "bearer ", "api_key='", "--api-key ", "api_key:  ", "a, ", "["):
        masked([f"api_key={piece * 20_000}", piece * 20_000])
    assert time.process_time() - began < 5
