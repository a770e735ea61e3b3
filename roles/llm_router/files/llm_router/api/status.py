"""What a person who waits reads, in four styles, and the chunks that carry it. Pure.

`llm_router.status_lines` removes these lines from the history that a client sends back: change the
form of a line there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llm_router.api.wire import event
from llm_router.config.schema import StatusStyle
from llm_router.json_members import says_something
from llm_router.status_lines import strip_status

__all__ = [
    "Style",
    "choose_style",
    "chunk",
    "footer",
    "loading",
    "ready",
    "status_chunk",
    "strip_status",
    "switching",
    "waiting",
]

Style = Literal["content", "event", "reasoning", "off"]

LATE = 1.5
"""So many times what was expected is no longer as expected."""

_STRUCTURED = frozenset(
    (
        "tools",
        "functions",
        "response_format",
        "logprobs",
        "top_logprobs",
        # the engines' own ways to ask for structure: vLLM's guided_* and structured_outputs,
        # SGLang's regex and ebnf, llama.cpp's and TabbyAPI's grammars
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "json_schema",
        "regex",
        "ebnf",
        "structural_tag",
        "grammar",
        "grammar_string",
        "regex_pattern",
    )
)


def switching(model: str) -> str:
    """The first line of a switch."""
    return f"🔄 Switching to {model}..."


def loading(
    elapsed: float,
    timeout: float,
    expected: float | None = None,
    progress: float | None = None,
    doing: str = "",
) -> str:
    """The countdown: to what is expected, or to the end of all patience.

    That is where nothing is expected yet, or where the wait is well past it. ``progress`` is the
    part that is done, by the engine's own word. ``doing``: why it takes longer than others.
    """
    until = f"{timeout:.0f}s"
    if expected is not None and elapsed <= expected * LATE:
        until = f"~{max(expected, 1):.0f}s"
    done = f" ({progress:.0%})" if progress is not None else ""
    why = f", {doing}" if doing else ""
    return f"⏳ Loading model... {elapsed:.0f}s / {until}{done}{why}"


def waiting(busy_with: str, elapsed: float) -> str:
    """While another model still answers others."""
    return f"⏳ Waiting for {busy_with} to finish... {elapsed:.0f}s"


def ready(seconds: float) -> str:
    """The last line before the answer."""
    return f"✅ Model ready! ({seconds:.0f}s)"


def footer(rate: float, tokens: int, seconds: float) -> str:
    """The line after the answer."""
    return f"⚡ {rate:.1f} tok/s (~{tokens} tokens in {seconds:.1f}s)"


def choose_style(
    request: Mapping[str, Any],
    *,
    header: str | None,
    key: StatusStyle | None,
    model: StatusStyle | None,
    default: StatusStyle,
) -> Style:
    """The style for one streamed chat: header before key before model before the global default.

    ``auto`` is ``event``: programs write an answer's text into files, titles and databases, so the
    router's lines go there only where ``content`` is requested by name. Nothing is ever added to a
    tool call or to JSON mode: ``content`` gives way to ``event`` whenever the answer is not plain
    text from one choice, whoever asked for it.
    Raises ValueError for a header that names no style.
    """
    if header is not None and header not in ("auto", "content", "event", "reasoning", "off"):
        raise ValueError(header)
    style = header or key or model or default
    if style == "auto" or (style == "content" and not _plain_chat(request)):
        return "event"
    return style  # type: ignore[return-value]  # auto is gone


def _plain_chat(request: Mapping[str, Any]) -> bool:
    choices = request.get("n")
    if choices not in (None, 1):
        return False
    # most requests have none of these names, and that is one question
    structured = _STRUCTURED.intersection(request)
    return not any(says_something(request[key]) for key in structured)


def chunk(
    base: Mapping[str, Any],
    delta: Mapping[str, Any],
    **extra: Any,
) -> bytes:
    """One event with a valid ``chat.completion.chunk``; ``base`` has id, created and model, and
    may have a system_fingerprint."""
    body = {
        "id": base["id"],
        "object": "chat.completion.chunk",
        **base,
        "choices": [{"index": 0, "delta": dict(delta), "finish_reason": None}],
        **extra,
    }
    return event(body)


def status_chunk(base: Mapping[str, Any], style: Style, line: str, *, done: bool) -> bytes:
    """``line`` in the given style; ``done`` is true for the last line before the answer."""
    if style == "content":
        return chunk(base, {"content": line + ("\n\n" if done else "\n")})
    if style == "reasoning":
        return chunk(base, {"reasoning_content": line + "\n"})
    if style == "event":
        data = {"description": line, "done": done}
        return chunk(base, {}, event={"type": "status", "data": data})
    return b""
