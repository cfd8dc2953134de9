"""What a request is to the queue besides its client's: a conversation that goes on, or a question that can wait."""

from __future__ import annotations

from exo_rkllm.backends.base import GenerationRequest

# How prompts begin that a client writes of itself after an answer: Open WebUI's for titles, tags and follow-ups.
BACKGROUND = ("### Task:",)


def is_background(request: GenerationRequest) -> bool:
    """Whether a client asks for itself: no person waits for the answer, and none continues it."""
    return len(request.messages) == 1 and request.messages[0].content.startswith(BACKGROUND)


def conversation_keys(request: GenerationRequest) -> tuple[int, ...]:
    """A number for each beginning of the conversation, the whole of it last: a later request that continues this one
    has that number among its own."""
    keys: list[int] = []
    key = hash((request.model, request.lora, request.prompt))
    for message in request.messages:
        key = hash((key, message.role, message.content))
        keys.append(key)
    return tuple(keys) or (key,)
