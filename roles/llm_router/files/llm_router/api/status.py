"""What a person who waits reads, in four styles; and how it is taken out again. Pure.

The lines, the chunks that carry them, and the removal of such lines from the history that a client
sends back stand in one file, because each must know the others' exact form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from llm_router.api.wire import event
from llm_router.config.schema import StatusStyle

Style = Literal["content", "event", "reasoning", "off"]

_LINE = (
    r"(?:🔄 Switching to [^\n]+\.\.\."
    r"|⏳ Loading model\.\.\. \d+s / ~?\d+s(?: \(\d+%\))?"
    r"|⏳ Waiting for [^\n]+\.\.\. \d+s"
    r"|✅ Model ready! \(\d+s\))"
)
# whole lines alone, and no two ways to read them: this runs on text that others chose
_HEAD = re.compile(rf"\A(?:{_LINE}(?:\n+|\Z))+")
_FOOTER = re.compile(r"⚡ \d+\.\d tok/s \(~\d+ tokens in \d+\.\d+s\)")


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
    elapsed: float, timeout: float, expected: float | None = None, progress: float | None = None
) -> str:
    """The countdown: to what is expected, or to the end of all patience.

    That is where nothing is expected yet, or where the wait is well past it. ``progress`` is the
    part that is done, by the engine's own word.
    """
    until = f"{timeout:.0f}s"
    if expected is not None and elapsed <= expected * LATE:
        until = f"~{max(expected, 1):.0f}s"
    done = f" ({progress:.0%})" if progress is not None else ""
    return f"⏳ Loading model... {elapsed:.0f}s / {until}{done}"


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
    return not any(request[key] for key in structured)


def chunk(
    base: Mapping[str, Any],
    delta: Mapping[str, Any],
    **extra: Any,
) -> bytes:
    """One event with a valid ``chat.completion.chunk``; ``base`` has id, created and model."""
    body = {
        "id": base["id"],
        "object": "chat.completion.chunk",
        "created": base["created"],
        "model": base["model"],
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


def strip_status(messages: Any) -> tuple[Any, bool]:
    """``messages`` without the router's own lines in what the assistant said, and if any was found.

    Only exact lines at the very beginning and the footer at the very end count: text that merely
    speaks of them stays.
    """
    if not isinstance(messages, list):
        return messages, False
    changed = False
    cleaned: list[Any] = []
    for message in messages:
        clean = message
        if isinstance(message, dict) and message.get("role") == "assistant":
            content = _strip_content(message.get("content"))
            if content != message.get("content"):
                clean = {**message, "content": content}
                changed = True
        cleaned.append(clean)
    return cleaned, changed


def _strip_content(content: Any) -> Any:
    if isinstance(content, str):
        return _strip_text(content)
    if isinstance(content, list):
        texts = [i for i, part in enumerate(content) if isinstance(part, dict) and "text" in part]
        parts = list(content)
        for index in texts:
            text = parts[index]["text"]
            if isinstance(text, str):
                parts[index] = {**parts[index], "text": _strip_text(text)}
        return parts
    return content


def _strip_text(text: str) -> str:
    text = _HEAD.sub("", text)
    body, newline, last = text.rstrip().rpartition("\n")
    if not _FOOTER.fullmatch(last):
        return text
    return body.rstrip("\n") if newline else ""
