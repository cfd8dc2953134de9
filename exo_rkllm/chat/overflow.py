"""Why a prompt does not fit: how many of its tokens the tools, the system prompt and the conversation take."""

from __future__ import annotations

import json
from collections.abc import Sequence

from exo_rkllm.backends.base import GenerationRequest, Message
from exo_rkllm.chat.renderer import plain, tool_value
from exo_rkllm.errors import ContextOverflow


def with_shares(error: ContextOverflow, request: GenerationRequest) -> ContextOverflow:
    """The error, with what fills the prompt where that is more than one text."""
    shares = [f"{name} about {tokens}" for name, tokens in shares_of(request)]
    if not shares:
        return error
    last = f" and {shares[-1]}" if len(shares) > 1 else ""
    listing = ", ".join(shares[: len(shares) - bool(last)]) + last
    return ContextOverflow(f"{error.sentence} Of these {listing}.", error.hint)


def shares_of(request: GenerationRequest) -> list[tuple[str, int]]:
    """The parts of a conversation with a verb, and the tokens of each; none for a prompt that came ready."""
    if not request.messages:
        return []
    tools = len(request.tools)
    system = [message for message in request.messages if message.role == "system"]
    rest = [message for message in request.messages if message.role != "system"]
    parts = (
        (
            f"the {tools} tools take" if tools > 1 else "the tool takes",
            [json.dumps(tool_value(one)) for one in request.tools],
        ),
        ("the system prompt takes", _texts(system)),
        (f"the conversation of {len(rest)} messages takes" if len(rest) > 1 else "the question takes", _texts(rest)),
    )
    return [(name, sum(map(estimate, texts))) for name, texts in parts if texts]


def _texts(messages: Sequence[Message]) -> list[str]:
    return [json.dumps(plain(message), ensure_ascii=False) for message in messages]


def estimate(text: str) -> int:
    """Four bytes a token, as `Usage.guess` counts."""
    return -(-len(text.encode(errors="replace")) // 4)
