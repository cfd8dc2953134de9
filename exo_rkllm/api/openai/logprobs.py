"""Log probabilities of an answer: one more run over the finished text, which reads the logits and generates nothing.

Row n of the logits tells what the model expects behind token n, so a token's probability stands in the row before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exo_rkllm.api.context import Call
from exo_rkllm.api.leniency import note_ignored
from exo_rkllm.api.streaming import CompleteAnswer, complete_answer
from exo_rkllm.backends.base import Array, Capabilities, GenerationRequest, Ignored, TokenLogprob
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import NotSupported

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

# A row of a vocabulary of 150,000 tokens has 600 kB, and the library holds them all at once.
MOST_TOKENS = 2048
# Of the likeliest tokens at a place.
MOST_TOP = 20
# Rows that are widened to double precision at a time.
CHUNK = 64


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The log probability of a token at its place, and the likeliest tokens there with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


async def score_tokens(call: Call, entry: Entry, tokens: Sequence[int], count: int, top: int) -> list[TokenScore]:
    """Scores of the last `count` of `tokens`, of which at least one stands before them.

    Raises NotSupported where the engine has no logits, or its library returns fewer rows than tokens.
    """
    if len(tokens) > MOST_TOKENS:
        raise NotSupported(
            f"Log probabilities of {len(tokens)} tokens take too much memory; {MOST_TOKENS} are possible.",
            "Send a shorter text, or leave logprobs out.",
        )
    request = GenerationRequest(model=entry.id, tokens=tuple(tokens), output="logits", rows=count + 1)
    answer = await complete_answer(call, request)
    rows = sum(array.rows for array in answer.arrays)
    if rows < count + 1:
        raise NotSupported(
            f"The runtime of {entry.id} returned the logits of {rows} tokens, and {count + 1} are needed.",
            "Leave logprobs out.",
        )
    scored = await asyncio.to_thread(lambda: list(_scores(answer.arrays, tokens[len(tokens) - rows + 1 :], top)))
    return scored[len(scored) - count :]


def _scores(arrays: Sequence[Array], followers: Sequence[int], top: int) -> Iterator[TokenScore]:
    """A score for each of `followers`, the tokens behind each row but the last; takes milliseconds a row."""
    import numpy as np

    at = 0
    for array in arrays:
        rows = np.frombuffer(array.data, "<f4").reshape(array.rows, array.width)
        for start in range(0, array.rows, CHUNK):
            part = log_softmax(rows[start : start + CHUNK])
            for row in part[: max(0, len(followers) - at)]:
                best = np.argsort(row)[::-1][:top]
                yield TokenScore(float(row[followers[at]]), tuple((int(one), float(row[one])) for one in best))
                at += 1


def log_softmax(rows: NDArray[numpy.float32]) -> NDArray[numpy.float64]:
    import numpy as np

    wide = rows.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    result: NDArray[numpy.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


def logprobs_value(
    tokens: Sequence[int], scores: Sequence[TokenScore | None], text_of: Callable[[int], str]
) -> dict[str, Any]:
    """OpenAI's lists, with the texts of the tokens."""
    texts = [text_of(token) for token in tokens]
    offsets = [0]
    for one in texts[:-1]:
        offsets.append(offsets[-1] + len(one))
    return {
        "tokens": texts,
        "token_logprobs": [None if score is None else score.logprob for score in scores],
        "top_logprobs": [
            None if score is None else {text_of(token): logprob for token, logprob in score.top} for score in scores
        ],
        "text_offset": offsets[: len(texts)],
    }


async def completion_logprobs(
    call: Call, entry: Entry, prompt: str | tuple[int, ...], answer: Sequence[int], *, echo: bool, top: int
) -> dict[str, Any] | None:
    """The field `logprobs` of a completion's choice; None where there is no token to score.

    Raises NotSupported where the prompt's tokens are not known, or nothing can be scored.
    """
    if isinstance(prompt, str):
        encoded = await call.context.tokenizers.encode(entry, [prompt])
        if encoded is None:
            raise NotSupported(
                f"Log probabilities need the tokens of the prompt, and {entry.id} has no tokenizer here.",
                "Send the prompt as token ids, or put tokenizer.json of the base model into the model's folder.",
            )
        prompt = tuple(encoded[0])
    tokens = [*prompt, *answer]
    count = len(tokens) - 1 if echo else len(answer)
    if not count:
        return None
    scores: list[TokenScore | None] = [*await score_tokens(call, entry, tokens, count, top)]
    text_of = await texts_of(call, entry, {*tokens, *(token for score in scores if score for token, _ in score.top)})
    if echo:
        return logprobs_value(tokens, [None, *scores], text_of)
    return logprobs_value(answer, scores, text_of)


async def texts_of(call: Call, entry: Entry, tokens: Iterable[int]) -> Callable[[int], str]:
    """The text of each token; one that is not known is written as its id."""
    ids = list(tokens)
    texts = await call.context.tokenizers.decode(entry, [[token] for token in ids])
    known = {} if texts is None else dict(zip(ids, texts, strict=True))
    return lambda token: known.get(token, f"token_id:{token}")


# ── of a chat ────────────────────────────────────────────────────────────────────────────────────


def top_logprobs(values: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens a chat is to tell of at each place; None where it wants no scores."""
    return min(MOST_TOP, max(0, values.get("top_logprobs", 0))) if values.get("logprobs") else None


def ignore_logprobs(call: Call, model: str, why: str) -> None:
    """Names the fields that ask for scores in vain."""
    names = tuple(name for name in ("logprobs", "top_logprobs") if name in call.values)
    note_ignored(call, model, Ignored(names, why))


def with_logprobs(call: Call, entry: Entry, request: GenerationRequest, top: int | None) -> GenerationRequest:
    """The request with the wish for scores, where the model's engine has them by itself."""
    spec = call.context.engine_spec
    return replace(request, logprobs=top) if top is not None and spec and spec(entry).logprobs else request


async def chat_logprobs(
    call: Call, entry: Entry, request: GenerationRequest, answer: CompleteAnswer, top: int
) -> list[dict[str, Any]] | None:
    """OpenAI's list for the tokens of an answer's text, from its engine or from one more run over the conversation.

    They are an addition to an answer that is there already: where they cannot be had, they are named as ignored.
    """
    try:
        tokens = answer.logprobs or await _scored(call, entry, request, answer, top)
    except NotSupported as error:
        ignore_logprobs(call, entry.id, f"cannot be had ({error.sentence.rstrip('.')})")
        return None
    return [
        {
            **_token_value(token.text, token.logprob),
            "top_logprobs": [_token_value(text, logprob) for text, logprob in token.top],
        }
        for token in tokens
    ]


async def _scored(
    call: Call, entry: Entry, request: GenerationRequest, answer: CompleteAnswer, top: int
) -> Sequence[TokenLogprob]:
    prompt = await call.context.dispatcher.render(request, entry, Capabilities())
    thoughts = ""
    if answer.thoughts and prompt.reasoning is not None:
        opening = "" if prompt.thinking else f"{prompt.reasoning.open}\n"
        thoughts = f"{opening}{answer.reasoning}\n{prompt.reasoning.close}\n\n"
    texts = [f"{prompt.request.prompt or ''}{thoughts}", answer.text]
    encoded = await call.context.tokenizers.encode(entry, texts)
    if encoded is None:
        raise NotSupported(f"{entry.id} has no tokenizer here.")
    before, own = encoded
    if not own:
        return ()
    scores = await score_tokens(call, entry, [*before, *own], len(own), top)
    text_of = await texts_of(call, entry, {*own, *(token for score in scores for token, _ in score.top)})
    return [
        TokenLogprob(text_of(token), score.logprob, tuple((text_of(other), logprob) for other, logprob in score.top))
        for token, score in zip(own, scores, strict=True)
    ]


def _token_value(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode(errors="replace"))}
