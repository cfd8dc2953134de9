"""A filled template is what encoding the whole chunk would have written."""

from __future__ import annotations

import pytest

from exo_rkllm.api.encoding import NUMBER, TEXT, ChunkTemplate, encode, json_line, sse_event

TEXTS = ("", "hi", '"quotes" and \\', "line\nbreak\u2028", "wörld 你好 😀", "half \ud83d", "\\u0000text", "\0number")


@pytest.mark.parametrize("text", TEXTS)
def test_template_writes_what_the_encoder_would(text: str) -> None:
    template = ChunkTemplate(sse_event({"id": "x", "choices": [{"delta": {"content": TEXT}}]}, "delta"))
    assert template.fill(text) == sse_event({"id": "x", "choices": [{"delta": {"content": text}}]}, "delta")


@pytest.mark.parametrize("text", TEXTS)
def test_numbered_template_counts_behind_any_text(text: str) -> None:
    template = ChunkTemplate(json_line({"delta": TEXT, "sequence_number": NUMBER}))
    assert template.fill_numbered(text, 7) == json_line({"delta": text, "sequence_number": 7})


def test_json_is_compact_ascii() -> None:
    assert encode({"a": ["ü", 1, None]}) == '{"a":["\\u00fc",1,null]}'
