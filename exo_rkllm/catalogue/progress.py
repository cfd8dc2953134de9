"""What whoever waits for a pull or an import is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

PullStage: TypeAlias = Literal["resolving", "note", "downloading", "verifying", "writing", "done"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """What a pull or an import is at. `note` is worth a line, the others replace each other."""

    stage: PullStage
    text: str
    file: str = ""
    sha256: str = ""
    done: int = 0
    total: int = 0
    id: str = ""
