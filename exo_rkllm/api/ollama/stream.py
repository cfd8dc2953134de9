"""Ollama's streams: a JSON object a line."""

from __future__ import annotations

import time
from typing import Any

from exo_rkllm.api.encoding import TEXT, ChunkTemplate, json_line
from exo_rkllm.api.faults import error_body
from exo_rkllm.api.ollama.translate import Content, end_value, now
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Finish, Piece
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError


class OllamaEncoder:
    """`began` is when the request came, on the monotonic clock."""

    def __init__(self, model: str, request_id: str, shape: ResponseFormat, content: Content, began: float) -> None:
        self._model = model
        self._request_id = request_id
        self._shape = shape
        self._content = content
        self._began = began
        self._has_calls = False
        self._second = 0
        self._renew()

    def _renew(self) -> None:
        """The time of day is written anew once a second: formatting it would be most of a token's cost."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._head = {"model": self._model, "created_at": now()}
            self._answer = ChunkTemplate(self._line(self._content(TEXT)))
            self._thinking = ChunkTemplate(self._line(self._content("", thinking=TEXT)))

    def _line(self, content: dict[str, Any]) -> str:
        return json_line({**self._head, **content, "done": False})

    def piece(self, piece: Piece) -> str:
        self._renew()
        if piece.kind == "answer":
            text = self._shape.feed(piece.text)
            return self._answer.fill(text) if text else ""
        if piece.kind == "thinking":
            return self._thinking.fill(piece.text)
        self._has_calls = True
        return self._line(self._content("", calls=[read_tool_call(piece)]))

    def finish(self, finish: Finish) -> str:
        self._renew()
        rest = self._shape.end(has_calls=self._has_calls)
        return json_line({**self._head, **self._content(rest), **end_value(finish, self._began)})

    def failure(self, error: ExoRkllmError) -> str:
        return json_line(error_body(error, "ollama", self._request_id))
