"""A GGUF model made here, for the real llama.cpp: whatever it reads last, it goes on in the order of ASCII up to `z`.

Its one layer does nothing, its embedding is the identity and its output the identity shifted by one, so that every
answer is known: `w` is answered by `xyz`, and after `z` the text ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.backends.gguf import write

UNKNOWN, BEGIN, END, BYTES = 0, 1, 2, 3  # byte b is token BYTES + b
WIDTH = 288  # tokens and features: three, 256 bytes, filled up to a multiple of 32
HEADS = 9
UNKNOWN_TYPE, CONTROL, UNUSED, BYTE = 2, 3, 5, 6
# With tools llama.cpp reads out of the template how the model calls them, and holds it to that.
TEMPLATE = """{%- for tool in tools or [] -%}<tools>{{ tool | tojson }}</tools>{%- endfor -%}
{%- for message in messages -%}
{%- if message.content -%}{{ message.content }}{%- endif -%}
{%- for call in message.tool_calls or [] -%}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
{%- endfor -%}"""


def following(text: str) -> str:
    """What the model says after `text`."""
    return "".join(map(chr, range(ord(text[-1]) + 1, ord("z") + 1)))


def make(path: Path, context: int = 4096) -> Path:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    types = [UNKNOWN_TYPE, CONTROL, CONTROL, *[BYTE] * 256]
    fill = WIDTH - len(tokens)
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "alphabet",
        "llama.context_length": context,
        "llama.embedding_length": WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*tokens, *(f"<fill{number}>" for number in range(fill))],
        "tokenizer.ggml.scores": [0.0] * WIDTH,
        "tokenizer.ggml.token_type": [*types, *[UNUSED] * fill],
        "tokenizer.ggml.bos_token_id": BEGIN,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.unknown_token_id": UNKNOWN,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    square, ones = bytes(4 * WIDTH * WIDTH), struct.pack(f"<{WIDTH}f", *[1.0] * WIDTH)
    narrow = bytes(4 * WIDTH * 32)
    write(
        path,
        values,
        {
            "token_embd.weight": ((WIDTH, WIDTH), b"".join(_row(token, 1.0) for token in range(WIDTH))),
            "output_norm.weight": ((WIDTH,), ones),
            "output.weight": ((WIDTH, WIDTH), b"".join(_outputs())),
            "blk.0.attn_norm.weight": ((WIDTH,), ones),
            **{f"blk.0.attn_{name}.weight": ((WIDTH, WIDTH), square) for name in ("q", "k", "v", "output")},
            "blk.0.ffn_norm.weight": ((WIDTH,), ones),
            "blk.0.ffn_gate.weight": ((WIDTH, 32), narrow),
            "blk.0.ffn_up.weight": ((WIDTH, 32), narrow),
            "blk.0.ffn_down.weight": ((32, WIDTH), narrow),
        },
    )
    return path


def make_adapter(path: Path, letter: str) -> Path:
    """A LoRA adapter with which the model says nothing but `letter`."""
    values: dict[str, Any] = {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": 1.0,
    }
    ones = struct.pack(f"<{WIDTH}f", *[1.0] * WIDTH)
    loud = _row(BYTES + ord(letter), 100.0)
    write(path, values, {"output.weight.lora_a": ((WIDTH, 1), ones), "output.weight.lora_b": ((1, WIDTH), loud)})
    return path


def _outputs() -> Iterator[bytes]:
    """Row t is what speaks for token t: the feature of the byte before it; for the end, that of `z`."""
    last = BYTES + ord("z")
    for token in range(WIDTH):
        if token == END:
            yield _row(last, 10.0)
        else:
            yield _row(token - 1 if BYTES < token != last + 1 else None, 10.0)


def _row(place: int | None, value: float) -> bytes:
    return struct.pack(f"<{WIDTH}f", *(value if number == place else 0.0 for number in range(WIDTH)))
