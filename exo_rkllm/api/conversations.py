"""Answers of the Responses API that can be referred to later: a bounded number of them, in memory only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exo_rkllm.api.faults import NoSuchPlace
from exo_rkllm.backends.base import Message

MOST = 256
LARGEST = 16 << 20  # characters of all conversations together


@dataclass(frozen=True, slots=True)
class Kept:
    client: str
    messages: tuple[Message, ...]
    value: Mapping[str, Any]

    @property
    def size(self) -> int:
        return sum(
            len(message.content) + len(message.reasoning) + sum(len(image.data) for image in message.images)
            for message in self.messages
        )


class Conversations:
    """The least recently used one is forgotten first; nobody sees another client's."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._size = 0

    def keep(self, identity: str, kept: Kept) -> None:
        self._kept[identity] = kept
        self._size += kept.size
        while self._kept and (len(self._kept) > MOST or self._size > LARGEST):
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size

    def get(self, identity: str, client: str) -> Kept:
        kept = self._kept.get(identity)
        if kept is None or kept.client != client:
            raise NoSuchPlace(
                f"No response {identity[:80]!a} is kept here (the latest {MOST} are, until the daemon restarts).",
                "Send the whole conversation as input.",
            )
        self._kept.move_to_end(identity)
        return kept

    def forget(self, identity: str, client: str) -> None:
        self._size -= self.get(identity, client).size
        del self._kept[identity]
