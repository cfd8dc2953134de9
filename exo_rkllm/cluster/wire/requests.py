"""An exo task as a question to an engine: exo leaves template, tools, thinking and images to the worker."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from exo_rkllm import sampling
from exo_rkllm.backends.base import GenerationRequest, Image, Message, Tool, ToolCall, content_of
from exo_rkllm.cluster.wire.events import InputChunkReceived, Raw
from exo_rkllm.errors import UsageError

# Base64 text of images that is kept for tasks which name them by hash only (reference 2.7).
IMAGE_BYTES = 64 << 20

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"RIFF", "image/webp"),
)


class ImageStore:
    """Images by the hash of their base64 text, the least used leaving first; parts wait for the rest of theirs."""

    def __init__(self, limit: int = IMAGE_BYTES) -> None:
        self._limit = limit
        self._whole: OrderedDict[str, str] = OrderedDict()
        self._parts: OrderedDict[str, dict[int, InputChunkReceived]] = OrderedDict()
        self._size = 0

    def take(self, part: InputChunkReceived) -> None:
        parts = self._parts.setdefault(part.command_id, {})
        if part.part not in parts:
            parts[part.part] = part
            self._size += len(part.data)
        if len(parts) == part.parts:
            del self._parts[part.command_id]
            self._size -= sum(len(one.data) for one in parts.values())
            self._assemble(parts)
        self._shrink()

    def find(self, digest: str) -> str | None:
        text = self._whole.get(digest)
        if text is not None:
            self._whole.move_to_end(digest)
        return text

    def _assemble(self, parts: Mapping[int, InputChunkReceived]) -> None:
        texts: dict[int, list[str]] = {}
        for _, part in sorted(parts.items()):
            texts.setdefault(part.image, []).append(part.data)
        for pieces in texts.values():
            text = "".join(pieces)
            digest = hashlib.sha256(text.encode("ascii", "replace")).hexdigest()
            if digest not in self._whole:
                self._whole[digest] = text
                self._size += len(text)

    def _shrink(self) -> None:
        while self._size > self._limit and self._parts:
            _, parts = self._parts.popitem(last=False)
            self._size -= sum(len(one.data) for one in parts.values())
        while self._size > self._limit and self._whole:
            _, text = self._whole.popitem(last=False)
            self._size -= len(text)


def _stop(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(word for word in value or () if isinstance(word, str))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value or {}, ensure_ascii=False)


def _tools(value: Any) -> Iterable[Tool]:
    for entry in value or ():
        function = entry.get("function", entry) if isinstance(entry, dict) else {}
        if _text(function.get("name")):
            yield Tool(function["name"], _text(function.get("description")), function.get("parameters") or {})


def _tool_calls(value: Any) -> Iterable[ToolCall]:
    for entry in value or ():
        if isinstance(entry, dict):
            function = entry.get("function") or {}
            yield ToolCall(_text(entry.get("id")), _text(function.get("name")), _arguments(function.get("arguments")))


Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def _role(value: Any) -> Role:
    if value not in ROLES:
        raise UsageError(f"A message has the role {value!r}.", f"Use one of: {', '.join(ROLES)}.")
    return ROLES[value]


class _Images:
    """A task's images, in the order of the places for them in its messages."""

    def __init__(self, store: ImageStore, params: Raw) -> None:
        hashes = params.get("image_hashes") or {}
        self._texts: list[str | None] = [
            *(_text(text) for text in params.get("images") or ()),
            *(store.find(_text(hashes[key])) for key in sorted(hashes, key=lambda key: (len(key), key))),
        ]
        self._next = 0

    def image(self) -> Image:
        if self._next >= len(self._texts):
            raise UsageError("A message has a place for an image that did not come.", "Send the request again.")
        text = self._texts[self._next]
        self._next += 1
        if text is None:
            raise UsageError(
                "An image of this conversation was sent before this board joined, and is not known here.",
                "Restart exo on the node that you ask, so that it sends the image again, or ask another node.",
            )
        return decode_image(text)


def decode_image(text: str) -> Image:
    """An image from its base64 text, with the kind that its first bytes tell."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("An image is not base64.", "Send PNG or JPEG data.") from None
    kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), "application/octet-stream")
    return Image(data, kind)


def _part(part: Any, images: _Images) -> str | Image:
    if not isinstance(part, dict):
        return _text(part)
    return images.image() if part.get("type") in ("image", "image_url") else _text(part.get("text"))


def _message(entry: Raw, images: _Images) -> Message:
    content = entry.get("content")
    parts = content if isinstance(content, list) else [content]
    text, pictures = content_of((_part(part, images) for part in parts), "\n")
    return Message(
        role=_role(entry.get("role")),
        content=text,
        reasoning=_text(entry.get("reasoning_content")) or _text(entry.get("thinking")),
        tool_calls=tuple(_tool_calls(entry.get("tool_calls"))),
        tool_call_id=_text(entry.get("tool_call_id")),
        name=_text(entry.get("name")),
        images=pictures,
    )


def _messages(params: Raw, images: _Images) -> Iterable[Message]:
    """`chat_template_messages` is the whole conversation; `input` a simplified one with the system text apart."""
    whole: Sequence[Any] = params.get("chat_template_messages") or ()
    if not whole:
        if _text(params.get("instructions")):
            yield Message("system", params["instructions"])
        whole = params.get("input") or ()
    for entry in whole:
        if isinstance(entry, dict):
            yield _message(entry, images)


def _thinking(params: Raw) -> bool | None:
    asked = params.get("enable_thinking")
    if isinstance(asked, bool):
        return asked
    effort = params.get("reasoning_effort")
    return None if effort is None else effort != "none"


def request(task_id: str, model: str, params: Raw, images: ImageStore) -> GenerationRequest:
    """The request of an exo task, for a model of this board; raises UsageError if the task cannot be served."""
    longest = params.get("max_output_tokens")
    return GenerationRequest(
        model=model,
        messages=tuple(_messages(params, _Images(images, params))),
        sampling=sampling.read(params, sampling.EXO),
        max_tokens=longest if type(longest) is int else None,
        stop=_stop(params.get("stop")),
        tools=tuple(_tools(params.get("tools"))),
        thinking=_thinking(params),
        id=task_id,
    )
