"""`selftest --runtimes`: whether a model answers with each of the installed versions of the vendor's library."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from exo_rkllm.assembly import LocalSource, Node
from exo_rkllm.backends.base import Finish, GenerationRequest, Message, Model, Piece
from exo_rkllm.doctor.measure import QUESTION, TOKENS
from exo_rkllm.doctor.report import Finding, bad, from_error, good
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runner.launch import OTHER_RUNTIMES
from exo_rkllm.runtime import locate
from exo_rkllm.runtime.locate import LibraryPlace

SECONDS = 600.0
# Tokens that no answer has in it: padding of a vocabulary, unknown ones, ends that the runtime missed.
SPECIAL = re.compile(r"\[PAD\d*\]|<unk>|<pad>|<\|endoftext\|>|<\|im_end\|>|<\|eot_id\|>")
MOST_SPECIAL = 2
# So much of an answer's end that consists of one or two words only, or of so few signs, is no language.
LAST_WORDS, LAST_SIGNS, FEW = 16, 48, 2


@dataclass(frozen=True, slots=True)
class RuntimeTrial:
    release: str
    finding: Finding


def babble(text: str) -> str:
    """Why a text is no answer, or nothing where it may be one."""
    words, tail = text.split(), text.strip()[-LAST_SIGNS:]
    if not words:
        return "It answers nothing."
    if len(special := SPECIAL.findall(text)) > MOST_SPECIAL:
        return f"It answers {special[0]} again and again."
    if len(words) >= LAST_WORDS and len(set(words[-LAST_WORDS:])) <= FEW:
        return f"It answers {words[-1][:LAST_WORDS]} again and again."
    if len(tail) == LAST_SIGNS and len(set(tail)) <= FEW:
        return f"It answers {tail[-1]} again and again."
    return "It answers bytes that are no text." if text.count("\ufffd") * 4 > len(text) else ""


async def try_each(
    node: Node, model: Model, places: Iterable[LibraryPlace], on_trial: Callable[[RuntimeTrial], None]
) -> list[RuntimeTrial]:
    """Load the model with each and ask it one question. A process that dies of it is one more answer."""
    trials = []
    for place in places:
        node.runtimes = locate.only(place.path)
        trial = RuntimeTrial(place.release, await _try(node, model))
        on_trial(trial)
        trials.append(trial)
    node.runtimes = None
    return trials


async def _try(node: Node, model: Model) -> Finding:
    source = LocalSource(node.dispatcher(find=lambda _name: model))
    try:
        return await asyncio.wait_for(_ask(source, model), SECONDS)
    except ExoRkllmError as error:
        circular = error.hint == OTHER_RUNTIMES.format(name=model.id)
        return from_error(error) if not circular else bad(error.sentence, "")
    except asyncio.TimeoutError:
        return bad(f"No end after {SECONDS:.0f} s.", f"exo-rkllm run {model.id} hello --verbose")
    finally:
        await source.close()


async def _ask(source: LocalSource, model: Model) -> Finding:
    began, text, finish = time.monotonic(), "", None
    await source.load(model.id)
    loaded = time.monotonic()
    request = GenerationRequest(model=model.id, messages=(Message("user", QUESTION),), max_tokens=TOKENS)
    async with aclosing(source.answer(request)) as events:
        async for event in events:
            if isinstance(event, Piece):
                text += event.text
            elif isinstance(event, Finish):
                finish = event
    if reason := babble(text):
        return bad(reason, "")
    facts = [f"answers; load {loaded - began:.1f} s"]
    speed = None if finish is None else finish.timings.tokens_per_second(finish.usage.completion)
    return good(", ".join([*facts, f"{speed:.1f} tokens/s"] if speed else facts))


def best(trials: Iterable[RuntimeTrial], preferred: str) -> str:
    """The release to use: the preferred one if it works, else the first that does; empty if none does."""
    working = [trial.release for trial in trials if trial.finding.level == "pass"]
    return preferred if preferred in working else next(iter(working), "")
