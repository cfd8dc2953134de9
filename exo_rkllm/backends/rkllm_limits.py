"""What a request may ask of a model on the vendor's library, and what is refused before it gets there."""

from __future__ import annotations

from collections.abc import Sequence

from exo_rkllm.backends.base import GenerationRequest
from exo_rkllm.errors import ContextOverflow, NotSupported, UsageError

IMPORT_HINT = "exo-rkllm import PATH makes a catalogue entry with a chat template"


def check_tokens(model: str, ids: Sequence[int], vocabulary: int) -> None:
    """Raises UsageError for an id that is none of the model's; a `vocabulary` of 0 is not known."""
    wrong = [one for one in (min(ids), max(ids)) if not 0 <= one < vocabulary] if ids and vocabulary else []
    if wrong:
        raise UsageError(
            f"The token id {wrong[0]} is not in the vocabulary of {model}, which has {vocabulary}.",
            "Send text: ids of another model's tokenizer (tiktoken's, for instance) mean nothing here.",
        )


def max_tokens_of(request: GenerationRequest, model: str, context: int, known: int) -> int | None:
    """What is left of the context by a prompt of `known` tokens at least, or less where less is asked for.

    Past the context the window would shift, the model forget its instructions, and an answer have no end. Raises
    ContextOverflow for tokens that don't fit; a text is measured by the library itself.
    """
    if request.output != "text" or not context:
        return request.max_tokens
    if (request.tokens is not None or request.images) and known >= context:
        raise ContextOverflow(
            f"The prompt has {known} tokens, and {model} has a context of {context}.",
            "Shorten the prompt, or load the model with a larger context",
        )
    room = max(1, context - known)
    return room if request.max_tokens is None else min(request.max_tokens, room)


def own_prompt(request: GenerationRequest, model: str, *, rendered: bool, follows: bool) -> str:
    """The text of a conversation for the runtime's own template, which sees one turn and keeps the others by itself.

    `rendered`: the daemon renders the prompts of this model. `follows`: the conversation continues what is kept.
    """
    if rendered:
        raise UsageError(f"{model} got messages that nobody rendered.", "Ask through the daemon.")
    if not follows and (len(request.messages) != 1 or request.messages[0].role != "user"):
        raise NotSupported(f"{model} has no chat template of ours, so it can't take up a conversation.", IMPORT_HINT)
    return request.messages[-1].content
