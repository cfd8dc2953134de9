"""The progress of a pull or an import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

PullStage: TypeAlias = Literal["resolving", "note", "downloading", "verifying", "writing", "done"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step. A `note` is worth a line of its own; the other stages replace each other."""

    stage: PullStage
    text: str
    file: str = ""
    sha256: str = ""
    done: int = 0
    total: int = 0
    id: str = ""
