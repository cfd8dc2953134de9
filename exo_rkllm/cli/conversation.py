"""The state of one conversation in a terminal: what was said, and the settings for the next question."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import GenerationRequest, Image, Message, Sampling
from exo_rkllm.catalogue.names import check_id
from exo_rkllm.config import places
from exo_rkllm.errors import UsageError


@dataclass
class Conversation:
    """`images` go with the next question; `json` asks for one JSON object. `hide_thinking` and `verbose` only change
    what is printed."""

    model: str
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    thinking: bool | None = None
    json: bool = False
    hide_thinking: bool = False
    verbose: bool = False
    messages: tuple[Message, ...] = ()
    images: tuple[Image, ...] = ()

    def request(self, prompt: str) -> GenerationRequest:
        system = (Message("system", self.system),) if self.system else ()
        question = Message("user", prompt, images=self.images)
        shape = self.response_format()
        return GenerationRequest(
            model=self.model,
            messages=shape.with_instructions((*system, *self.messages, question)),
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            thinking=self.thinking,
            structure=shape.structure,
        )

    def response_format(self) -> ResponseFormat:
        return ResponseFormat("json" if self.json else "text")

    def add(self, prompt: str, answer: str) -> None:
        """A question and what was answered; without an answer the next question must not follow another one."""
        if answer:
            self.messages += (Message("user", prompt, images=self.images), Message("assistant", answer))
        self.images = ()

    # ── kept in a file ───────────────────────────────────────────────────────────────────────────

    def save(self, name: str) -> Path:
        path = _file_of(name)
        messages = [
            {
                "role": message.role,
                "content": message.content,
                "images": [base64.b64encode(image.data).decode() for image in message.images],
            }
            for message in self.messages
        ]
        values = {
            "model": self.model,
            "system": self.system,
            "sampling": self.sampling.explicit(),
            "max_tokens": self.max_tokens,
            "thinking": self.thinking,
            "json": self.json,
            "messages": messages,
        }
        with open_private(path, "w") as file:
            json.dump(values, file)
        return path

    def restore(self, values: dict[str, Any]) -> None:
        """What `saved` returned; raises a UsageError where that is no conversation."""
        try:
            messages = tuple(
                Message(
                    one["role"], one["content"], images=tuple(Image(base64.b64decode(i), "") for i in one["images"])
                )
                for one in values["messages"]
            )
            self.model, self.system, self.json = values["model"], values["system"], values["json"]
            self.sampling = Sampling(**values["sampling"])
            self.max_tokens, self.thinking = values["max_tokens"], values["thinking"]
        except (KeyError, TypeError, ValueError):
            raise UsageError("The saved conversation cannot be read.", "/save it again under that name.") from None
        self.messages, self.images = messages, ()


def saved(name: str) -> dict[str, Any] | None:
    """A saved conversation; None where there is none of that name."""
    try:
        raw = _file_of(name).read_bytes()
    except (OSError, UsageError):
        return None
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def open_private(path: Path, mode: str) -> Any:
    """A file that only this user may read, in a folder that only this user may open."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(path, mode, encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.", f"ls -ld {path.parent}") from None


def folder() -> Path:
    """This user's own, although the daemon may be the service."""
    return places(os.environ).state


def _file_of(name: str) -> Path:
    check_id(name)
    return folder() / "conversations" / f"{name}.json"


def image_of(path: Path) -> Image:
    try:
        return Image(path.expanduser().read_bytes(), "")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}") from error
