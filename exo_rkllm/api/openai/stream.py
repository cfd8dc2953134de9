"""OpenAI's streams: a chunk for each piece, in server-sent events, and [DONE] at the end."""

from __future__ import annotations

import time
from typing import Any

from exo_rkllm.api.common_fields import total
from exo_rkllm.api.encoding import TEXT, ChunkTemplate, sse_event
from exo_rkllm.api.faults import error_body
from exo_rkllm.api.openai.translate import chat_usage, completion_usage, tool_call_value
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Finish, Piece, Usage
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError

END = "data: [DONE]\n\n"


class ChunkEncoder:
    """What chat and completions have in common."""

    def __init__(self, kind: str, identity: str, model: str, request_id: str, *, usage: bool) -> None:
        self._head = {"id": identity, "object": kind, "created": int(time.time()), "model": model}
        self._reports_usage = usage
        self._request_id = request_id

    def chunk(self, **choice: Any) -> str:
        usage = {"usage": None} if self._reports_usage else {}
        return sse_event({**self._head, "choices": [choice], **usage})

    def end(self, usage: dict[str, Any]) -> str:
        return (sse_event({**self._head, "choices": [], "usage": usage}) if self._reports_usage else "") + END

    def failure(self, error: ExoRkllmError) -> str:
        return sse_event(error_body(error, "openai", self._request_id))


class ChatEncoder(ChunkEncoder):
    def __init__(
        self, identity: str, model: str, request_id: str, shape: ResponseFormat, *, usage: bool, single_call: bool
    ) -> None:
        super().__init__("chat.completion.chunk", identity, model, request_id, usage=usage)
        self._opening = self._delta(role="assistant", content="")
        self._answer = ChunkTemplate(self._delta(content=TEXT))
        self._thinking = ChunkTemplate(self._delta(reasoning_content=TEXT))
        self._shape = shape
        self._single_call = single_call
        self._calls = 0
        self._thinking_tokens = 0

    def _delta(self, **delta: Any) -> str:
        return self.chunk(index=0, delta=delta, finish_reason=None)

    def piece(self, piece: Piece) -> str:
        opening, self._opening = self._opening, ""
        if piece.kind == "answer":
            text = self._shape.feed(piece.text)
            return opening + self._answer.fill(text) if text else opening
        if piece.kind == "thinking":
            self._thinking_tokens += 1
            return opening + self._thinking.fill(piece.text)
        if self._single_call and self._calls:
            return opening
        call = {"index": self._calls, **tool_call_value(read_tool_call(piece))}
        self._calls += 1
        return opening + self._delta(tool_calls=[call])

    def finish(self, finish: Finish) -> str:
        opening, self._opening = self._opening, ""
        rest = self._shape.end(has_calls=self._calls > 0)
        last = self.chunk(index=0, delta={}, finish_reason=finish.reason)
        return (
            opening
            + (self._answer.fill(rest) if rest else "")
            + last
            + self.end(chat_usage(finish, self._thinking_tokens))
        )


class CompletionEncoder(ChunkEncoder):
    """Answers of several prompts follow one another, told apart by their index. `echoes` and `shapes` have an entry a
    prompt."""

    def __init__(
        self,
        identity: str,
        model: str,
        request_id: str,
        echoes: list[str],
        shapes: list[ResponseFormat],
        *,
        usage: bool,
    ) -> None:
        super().__init__("text_completion", identity, model, request_id, usage=usage)
        self._echoes = echoes
        self._shapes = shapes
        self._usages: list[Usage] = []
        self._begin()

    def _begin(self) -> None:
        index = len(self._usages)
        self._shape = self._shapes[index]
        self._answer = ChunkTemplate(self.chunk(index=index, text=TEXT, finish_reason=None, logprobs=None))
        self._opening = self._answer.fill(self._echoes[index]) if self._echoes[index] else ""

    def piece(self, piece: Piece) -> str:
        opening, self._opening = self._opening, ""
        return opening + self._answer.fill(self._shape.feed(piece.text) if self._shape.enabled else piece.text)

    def finish(self, finish: Finish) -> str:
        rest = self._shape.end(has_calls=False)
        last = self.chunk(index=len(self._usages), text=rest, finish_reason=finish.reason, logprobs=None)
        out = self._opening + last
        self._usages.append(finish.usage)
        if len(self._usages) == len(self._echoes):
            return out + self.end(completion_usage(total(self._usages)))
        self._begin()
        return out
