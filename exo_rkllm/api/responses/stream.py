"""A response's stream: typed, numbered events around items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exo_rkllm.api.encoding import NUMBER, TEXT, ChunkTemplate, encode, sse_event
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.api.responses import translate
from exo_rkllm.api.streaming import CompleteAnswer
from exo_rkllm.backends.base import Finish, Piece
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError


class ResponseEncoder:
    """One item for each stretch of one kind, with its own opening and closing events.

    `keep` is called with the answer and the response's value at the end.
    """

    def __init__(
        self,
        frame: translate.ResponseFrame,
        shape: ResponseFormat,
        keep: Callable[[CompleteAnswer, dict[str, Any]], None],
        *,
        single_call: bool,
    ) -> None:
        self._frame = frame
        self._shape = shape
        self._keep = keep
        self._single_call = single_call
        self._number = 0
        self._answer = CompleteAnswer()
        self._output: list[dict[str, Any]] = []
        self._kind = ""  # of the open item; empty where none is open
        self._item = ""
        self._text: list[str] = []
        self._delta = ChunkTemplate(encode(TEXT))
        self._has_begun = False

    def _event(self, kind: str, **values: Any) -> str:
        self._number += 1
        return sse_event({"type": kind, "sequence_number": self._number - 1, **values}, kind)

    def _begin(self) -> str:
        if self._has_begun:
            return ""
        self._has_begun = True
        value = self._frame.value("in_progress", [])
        return self._event("response.created", response=value) + self._event("response.in_progress", response=value)

    def piece(self, piece: Piece) -> str:
        if piece.kind == "tool_call":
            return self._call(piece)
        text = self._shape.feed(piece.text) if piece.kind == "answer" else piece.text
        return self._say(Piece(text, kind=piece.kind)) if text else ""

    def _say(self, piece: Piece) -> str:
        opening = "" if piece.kind == self._kind else self._open(piece.kind)
        self._answer.add(piece)
        self._text.append(piece.text)
        self._number += 1
        return opening + self._delta.fill_numbered(piece.text, self._number - 1)

    def _open(self, kind: str) -> str:
        """Closes the item that is open, and opens the next."""
        closing = self._begin() + self._close()
        index = len(self._output)
        thinking = kind == "thinking"
        self._kind = kind
        self._item = f"{'rs' if thinking else 'msg'}_{self._frame.id.removeprefix('resp_')}_{index}"
        self._text = []
        delta = "response.reasoning_text.delta" if thinking else "response.output_text.delta"
        logprobs: dict[str, list[Any]] = {} if thinking else {"logprobs": []}
        chunk = {"type": delta, **self._place(), **logprobs, "delta": TEXT, "sequence_number": NUMBER}
        self._delta = ChunkTemplate(sse_event(chunk, delta))
        item = (translate.reasoning_item if thinking else translate.message_item)(self._item, None, "in_progress")
        part = translate.reasoning_part("") if thinking else translate.text_part("")
        return (
            closing
            + self._event("response.output_item.added", output_index=index, item=item)
            + self._event("response.content_part.added", **self._place(), part=part)
        )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": len(self._output), "content_index": 0}

    def _close(self) -> str:
        if not self._kind:
            return ""
        text, thinking = "".join(self._text), self._kind == "thinking"
        item = (translate.reasoning_item if thinking else translate.message_item)(self._item, text)
        if thinking:
            out = self._event("response.reasoning_text.done", **self._place(), text=text)
        else:
            out = self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
        out += self._event("response.content_part.done", **self._place(), part=item["content"][0])
        out += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._kind = ""
        return out

    def _call(self, piece: Piece) -> str:
        if self._single_call and self._answer.tool_calls:
            return ""
        self._answer.add(piece)
        call = read_tool_call(piece)
        closing = self._begin() + self._close()
        index, item = len(self._output), translate.call_item(call)
        place = {"item_id": item["id"], "output_index": index}
        self._output.append(item)
        return (
            closing
            + self._event(
                "response.output_item.added", output_index=index, item=translate.call_item(call, "in_progress")
            )
            + self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
            + self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def finish(self, finish: Finish) -> str:
        out = ""
        if rest := self._shape.end(has_calls=bool(self._answer.tool_calls)):
            out = self._say(Piece(rest))
        elif not (self._output or self._kind):
            out = self._open("answer")
        out += self._close()
        value = self._frame.value("completed", self._output, finish, self._answer.thinking_tokens)
        self._keep(self._answer, value)
        return out + self._event(f"response.{value['status']}", response=value)

    def failure(self, error: ExoRkllmError) -> str:
        opening = self._begin()
        value = self._frame.value("failed", self._output)
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        value["error"] = {"code": code, "message": str(error)}
        return opening + self._event("response.failed", response=value)
