"""What such a server answers: server-sent events, cut anywhere, as our pieces and one finish. Bytes in, events out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from exo_rkllm.backends.base import (
    Finish,
    FinishReason,
    GenerationEvent,
    Logprobs,
    Piece,
    Timings,
    TokenLogprob,
    Usage,
)
from exo_rkllm.errors import RunError

# One event holds one token or one call's arguments; a server that sends a line without an end is not waited for.
LONGEST = 4 << 20
MOST = 1 << 53
REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class Lines:
    """Cuts bytes into the data of events; comments and fields other than `data` are nothing to us."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        *whole, self._rest = self._rest.split(b"\n")
        if len(self._rest) > LONGEST:
            raise RunError("The server sends a line that does not end.", "Look at its log.")
        for line in whole:
            if line.startswith(b"data:"):
                yield line[5:].strip()


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class ChatAnswer:
    """One answer as it comes. `ended` is true once the server said so; until then a connection that ends was cut."""

    ended: bool = False
    _lines: Lines = field(default_factory=Lines)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _reason: FinishReason | None = None
    _pieces: int = 0
    _usage: dict[str, Any] = field(default_factory=dict)
    _timings: dict[str, Any] = field(default_factory=dict)
    _logprobs: list[TokenLogprob] = field(default_factory=list)

    def feed(self, data: bytes) -> Iterator[Piece]:
        for line in self._lines.feed(data):
            if line == b"[DONE]":
                self.ended = True
            elif line:
                yield from self._chunk(_object(line))

    def finish(self, queued: float, decode: float) -> Iterator[GenerationEvent]:
        """Calls are whole only now; figures are the server's where it has some."""
        for _, call in sorted(self._calls.items()):
            value = {"id": call.id or f"call_{secrets.token_hex(12)}", "name": call.name, "arguments": call.arguments}
            yield Piece(json.dumps(value, ensure_ascii=False), -1, "tool_call")
        if self._logprobs:
            yield Logprobs(tuple(self._logprobs))
        prompt, completion = _whole(self._usage, "prompt_tokens"), _whole(self._usage, "completion_tokens")
        cached = _whole(_mapping(self._usage.get("prompt_tokens_details")), "cached_tokens")
        yield Finish(
            self._reason or "stop",
            Usage(prompt, min(cached or _whole(self._timings, "cache_n"), prompt), completion or self._pieces),
            Timings(
                queued=queued,
                prefill=_number(self._timings, "prompt_ms") / 1000,
                decode=_number(self._timings, "predicted_ms") / 1000 or decode,
            ),
        )

    def _chunk(self, chunk: dict[str, Any]) -> Iterator[Piece]:
        if "error" in chunk:
            raise RunError(f"The server broke the answer off: {error_words(chunk)}.", "Look at its log.")
        self._usage = _mapping(chunk.get("usage")) or self._usage
        self._timings = _mapping(chunk.get("timings")) or self._timings
        for choice in _list(chunk.get("choices"))[:1]:
            one = _mapping(choice)
            if isinstance(one.get("finish_reason"), str):
                self._reason = REASONS.get(one["finish_reason"], "stop")
                self.ended = True  # some servers leave [DONE] out
            for row in _list(_mapping(one.get("logprobs")).get("content")):
                self._logprobs.append(_logprob(_mapping(row)))
            delta = _mapping(one.get("delta")) or {"content": one.get("text")}
            for key, kind in (("reasoning_content", "thinking"), ("reasoning", "thinking"), ("content", "answer")):
                text = delta.get(key)
                if isinstance(text, str) and text:
                    self._pieces += 1
                    yield Piece(text, -1, "thinking" if kind == "thinking" else "answer")
            for part in _list(delta.get("tool_calls")):
                self._part(_mapping(part))

    def _part(self, part: dict[str, Any]) -> None:
        """Servers that leave the index out send one call whole."""
        index = part.get("index")
        call = self._calls.setdefault(index if isinstance(index, int) else len(self._calls), _Call())
        function = _mapping(part.get("function"))
        call.id = call.id or _text(part.get("id"))
        call.name += _text(function.get("name"))
        call.arguments += _text(function.get("arguments"))


def _logprob(row: dict[str, Any]) -> TokenLogprob:
    top = tuple(
        (_text(one.get("token")), _number(one, "logprob")) for one in map(_mapping, _list(row.get("top_logprobs")))
    )
    return TokenLogprob(_text(row.get("token")), _number(row, "logprob"), top)


def error_words(value: dict[str, Any]) -> str:
    """The words in an error, whichever of the usual shapes it has."""
    error = value.get("error", value)
    text = error if isinstance(error, str) else _text(_mapping(error).get("message")) or "no reason given"
    return " ".join(text.split()).rstrip(".")[:500]


def _object(line: bytes) -> dict[str, Any]:
    try:
        return _mapping(json.loads(line.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        raise RunError("The server sends something that is no JSON.", "Look at its log.") from None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(values: dict[str, Any], name: str) -> float:
    """JSON holds numbers that are no figures: 1e999, and integers that no float takes."""
    value = values.get(name)
    valid = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
    return float(value) if valid else 0.0  # type: ignore[arg-type]  # narrowed above


def _whole(values: dict[str, Any], name: str) -> int:
    return max(0, int(_number(values, name)))
