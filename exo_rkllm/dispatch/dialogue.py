"""What stands between a question as it was asked and the engine: `catalogue.dialogue` in the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from exo_rkllm.backends.base import Capabilities, Finish, GenerationEvent, GenerationRequest, Model, Piece


class Dialogue(Protocol):
    """One answer: `request` is what the engine gets, `feed` turns its pieces into those the client sees."""

    @property
    def request(self) -> GenerationRequest: ...

    @property
    def stopped(self) -> bool:
        """The answer is complete although the engine goes on (a stop string was met)."""

    def feed(self, piece: Piece) -> Sequence[Piece]: ...

    def end(self, finish: Finish) -> Sequence[GenerationEvent]:
        """What was held back, then the Finish as the client sees it."""


class Begin(Protocol):
    def __call__(self, model: Model, capabilities: Capabilities, request: GenerationRequest) -> Dialogue: ...


class Verbatim:
    """No template and no parsing: for engines that take messages themselves."""

    stopped = False

    def __init__(self, model: Model, capabilities: Capabilities, request: GenerationRequest) -> None:
        self.request = request

    def feed(self, piece: Piece) -> Sequence[Piece]:
        return (piece,)

    def end(self, finish: Finish) -> Sequence[GenerationEvent]:
        return (finish,)
