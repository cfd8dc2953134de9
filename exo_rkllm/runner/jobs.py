"""One run as the daemon orders it, and what the vendor session makes of it."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from exo_rkllm.errors import UsageError
from exo_rkllm.runtime.session import EmbedInput, Input, MultimodalInput, PromptInput, RunSpec, Session, TokenInput

MODES = {"text": "generate", "hidden": "hidden", "logits": "logits"}


@dataclass(frozen=True, slots=True)
class Job:
    """Exactly one of `prompt`, `tokens` and `embeds` is given; arrays travel as memory files beside the frame."""

    prompt: str | None = None
    tokens: Sequence[int] | None = None
    # Name and figures of each attached array: {"kind": "embed", "n_tokens": 3} or {"kind": "image", ...}.
    arrays: Sequence[Mapping[str, Any]] = ()
    output: str = "text"
    max_tokens: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    lora: str = ""
    save_prompt_cache: str = ""
    # The runtime's own conversation, with its own template; everything else relies on prefix reuse (reference 7.1).
    keep_history: bool = False
    clear_first: bool = False

    def to_json(self, fds: int) -> bytes:
        return json.dumps({**asdict(self), "fds": fds}).encode()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        return cls(**{name: value[name] for name in (known.name for known in fields(cls))})
