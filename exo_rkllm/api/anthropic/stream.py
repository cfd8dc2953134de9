"""A message's stream: a block for each stretch of one kind, opened and closed around its deltas."""

from __future__ import annotations

import json
from typing import Any

from exo_rkllm.api.anthropic import translate
from exo_rkllm.api.common_fields import arguments_of
from exo_rkllm.api.encoding import TEXT, ChunkTemplate, encode, sse_event
from exo_rkllm.api.faults import error_body
from exo_rkllm.backends.base import Finish, Piece
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError


def event(kind: str, **values: Any) -> str:
    return sse_event({"type": kind, **values}, kind)


class MessageEncoder:
    def __init__(self, identity: str, model: str, request_id: str, *, single_call: bool) -> None:
        self._opening = event("message_start", message=translate.message_value(identity, model, []))
        self._request_id = request_id
        self._single_call = single_call
        self._index = -1
        self._kind = ""  # of the open block; empty where none is open
        self._calls = 0
        self._delta = ChunkTemplate(encode(TEXT))

    def piece(self, piece: Piece) -> str:
        if piece.kind == self._kind:
            return self._delta.fill(piece.text)
        if piece.kind == "tool_call":
            return self._call(piece)
        return self._open(piece.kind) + self._delta.fill(piece.text)

    def _open(self, kind: str) -> str:
        """The end of the block before, and the beginning of the next."""
        closing = self._close()
        self._index += 1
        self._kind = kind
        if kind == "thinking":
            block, delta = translate.thinking_block(""), {"type": "thinking_delta", "thinking": TEXT}
        else:
            block, delta = translate.text_block(""), {"type": "text_delta", "text": TEXT}
        self._delta = ChunkTemplate(event("content_block_delta", index=self._index, delta=delta))
        return closing + event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> str:
        opening, self._opening = self._opening, ""
        closing = event("content_block_stop", index=self._index) if self._kind else ""
        self._kind = ""
        return opening + closing

    def _call(self, piece: Piece) -> str:
        if self._single_call and self._calls:
            return ""
        call = read_tool_call(piece)
        closing = self._close()
        self._index += 1
        self._calls += 1
        delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments_of(call.arguments))}
        return (
            closing
            + event("content_block_start", index=self._index, content_block=translate.tool_block(call, {}))
            + event("content_block_delta", index=self._index, delta=delta)
            + event("content_block_stop", index=self._index)
        )

    def finish(self, finish: Finish) -> str:
        opening = "" if self._index >= 0 else self._open("answer")
        return (
            opening
            + self._close()
            + event("message_delta", delta=translate.stop_value(finish), usage=translate.usage_value(finish.usage))
            + event("message_stop")
        )

    def failure(self, error: ExoRkllmError) -> str:
        return sse_event(error_body(error, "anthropic", self._request_id), "error")
