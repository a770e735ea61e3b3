"""One model: loaded from nothing, asked under its own name, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread

from llm_router.config.schema import Model
from llm_router.engines.values import cut_text
from llm_router.qualify import host, plan
from llm_router.qualify.client import CallFailed
from llm_router.qualify.measure import Answer, median, quantile
from llm_router.qualify.report import Value, counted
from llm_router.qualify.session import (
    ASKED,
    FEW_TOKENS,
    TOKENS,
    Session,
    between,
    gigabytes,
    outcome_of,
)

VERSION_PATHS = {"vllm": ("/version", "version"), "llamacpp": ("/props", "build_info")}
"""Where an engine says its version: a path that the router passes on, and a key of the answer."""


async def check_model(session: Session, name: str, share: float) -> None:
    """Add the rows. ``share``: seconds for all of it, so that a slow model leaves time for the
    next ones; a load may take longer."""
    until = session.clock() + share
    model = session.models[name]
    session.report.models[name] = {"backend": model.backend, "group": model.group}
    why = session.too_late(await session.expected(name))
    if why is not None:
        session.skip(name, ("load", "answer", "speed"), why)
        return
    await session.look_for_others()
    try:
        await session.unload(model.group)
        base = await session.used_memory()
        loaded = await session.load(name)
    except CallFailed as error:
        session.add("load", name, outcome_of(error))
        session.skip(name, ("answer", "speed"), "the model is not loaded")
        return
    took = session.load_seconds[name] = float(loaded["seconds"])
    used = await session.used_memory()
    held = between(base, used)
    memory = f", {gigabytes(held)} of GPU memory held" if held is not None else ""
    session.add(
        "load",
        name,
        ("passed", f"loaded in {took:.1f} s{memory}"),
        seconds=took,
        values={
            "load_seconds": took,
            "gpu_memory_before_bytes": base,
            "gpu_memory_loaded_bytes": used,
            "gpu_memory_held_bytes": held,
            **_step_seconds(loaded["steps"], name),
        },
    )
    await _engine_version(session, model)
    took = await _answer(session, name)
    await _speed(session, name, took, until)


def _step_seconds(steps: Sequence[Mapping[str, Any]], model: str) -> dict[str, Value]:
    """``step_wait_until_ready_seconds`` and so on, of the steps of a load."""
    found: dict[str, Value] = {}
    for step in steps:
        if step["model"] == model:
            words = "".join(f"_{c.lower()}" if c.isupper() else c for c in str(step["step"]))
            found[f"step{words}_seconds"] = float(step["seconds"])
    return found


async def _engine_version(session: Session, model: Model) -> None:
    """Of the engine that is loaded now, by its own word or by its package."""
    versions = session.report.versions
    if model.backend == "command" or versions.get(model.backend):
        return
    said: Any = None
    if model.backend in VERSION_PATHS:
        path, key = VERSION_PATHS[model.backend]
        try:
            said = (await session.router.call("GET", f"/upstream/{model.name}{path}")).get(key)
        except CallFailed:
            said = None
    if not isinstance(said, str):
        said = await anyio.to_thread.run_sync(host.release_of, model.backend)
    versions[model.backend] = cut_text(said, 80) if said is not None else None


async def _answer(session: Session, name: str) -> float:
    """Whether it answers under its own name, by the first operation that it can do. Returns the
    seconds of the answer."""
    first = ""
    for operation in ASKED:
        answer = await session.ask(name, operation)
        wrong = session.wrong(name, answer)
        if wrong is None:
            session.operations[name] = operation
            said = f"{answer.numbers} numbers" if answer.numbers else f"{answer.text} characters"
            end = f", finish_reason {answer.finish_reason}" if answer.finish_reason else ""
            session.add(
                "answer",
                name,
                ("passed", f"{operation}: {said} as '{answer.model}'{end}"),
                seconds=answer.seconds,
                values={
                    "operation": operation,
                    "answered_as": cut_text(answer.model, 200),
                    "answer_seconds": answer.seconds,
                },
            )
            return answer.seconds
        first = first or f"{operation}: {wrong}"
        if answer.status in (0, 200):
            # it can do this, and not well
            break
    session.add("answer", name, ("failed", first))
    return 0.0


async def _speed(session: Session, name: str, short: float, until: float) -> None:
    """``short``: seconds that a short answer took."""
    operation = session.operations.get(name)
    if operation not in ("chat", "completions"):
        why = "it does not generate text" if operation else "it did not answer"
        session.add("speed", name, ("skipped", why))
        return
    answers: list[Answer] = []
    began = session.clock()
    whole = short * TOKENS / FEW_TOKENS
    tokens = TOKENS if whole * plan.ROUNDS <= until - began else FEW_TOKENS
    for number in range(plan.ROUNDS):
        longest = max((answer.seconds for answer in answers), default=short)
        enough = bool(answers) and session.clock() + longest > until
        if enough or session.too_late(longest) is not None:
            break
        answer = await session.stream(name, number, tokens=tokens, within=session.left())
        if answer.late:
            break
        answers.append(answer)
    if not answers:
        session.add("speed", name, ("skipped", "the time budget has no time for a stream"))
        return
    wrong = next((said for one in answers if (said := session.wrong(name, one))), None)
    if wrong is not None:
        session.add("speed", name, ("failed", f"one of {counted(len(answers), 'stream')}: {wrong}"))
        return
    first = [one.first_seconds for one in answers if one.first_seconds is not None]
    rates = [
        one.rate
        for one in answers
        if one.rate is not None and (one.tokens or 0) >= plan.RATED_TOKENS
    ]
    ttft, rate = median(first), median(rates)
    told = f"{rate:.1f} tokens/s" if rate is not None else "too few tokens for a rate"
    session.add(
        "speed",
        name,
        (
            "passed",
            f"{counted(len(answers), 'stream')}: first token after {ttft or 0:.3f} s, {told}",
        ),
        seconds=session.clock() - began,
        values={
            "ttft_seconds_p50": ttft,
            "ttft_seconds_max": quantile(first, 1),
            "tokens_per_second_p50": rate,
            "tokens_per_second_min": quantile(rates, 0),
            "streams": len(answers),
            "completion_tokens": sum(one.tokens or 0 for one in answers),
        },
    )
