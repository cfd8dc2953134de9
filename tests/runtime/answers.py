"""What a run said, as a test looks at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from exo_rkllm.runtime.session import Input, PromptInput, RunSpec, RunStats, Session
from tests.simulated import VERSIONS

BEFORE_1_2_0 = ("1.1.4",)
SINCE_1_2_0 = VERSIONS[1:]
BEFORE_1_2_1 = VERSIONS[:3]
SINCE_1_2_1 = VERSIONS[3:]
BEFORE_1_3_0 = VERSIONS[:4]
SINCE_1_3_0 = VERSIONS[4:]


@dataclass
class Answer:
    pieces: list[tuple[bytes, int, bool]] = field(default_factory=list)
    rows: list[tuple[str, int, int, list[float]]] = field(default_factory=list)
    stats: RunStats = field(default_factory=RunStats)

    @property
    def text(self) -> str:
        return b"".join(text for text, _, _ in self.pieces).decode()

    def on_token(self, text: bytes, token: int, waiting: bool) -> None:
        self.pieces.append((text, token, waiting))

    def on_rows(self, kind: str, rows: int, width: int, view: Any) -> None:
        self.rows.append((kind, rows, width, view.tolist()))


def ask(session: Session, what: str | Input, **spec: Any) -> Answer:
    answer = Answer()
    given = PromptInput(what) if isinstance(what, str) else what
    answer.stats = session.run(given, answer.on_token, RunSpec(**spec), answer.on_rows)
    return answer
