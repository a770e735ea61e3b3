"""What a qualification decides without a host: percentiles, answers, ways, comparison, the page."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from llm_router.cli.parser import parse
from llm_router.cli.qualify import write_report
from llm_router.config.schema import Model
from llm_router.nvml import Gpu
from llm_router.qualify import cuda_toolkit as host_check
from llm_router.qualify import host, plan
from llm_router.qualify.check_residency import Gate
from llm_router.qualify.compare import (
    LESS_IS_SLOWER,
    MORE_IS_SLOWER,
    WORDS,
    as_row,
    compare,
    in_words,
)
from llm_router.qualify.measure import Answer, StreamReader, median, quantile, read_whole
from llm_router.qualify.page import as_html
from llm_router.qualify.plan import Budget, NotRun
from llm_router.qualify.report import (
    CHECKS,
    NotAReport,
    Report,
    Row,
    as_data,
    as_duration,
    as_text,
    clean,
    read_report,
)

GB = 10**9


def model(name: str = "m", **fields: Any) -> Model:
    made = {"backend": "vllm", "service": "vllm.service", "model_path": "/srv/m", **fields}
    return Model.model_validate({"name": name, **made})


# percentiles


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([], 0.5, None),
        ([3.0], 0.5, 3.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 0.95, 4.0),
        ([4.0, 1.0, 3.0, 2.0], 0, 1.0),
        ([4.0, 1.0, 3.0, 2.0], 1, 4.0),
    ],
)
def test_quantiles_are_values_that_were_measured(
    values: list[float], part: float, expected: float | None
) -> None:
    assert quantile(values, part) == expected


@given(some.lists(some.floats(0, 1e6), min_size=1))
def test_the_median_is_in_the_middle(values: list[float]) -> None:
    middle = median(values)
    assert middle is not None
    assert sum(one < middle for one in values) <= len(values) / 2
    assert sum(one > middle for one in values) <= len(values) / 2
    assert median([]) is None


# answers


def whole(**changes: Any) -> Answer:
    made = {"status": 200, "model": "m", "text": 5, "finish_reason": "stop", "complete": True}
    return Answer(**{**made, **changes})


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, None),
        ({"model": "org/m"}, None),
        ({"finish_reason": "length"}, None),
        ({"text": 0, "numbers": 768, "finish_reason": ""}, None),
        ({"error": "HTTP 500"}, "HTTP 500"),
        ({"complete": False}, "the answer broke off"),
        ({"text": 0}, "the answer has no text"),
        ({"finish_reason": "abort"}, "finish_reason is 'abort', not one of stop, length, "),
        ({"finish_reason": ""}, "finish_reason is ''"),
        ({"model": ""}, "the answer does not name its model"),
        ({"model": "other"}, "the answer is from 'other', not from 'm'"),
    ],
)
def test_an_answer_must_be_whole_and_its_models_own(
    changes: dict[str, Any], wrong: str | None
) -> None:
    said = whole(**changes).wrong({"m"})
    assert (said is None) == (wrong is None)
    assert (said or "").startswith(wrong or "")


def test_a_model_whose_name_only_its_engine_knows_may_have_any() -> None:
    assert whole(model="/home/x/quant").wrong(frozenset()) is None
    adopted = model(model_path=None, script="/home/x/start.sh")
    assert plan.names_in_answers(adopted) == frozenset()
    assert plan.names_in_answers(model(model_name="org/m-7b")) == {"m", "org/m-7b", "m-7b"}


def events(*bodies: Any) -> list[str]:
    return [line for body in bodies for line in (f"data: {json.dumps(body)}", "")]


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def read(lines: list[str]) -> Answer:
    """Lines that come a tenth of a second apart, two of them an event."""
    reader = StreamReader()
    for number, line in enumerate(lines):
        reader.piece(line.encode("utf-8", "replace") + b"\n", number / 10)
    return reader.ended(len(lines) / 10)


def test_a_stream_is_measured_from_its_first_text_to_its_last() -> None:
    bodies = [chunk(role="assistant"), chunk(content=" "), chunk(content="a"), chunk(content="b")]
    answer = read([": keepalive", "", *events(*bodies, chunk("stop")), "data: [DONE]"])
    assert answer.wrong({"m"}) is None
    assert answer.first_seconds == pytest.approx(0.4)
    assert answer.rate == pytest.approx(2 / 0.4)
    assert answer.text == 2, "space is no text"


def test_the_routers_own_rate_comes_first() -> None:
    usage = {"model": "m", "choices": [], "usage": {"completion_tokens": 9, "tokens_per_second": 4}}
    answer = read([*events(chunk(content="a"), chunk("stop", content="b"), usage), "data: [DONE]"])
    assert (answer.tokens, answer.rate) == (9, 4)


def test_events_may_come_in_any_pieces() -> None:
    reader = StreamReader()
    text = "\r\n".join(
        [*events(chunk(content="ä"), chunk("stop", content="b")), "data: [DONE]", ""]
    )
    for number, byte in enumerate(text.encode()):
        reader.piece(bytes([byte]), number / 10)
    assert reader.ended(9.0).wrong({"m"}) is None
    assert reader.answer.text == 2


def test_reasoning_is_text_and_counts_once() -> None:
    both = chunk("stop", reasoning="abc", reasoning_content="abc")
    assert read([*events(both), "data: [DONE]"]).text == 3


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (events(chunk(content="a")), "the answer broke off"),
        ([*events(chunk(content="a"), {"error": {"message": "gone"}}), "data: [DONE]"], "gone"),
        ([*events({"error": "gone"}), "data: [DONE]"], "gone"),
        (["data: {half"], "an event of the stream is not JSON"),
        (["data: NaN", "data: []", "data: [DONE]"], "an event of the stream is not JSON"),
        (["data: [DONE]"], "the answer has no text"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said(lines: list[str], wrong: str) -> None:
    assert read(lines).wrong({"m"}) == wrong


@pytest.mark.parametrize(
    ("status", "content", "wrong"),
    [
        (200, b"<html>", "HTTP 200 without JSON"),
        (503, b"", "HTTP 503 without JSON"),
        (501, b'{"error": {"message": "not here"}}', "not here"),
        (400, b'{"detail": "no"}', "no"),
        (500, b"{}", "HTTP 500"),
        (200, b'{"choices": [7], "model": "m"}', "the answer has no text"),
    ],
)
def test_a_response_of_any_kind_is_read(status: int, content: bytes, wrong: str) -> None:
    answer = Answer(status=status)
    read_whole(answer, content)
    assert answer.wrong({"m"}) == wrong


def test_a_vector_is_an_answer() -> None:
    answer = Answer(status=200)
    read_whole(answer, b'{"model": "m", "data": [{"embedding": [0.5, 0.25]}]}')
    assert (answer.numbers, answer.wrong({"m"})) == (2, None)


@given(some.text(max_size=60), some.integers(100, 599))
def test_no_answer_of_an_engine_is_a_fault_of_ours(text: str, status: int) -> None:
    read(["data: " + text, text])
    read_whole(Answer(status=status), text.encode("utf-8", "replace"))


# what is checked


def test_every_way_that_the_engine_has_is_tried_its_own_last() -> None:
    flags = {"enable-sleep-mode": True}
    assert plan.ways(model(settings=flags)) == [("stop", ""), ("discard", ""), ("sleep", "")]
    assert [way for way, _ in plan.ways(model(settings=flags, residency="stop"))][-1] == "stop"
    why = "its engine is started without --enable-sleep-mode"
    assert plan.ways(model()) == [("discard", why), ("sleep", why), ("stop", "")]
    script = model(model_path=None, script="/x.sh", residency="sleep")
    assert plan.ways(script) == [("stop", ""), ("discard", ""), ("sleep", "")]
    sglang = model(backend="sglang", service="sglang@m.service", args=["--enable-memory-saver"])
    assert dict(plan.ways(sglang)) == {
        "stop": "",
        "discard": "",
        "sleep": "its engine is started without --enable-weights-cpu-backup",
    }
    llama = model(backend="llamacpp", service="llamacpp@m.service", model_path="/m.gguf")
    assert plan.ways(llama) == [("stop", "")]


def test_the_fastest_two_of_a_group_are_switched() -> None:
    groups = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y"}
    loads = {"a": 9.0, "b": 2.0, "c": 5.0, "d": 1.0}
    assert plan.pairs(list(groups), groups, loads) == {"x": ("b", "c"), "y": None}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (20, "20 seconds"),
        (60, "1 minute"),
        (90, "90 seconds"),
        (600, "10 minutes"),
        (3600, "60 minutes"),
    ],
)
def test_a_short_budget_is_not_0_minutes(seconds: float, said: str) -> None:
    assert as_duration(seconds) == said


def test_who_uses_the_router_is_left_alone() -> None:
    status: dict[str, Any] = {
        "groups": {"x": {"loaded": "a"}, "y": {"pinned": {"model": "d", "seconds": 9}}},
        "switches": [{"group": "y"}],
    }
    assert plan.what_forbids(status, [], ["x"]) == []
    assert plan.what_forbids(status, [{"model": "a"}, {"model": "a"}], ["x"]) == [
        "2 requests are in flight or waiting (for a)"
    ]
    assert plan.what_forbids(status, [{"model": "a"}], ["x"]) == [
        "1 request is in flight or waiting (for a)"
    ]
    assert plan.what_forbids(status, [], ["y"]) == ["group y is being switched"]
    assert plan.pinned(status, ["x"]) == []
    assert plan.pinned(status, ["x", "y"]) == ["group y is pinned to d; run `llm-router unpin d`"]


def test_unknown_models_are_named() -> None:
    assert plan.names_to_check(["b", "a", "b"], ["a", "b"]) == ["b", "a"]
    assert plan.names_to_check(None, ["a", "b"]) == ["a", "b"]
    with pytest.raises(NotRun, match="no model x, y; known models: a"):
        plan.names_to_check(["x", "y"], ["a"])
    with pytest.raises(NotRun, match=r"models\.yml has no models"):
        plan.names_to_check(None, [])


def test_each_phase_leaves_time_for_the_next() -> None:
    budget = Budget(600, reserve=100)
    left = [budget.left(phase, 0) for phase in ("models", "residency", "switches")]
    assert left == sorted(left)
    assert (left[0], left[-1]) == (275, 500)
    assert budget.left("switches", 501) < 0
    assert plan.needs(None, 1) is None
    assert plan.needs(None, 0) == "the time budget is used up"
    assert plan.needs(30, 20) == "it takes about 30 s, and 20 s of the time budget are left"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5m", 90), ("1h", 3600)]
)
def test_a_budget_is_written_as_people_do(text: str, seconds: float) -> None:
    assert parse(["qualify", "--budget", text]).budget == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "0", "nan", "ten", "1d"])
def test_what_is_not_a_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["qualify", f"--budget={text}"])
    assert "--budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--slower=abc", "--slower: 'abc' is not a percentage: write it as 20"),
        ("--slower=-5", "--slower: '-5' is not a percentage: write it as 20"),
        ("--budget=0s", "--budget: '0s' is not a time: write it as 90s, 10m or 1h"),
    ],
)
def test_a_wrong_number_is_named_with_its_form(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["qualify", option])
    assert said in capsys.readouterr().err


# GPU memory


def gate(*stops: tuple[int, int, float | None], base: int = GB) -> tuple[str, str]:
    made = Gate(base)
    for held, left, wait in stops:
        made.note("m", 24 * GB, held, left, wait)
    return made.outcome()


def test_memory_must_come_back_and_be_waited_for() -> None:
    assert gate((20 * GB, GB, 0.5), (20 * GB, GB + 400_000_000, 1.25)) == (
        "passed",
        "all came back after 2 stops; longest wait 1.25 s",
    )
    status, said = gate((20 * GB, 5 * GB, 0.5))
    assert (status, said) == ("failed", "3.5 GB of GPU memory did not come back")
    assert gate((20 * GB, GB, None)) == (
        "failed",
        "the next load did not wait for the GPU memory of m",
    )
    assert gate((GB + 1000, GB, None))[0] == "skipped", "an engine on the CPU"


class NVMLError(Exception):
    """NVML's own."""


def nvml(**answers: Any) -> Any:
    """One GPU. Names and shapes are pynvml's."""

    def silent(*_: Any) -> Any:
        raise NVMLError

    names = (
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetPersistenceMode",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetMaxPcieLinkGeneration",
        "nvmlDeviceGetMaxPcieLinkWidth",
    )
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlSystemGetDriverVersion=lambda: b"580.65.06",
        nvmlSystemGetCudaDriverVersion=lambda: 13010,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda _: b"NVIDIA H200",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=140 * GB, free=GB, used=139 * GB),
        **{
            name: (lambda *_, name=name: answers[name]) if name in answers else silent
            for name in names
        },
    )


def test_a_gpu_is_described_as_far_as_it_tells() -> None:
    gpus, versions = host.read_gpus(nvml())
    assert versions == {"driver": "580.65.06", "driver_cuda": "13.1"}
    assert gpus[0]["name"] == "NVIDIA H200"
    assert gpus[0]["compute_capability"] is None
    told = nvml(
        nvmlDeviceGetCudaComputeCapability=(9, 0),
        nvmlDeviceGetMigMode=[1, 1],
        nvmlDeviceGetPersistenceMode=0,
        nvmlDeviceGetEnforcedPowerLimit=700_000,
    )
    (gpu,) = host.read_gpus(told)[0]
    assert (gpu["compute_capability"], gpu["mig"], gpu["persistence"]) == ("9.0", True, False)
    assert gpu["power_limit_watts"] == 700
    assert not {"uuid", "serial"} & gpu.keys(), "which card it is, is nobody's business"


def test_a_driver_without_these_calls_is_enough() -> None:
    """What stands in for NVML on a host with GPUs of AMD has memory and names alone."""
    whole = nvml()
    some_calls = ("NVMLError", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex")
    names = (*some_calls, "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo")
    gpus, versions = host.read_gpus(SimpleNamespace(**{one: getattr(whole, one) for one in names}))
    assert versions == {"driver": None, "driver_cuda": None}
    assert gpus[0]["memory_total_bytes"] == 140 * GB


def test_memory_of_all_gpus_is_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = (Gpu(0, 24 * GB, 4 * GB, {}), Gpu(1, 24 * GB, 23 * GB, {}))
    monkeypatch.setattr(host, "read_memory", lambda _: gpus)
    assert host.memory(nvml()) == host.Memory(21 * GB, 48 * GB)
    assert host.memory(None) is None


# toolkit and engines


def toolkit(home: Path, version: str) -> Path:
    nvcc = home / "bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
    nvcc.chmod(0o755)
    return home


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can read, unlike pytest's own."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_no_code_of_a_toolkit_runs_as_root(place: Path) -> None:
    home = place / "cuda"
    nvcc, users = home / "bin/nvcc", place / "users"
    for name in host_check.NEEDED:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    (home / "include/cuda_runtime_api.h").write_text("#define CUDART_VERSION 13000\n")
    users.touch()
    users.chmod(0o666)
    nvcc.write_text(f"#!/bin/sh\nid -u >>{users}\nid -G >>{users}\necho release 13.0\n")
    nvcc.chmod(0o755)
    assert host.find_toolkit([home]) == (home, "13.0")
    status, said = host.compile_kernel(home, "13.0", ["8.0"], 30)
    assert status == "failed"  # it compiles nothing
    assert "could not compile" in said or "not be run" in said
    assert set(users.read_text().split()) == {"65534"}
    assert len(users.read_text().split()) == 2 * 3  # two versions and one kernel


def test_the_first_toolkit_that_runs_is_taken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    broken = place / "broken"
    (broken / "bin").mkdir(parents=True)
    (broken / "bin/nvcc").write_text("not a program")
    good = toolkit(place / "good", "13.0")
    assert host.find_toolkit([place / "none", broken, good]) == (good, "13.0")
    assert host.find_toolkit([place / "none", broken]) is None


def test_the_releases_own_check_compiles(place: Path) -> None:
    """Which says what is missing; that a whole toolkit passes is tested with PyPI's compiler."""
    assert host.COMPILER.resolve().parts[-4:] == ("roles", "sglang", "files", "cuda_toolkit.py")
    home = toolkit(place / "cuda", "13.0")
    status, said = host.compile_kernel(home, "13.0", [], 30)
    assert status == "failed"
    assert "has no nvvm/bin/cicc" in said


def test_an_engines_version_is_read_from_its_release(tmp_path: Path) -> None:
    packages = tmp_path / "opt/sglang/abc/lib/python3.12/site-packages"
    (packages / "sglang-0.5.23.dist-info").mkdir(parents=True)
    (packages / "sglang_kernel-9.dist-info").mkdir()
    (tmp_path / "opt/sglang/current").symlink_to("abc")
    (tmp_path / "opt/tabby").mkdir()
    (tmp_path / "opt/tabby/current").symlink_to("0123456789ab")
    root = tmp_path / "opt"
    assert host.release_of("sglang", root) == "0.5.23"
    assert host.release_of("tabby", root) == "0123456789ab"
    assert host.release_of("vllm", root) is None


# the report


def report(*rows: Row, **fields: Any) -> Report:
    made = Report(1_700_000_000.0, 600, finished=True, **fields)
    made.rows += rows
    return made


ANSWERED = Row("answer", "m", "passed", "chat: 5 characters")


def speed(rate: float, ttft: float = 0.2) -> Row:
    values = {"tokens_per_second_p50": rate, "ttft_seconds_p50": ttft}
    return Row("speed", "m", "passed", "5 streams", seconds=1.23456, values=values)


def test_the_form_of_a_report_stays() -> None:
    made = report(ANSWERED, Row("residency", "m", "skipped", "no time", "sleep"), speed(10))
    made.versions = {"router": "0.1.0", "driver": None}
    data = json.loads(as_text(made))
    assert list(data) == [
        *("kind", "schema", "result", "label", "started", "seconds", "budget_seconds", "counts"),
        *("host", "versions", "gpus", "models", "rows", "comparison"),
    ]
    assert (data["kind"], data["schema"]) == ("roundhouse-qualify", 1)
    assert data["started"] == "2023-11-14T22:13:20Z"
    assert data["counts"] == {"passed": 2, "failed": 0, "skipped": 1}
    assert [row["id"] for row in data["rows"]] == ["answer:m", "residency:m:sleep", "speed:m"]
    assert data["rows"][2] == {
        "id": "speed:m",
        "check": "speed",
        "subject": "m",
        "status": "passed",
        "detail": "5 streams",
        "part": "",
        "seconds": 1.2346,
        "values": {"tokens_per_second_p50": 10, "ttft_seconds_p50": 0.2},
    }
    assert read_report(as_text(made))["rows"] == data["rows"]


@pytest.mark.parametrize(
    ("made", "result"),
    [
        (report(ANSWERED), "passed"),
        (report(ANSWERED, Row("load", "b", "failed", "no")), "failed"),
        (report(Row("answer", "m", "skipped", "no time")), "incomplete"),
        (report(ANSWERED, interrupted=True), "interrupted"),
    ],
)
def test_how_a_report_ends(made: Report, result: str) -> None:
    assert made.result == result


def test_a_report_that_broke_off_has_not_passed() -> None:
    made = report(ANSWERED)
    made.finished = False
    assert made.result == "incomplete"


def test_messages_lose_their_keys_and_line_ends() -> None:
    assert clean("started with api_key='secret-key-1'\n  and died") == (
        "started with api_key='***' and died"
    )
    assert len(clean("x" * 10_000)) < 600


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not a report"),
        ('{"kind": "other"}', "not a report"),
        ('{"kind": "roundhouse-qualify", "schema": 2}', "its schema is 2"),
        ('{"kind": "roundhouse-qualify", "schema": 1, "rows": 5, "versions": {}}', "no rows"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_report_is_refused(text: str, why: str) -> None:
    with pytest.raises(NotAReport, match=why):
        read_report(text)


def test_a_report_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    """Whoever may write to the directory could have root write over any file."""
    victim, link = tmp_path / "victim", tmp_path / "report.json"
    victim.write_text("keep me")
    link.symlink_to(victim)
    write_report(link, "{}")
    assert victim.read_text() == "keep me"
    assert not link.is_symlink()
    assert (link.read_text(), stat.S_IMODE(link.stat().st_mode)) == ("{}", 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "victim"]


# the comparison


def compared(before: Report, now: Report, percent: float = 20) -> dict[str, Any]:
    return compare(now, read_report(as_text(before)), percent)


def test_what_became_slower_is_named_worst_first() -> None:
    load = Row("load", "m", "passed", "", values={"load_seconds": 40.0, "step_start_seconds": 1.0})
    slow = Row("load", "m", "passed", "", values={"load_seconds": 50.0, "step_start_seconds": 9.0})
    found = compared(report(ANSWERED, load, speed(100)), report(ANSWERED, slow, speed(50)))
    assert [(one["id"], one["value"], one["slower_percent"]) for one in found["slower"]] == [
        ("speed:m", "tokens_per_second_p50", 100.0),
        ("load:m", "load_seconds", 25.0),
    ]
    assert not found["faster"]
    row = as_row(found)
    assert row.status == "failed"
    assert (
        "2 values are at least 20 % slower, most of all Speed: m, tokens/s (+100 %)" in row.detail
    )
    back = compared(report(ANSWERED, slow, speed(50)), report(ANSWERED, load, speed(100)))
    assert as_row(back).status == "passed"
    assert len(back["faster"]) == 2


def test_a_reader_gets_words_and_no_keys() -> None:
    assert set(WORDS) == {*MORE_IS_SLOWER, *LESS_IS_SLOWER}
    back = "Leave the GPU and come back: m:stop, time to come back in s"
    assert in_words("residency:m:stop", "back_seconds") == back
    assert in_words("gpu") == "GPUs and driver"
    found = compared(report(ANSWERED, speed(100)), report(ANSWERED, speed(50)))
    made = report(ANSWERED)
    made.comparison = found
    assert "Speed: m, tokens/s" in as_html(made)


def test_noise_is_no_finding() -> None:
    before, now = report(ANSWERED, speed(100, 0.010)), report(ANSWERED, speed(99.6, 0.025))
    assert not compared(before, now)["slower"]
    assert not compared(report(ANSWERED, speed(100)), report(ANSWERED, speed(85)))["slower"]
    assert compared(report(ANSWERED, speed(100)), report(ANSWERED, speed(85)), 10)["slower"]


def test_other_versions_and_results_are_named() -> None:
    before, now = report(ANSWERED, speed(10)), report(ANSWERED)
    before.versions = {"driver": "570", "nvcc": None, "vllm": "0.33.0", "tabby": "1"}
    now.versions = {"driver": "580", "nvcc": "13.0", "vllm": "0.33.0", "sglang": "0.5.23"}
    now.rows[0] = Row("answer", "m", "failed", "no text")
    found = compared(before, now)
    assert found["versions"] == [
        {"name": "driver", "before": "570", "now": "580"},
        {"name": "nvcc", "before": None, "now": "13.0"},
    ]
    assert found["results"] == [{"id": "answer:m", "before": "passed", "now": "failed"}]
    assert (found["only_before"], found["only_now"]) == (["speed:m"], [])
    row = as_row(found)
    assert row.status == "failed"
    assert "1 check passed before, and now failed" in row.detail


@given(
    some.recursive(
        some.none() | some.booleans() | some.integers() | some.text(max_size=5),
        lambda inner: (
            some.lists(inner, max_size=3)
            | some.dictionaries(
                some.sampled_from(["id", "values", "load_seconds", "x"]), inner, max_size=3
            )
        ),
    )
)
@example(10**400)
@example(-(10**400))
def test_an_earlier_report_may_hold_anything(strange: Any) -> None:
    data = as_data(report(ANSWERED, speed(10)))
    rows = [*data["rows"], strange, {"id": "speed:m", "status": strange, "values": {"x": strange}}]
    text = json.dumps(
        {
            **data,
            "rows": rows,
            "versions": {"driver": strange},
            "label": strange,
            "started": strange,
        }
    )
    found = compare(report(ANSWERED, speed(10)), read_report(text), 20)
    made = report(ANSWERED)
    made.comparison = found
    as_row(found)
    json.dumps(found)
    Page().feed(as_html(made))


# the page


class Page(HTMLParser):
    """Notes every tag, and what would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [
            f"{name}={value}"
            for name, value in attrs
            if name in ("src", "href", "srcset", "style") or name.startswith("on")
        ]


def test_the_page_names_facts_for_a_reader() -> None:
    made = report(versions={"router_release": "abc"}, host={"memory_bytes": 24 * 2**30})
    page = as_html(made)
    assert '<th scope="row">memory, GiB</th><td data-label="Value">24.0</td>' in page
    assert '<th scope="row">router release</th>' in page


def test_names_of_others_are_text_on_the_page() -> None:
    nasty = "<script>alert(1)</script>\"'&"
    made = report(
        ANSWERED,
        Row("load", nasty, "failed", nasty, nasty),
        label=nasty,
        versions={nasty: nasty},
        host={"os": nasty},
        models={nasty: {"backend": nasty, "group": nasty}},
    )
    made.gpus = host.read_gpus(nvml())[0]
    made.gpus[0]["name"] = nasty
    before = report(ANSWERED, label=nasty, versions={nasty: None})
    before.rows.append(Row("load", nasty, "passed", nasty, nasty, values={"load_seconds": 1.0}))
    made.rows[1] = Row("load", nasty, "failed", nasty, nasty, values={"load_seconds": 100.0})
    made.comparison = compared(before, made)
    html = as_html(made)
    page = Page()
    page.feed(html)
    assert "script" not in page.tags
    assert page.sources == []
    assert "alert(1)" in html
    assert not re.search(r"https?:|url\(|@import", html), "it needs nothing from elsewhere"
    assert "prefers-color-scheme: dark" in html


def test_the_page_shows_every_row() -> None:
    rows = [Row(check, "m", "passed", f"detail of {check}", seconds=1.0) for check in CHECKS]
    html = as_html(report(*rows))
    for row in rows:
        assert row.detail in html
    assert "All checks that were made passed" in html
    assert "Some checks failed" in as_html(report(Row("load", "m", "failed", "it broke")))
