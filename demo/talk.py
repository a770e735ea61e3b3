"""A short conversation with two models in turn, through the `openai` client, unmodified.

The model is so small that it has to be shown what an answer looks like: two worked examples go
ahead of the first question. They are not printed.
"""

from __future__ import annotations

import sys

from openai import OpenAI, OpenAIError
from openai.types.chat import ChatCompletionMessageParam

Messages = list[ChatCompletionMessageParam]

FACTS: Messages = [
    {"role": "user", "content": "What is a bridge?"},
    {
        "role": "assistant",
        "content": "A bridge is a structure that carries a road or a railway over a river,"
        " a valley or another road.",
    },
    {"role": "user", "content": "Why do ships float?"},
    {
        "role": "assistant",
        "content": "A ship floats because it pushes away as much water as it weighs itself.",
    },
]
POEMS: Messages = [
    {"role": "user", "content": "Write four lines about a river."},
    {
        "role": "assistant",
        "content": "The river runs from hill to sea,\nit carries leaves, it carries me;\n"
        "it never asks what lies behind,\nand leaves no stone it does not find.",
    },
    {"role": "user", "content": "Write four lines about the rain."},
    {
        "role": "assistant",
        "content": "The rain came softly in the night,\n"
        "it washed the street, it dimmed the light;\n"
        "and when the morning opened wide,\na hundred puddles held the sky.",
    },
]
ROUTERS_OWN = ("🔄", "⏳", "✅", "⚡")


def ask(client: OpenAI, model: str, history: Messages, question: str, penalty: float) -> str:
    """Stream one answer to the terminal; returns all of it and adds both sides to the history."""
    print(f"\n\033[1myou → {model}:\033[0m {question}", flush=True)
    history.append({"role": "user", "content": question})
    stream = client.chat.completions.create(
        model=model,
        messages=history,
        stream=True,
        max_tokens=60,
        frequency_penalty=penalty,
        stop=["<|im_end|>", "<|im_start|>"],
        extra_headers={"X-LLM-Router-Status": "content"},
    )
    text = ""
    for chunk in stream:
        for choice in chunk.choices:
            piece = choice.delta.content or ""
            text += piece
            print(piece, end="", flush=True)
    print(flush=True)
    # Sent back as it came, status lines and all: the router takes its own out again.
    history.append({"role": "assistant", "content": text})
    return text


def answer_in(text: str) -> str:
    """What the model itself said."""
    kept = [line for line in text.splitlines() if not line.startswith(ROUTERS_OWN)]
    return "\n".join(kept).strip()


def main(base_url: str) -> int:
    client = OpenAI(base_url=base_url, api_key="the demo needs none", timeout=300, max_retries=0)
    models = [model.id for model in client.models.list()]
    print(f"Models at {base_url}: {', '.join(models)}")
    facts, poems = list(FACTS), list(POEMS)
    silent = []
    for model, history, question, penalty in (
        ("gemma-facts", facts, "What is a steam locomotive?", 0.0),
        ("gemma-facts", facts, "What is a railway station?", 0.0),
        ("gemma-poems", poems, "Write four lines about a train.", 0.3),
    ):
        try:
            text = ask(client, model, history, question, penalty)
        except OpenAIError as error:
            print(f"\n{model} did not answer: {error}", file=sys.stderr)
            return 1
        if not answer_in(text):
            silent.append(model)
    if silent:
        print(f"\nNo answer came from {' and '.join(silent)}.", file=sys.stderr)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
