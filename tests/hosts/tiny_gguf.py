"""Write a llama model with random weights: half a megabyte, loaded at once, for tests of switching.

    tiny_gguf.py OUT.gguf [--seed N] [--name NAME]

What it says is noise, often not even UTF-8: look at structure, usage and the model's name. Needs
gguf and numpy, which the development environment has. The same arguments give the same weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np

WIDTH, HIDDEN, LAYERS, HEADS, CONTEXT = 64, 128, 2, 4, 4096

TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """A SentencePiece vocabulary of the control tokens and the 256 bytes: texts, scores, types."""
    kinds = gguf.TokenType
    entries = [(b"<unk>", kinds.UNKNOWN), (b"<s>", kinds.CONTROL), (b"</s>", kinds.CONTROL)]
    entries += [(f"<0x{byte:02X}>".encode(), kinds.BYTE) for byte in range(256)]
    # Without one token that is text, llama.cpp finds no newline and no space in the vocabulary.
    entries.append(("▁".encode(), kinds.NORMAL))
    texts = [text for text, _ in entries]
    return texts, [0.0] * len(texts), [int(kind) for _, kind in entries]


def write(path: Path, name: str, seed: int) -> None:
    """Write the model; the file appears under its name only when it is whole."""
    partial = path.with_suffix(".partial")
    random = np.random.default_rng(seed)
    texts, scores, types = vocabulary()

    writer = gguf.GGUFWriter(str(partial), "llama")
    writer.add_name(name)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(texts))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)

    def matrix(rows: int, columns: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return random.normal(0, 0.05, (rows, columns)).astype(np.float32)

    ones = np.ones(WIDTH, dtype=np.float32)
    writer.add_tensor("token_embd.weight", matrix(len(texts), WIDTH))
    writer.add_tensor("output.weight", matrix(len(texts), WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", ones)
        writer.add_tensor(f"{block}.ffn_norm.weight", ones)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{part}.weight", matrix(WIDTH, WIDTH))
        writer.add_tensor(f"{block}.ffn_gate.weight", matrix(HIDDEN, WIDTH))
        writer.add_tensor(f"{block}.ffn_up.weight", matrix(HIDDEN, WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", matrix(WIDTH, HIDDEN))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path)
    parser.add_argument("--name", help="what the file calls itself; its stem unless given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.path.parent.mkdir(parents=True, exist_ok=True)
    write(options.path, options.name or options.path.stem, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
