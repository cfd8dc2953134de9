"""Answers that keep to a form on an engine whose sampler knows none.

The text is matched as it comes. At the first character that cannot belong, the run is ended, and another one goes on
from the prompt, the valid part of the answer and what is forced behind it, whose beginning the KV cache may still hold.
What comes out is an engine's raw text like any other, only that it is valid.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from exo_rkllm.backends.base import (
    Engine,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Piece,
    Structure,
    Timings,
)
from exo_rkllm.chat.parser import Marks
from exo_rkllm.chat.prompt import Prompt
from exo_rkllm.errors import AnswerInvalid, ContextOverflow
from exo_rkllm.structure.lead import Lead
from exo_rkllm.structure.matcher import Match, Matcher, MatcherHelper
from exo_rkllm.structure.repair import RepairState, after_rejection, after_step

log = logging.getLogger(__name__)

JSON_KINDS = frozenset({"json", "schema", "calls"})
# Bytes a token in forced text, which nobody counts.
BYTES_PER_TOKEN = 4
# Of blanks that cannot belong and are left out, one after another; a model that writes more of them is repaired.
MOST_BLANKS = 64


@dataclass(slots=True)
class RunTotals:
    """The runs of one answer, added up."""

    finishes: list[Finish] = field(default_factory=list)
    tokens: int = 0  # of the answer

    def total(self, last: Finish) -> Finish:
        """The last finish with the figures of all runs; the prompt's are the first run's, and no token counts twice."""
        if not self.finishes:
            return last
        first, every = self.finishes[0], [*self.finishes, last]
        spent = sum(one.timings.prefill + one.timings.decode for one in every)
        return replace(
            last,
            usage=replace(first.usage, completion=self.tokens),
            timings=Timings(
                queued=first.timings.queued,
                load=sum(one.timings.load for one in every),
                prefill=first.timings.prefill,
                decode=spent - first.timings.prefill,
                encode=sum(one.timings.encode for one in every),
            ),
        )


class Guide:
    """One answer. `stopped` tells whether its reader wants no more of it."""

    def __init__(
        self, engine: Engine, prompt: Prompt, structure: Structure, matcher: Matcher, stopped: Callable[[], bool]
    ) -> None:
        self._engine = engine
        self._prompt = prompt
        self._matcher = matcher
        self._stopped = stopped
        self._lead = Lead(prompt, json=structure.kind in JSON_KINDS)
        closing = prompt.tools.close if prompt.tools is not None and prompt.call_start else ()
        self._ends = Marks.of((*prompt.ends, *closing))
        self._held = ""  # text that may become one of the model's own ends
        self._before = ""  # what stands between the prompt and the text that is matched
        self._runs = RunTotals()
        self._repairs = RepairState()
        self._place = 0  # how long the answer was before anything was forced
        self._may_end = False
        self._complete = False  # nothing more belongs to the answer
        self._wrong = False  # the run is to end: the model says what cannot belong
        self._blanks = 0  # how many were left out here
        self._words = ""  # what it said there; empty where it wanted to end

    async def answer(self) -> AsyncGenerator[GenerationEvent, None]:
        """As `Engine.generate`. Raises AnswerInvalid where the answer is cut before it is complete."""
        while True:
            finish, cut = None, False
            try:
                async with aclosing(self._engine.generate(self._request())) as stream:
                    async for event in stream:
                        if type(event) is Piece:
                            if cut:
                                continue  # what the engine still says until it heard of it
                            for piece in await self._take(event):
                                yield piece
                            if self._wrong:
                                cut = True
                                await self._engine.abort(self._prompt.request.id)
                        elif type(event) is Finish:
                            finish = event
                        elif not self._runs.finishes:
                            yield event
            except ContextOverflow:
                if not self._runs.finishes:
                    raise
                raise self._too_long() from None
            if finish is None:
                return
            if self._lead.free or self._stopped() or (finish.reason == "abort" and not cut):
                yield self._runs.total(finish)
                return
            by_length = finish.reason == "length" and not cut and not self._complete
            if not cut:
                for piece in await self._end():
                    yield piece
            if not self._complete:
                if by_length:
                    raise self._too_long()
                self._runs.finishes.append(finish)
                for piece in await self._repair():
                    yield piece
                if not self._complete:
                    continue
                finish = Finish("stop")
            if self._repairs.repairs:
                words = f"{self._engine.model.id}: {self._repairs.repairs} repairs held the answer to its form."
                log.info("%s", words, extra={"request": self._prompt.request.id, "model": self._engine.model.id})
            yield replace(self._runs.total(finish), reason="length" if by_length else "stop")
            return

    def _request(self) -> GenerationRequest:
        """The request, or what is left of it behind the text that is there."""
        request, text = self._prompt.request, self._before + self._matcher.text
        if not self._runs.finishes:
            return request
        left = None if request.max_tokens is None else request.max_tokens - self._runs.tokens
        if left is not None and left <= 0:
            raise self._too_long()
        return replace(request, prompt=(request.prompt or "") + text, max_tokens=left)

    # ── text ─────────────────────────────────────────────────────────────────────────────────────

    async def _take(self, piece: Piece) -> list[Piece]:
        """What of an engine's piece may leave."""
        if self._lead.free:
            return [piece]
        text, ended = self._until_end(piece.text)
        pieces = await self._match(text, piece.token)
        if ended:
            pieces += await self._end()
            self._wrong = True
        return pieces

    async def _end(self) -> list[Piece]:
        """The model wants to end; what was held back until now is all that it has to say."""
        held, self._held = self._held, ""
        pieces = await self._match(held, -1) if held else []
        if rest := self._lead.end():
            pieces += await self._matched(rest, -1, within=True)
        if closing := self._lead.close_thoughts():
            self._before += closing
            pieces.append(Piece(closing))
        self._complete = self._complete or self._may_end
        return pieces

    async def _match(self, text: str, token: int) -> list[Piece]:
        if self._complete:  # blanks behind it are nobody's, and anything else is where the run ends
            self._wrong = bool(text.strip())
            return []
        if self._lead.over:
            return await self._matched(text, token)
        through, matched = self._lead.feed(text)
        self._before += text
        self._runs.tokens += not matched
        pieces = [Piece(through, token)] if through else []
        return pieces + (await self._matched(matched, token, within=True) if matched else [])

    async def _matched(self, text: str, token: int, *, within: bool = False) -> list[Piece]:
        """`within`: the text is the end of what stands before the answer until now.

        Blanks that cannot belong are left out, as long as nothing is forced in their place.
        """
        if within:
            self._before = self._before[: len(self._before) - len(text)]
        match = await self._matcher.feed(text)
        self._may_end = match.may_end
        self._complete = match.complete or (bool(match.rest) and match.may_end)
        self._blanks = 0 if match.taken else self._blanks + len(match.rest)
        blank = not match.rest.strip() and self._blanks <= MOST_BLANKS
        self._wrong = not blank or (bool(match.forced) and not self._complete)
        self._words = match.rest
        self._place = self._matcher.length - len(match.forced.encode())
        return self._pieces(match, token)

    def _pieces(self, match: Match, token: int = -1) -> list[Piece]:
        """The text of a match, and its tokens counted: those of forced text by its length."""
        self._runs.tokens += bool(match.taken) + -(-len(match.forced.encode()) // BYTES_PER_TOKEN)
        texts = ((match.taken, token), (match.forced, -1))
        return [Piece(text, own) for text, own in texts if text]

    def _until_end(self, text: str) -> tuple[str, bool]:
        """The text before one of the model's own ends, and whether there is one."""
        if not self._held and self._ends.triggers.isdisjoint(text):
            return text, False
        text, self._held = self._held + text, ""
        found = self._ends.pattern.search(text) if self._ends.pattern else None
        if found is not None:
            return text[: found.start()], True
        waiting = self._ends.waiting(text)
        self._held = text[len(text) - waiting :]
        return text[: len(text) - waiting], False

    # ── repairs ──────────────────────────────────────────────────────────────────────────────────

    async def _repair(self) -> list[Piece]:
        """What is put behind the answer before the model goes on with it."""
        words, self._words, self._held, self._wrong, self._blanks = self._words, "", "", False, 0
        self._repairs, repair = after_rejection(self._repairs, self._place, words, self._runs.tokens)
        match = await self._matcher.repair(repair)
        self._may_end = match.may_end
        self._complete = match.complete or repair == "finish"
        if repair != "force":
            self._repairs = after_step(self._repairs, self._matcher.length)
        return self._pieces(match)

    def _too_long(self) -> AnswerInvalid:
        return AnswerInvalid(
            "The answer ended before it was complete in the form that was asked for: max_tokens or the context is "
            "used up.",
            "Allow more tokens, shorten the conversation, or ask for less.",
        )


async def guided(
    helper: MatcherHelper, engine: Engine, prompt: Prompt, structure: Structure, stopped: Callable[[], bool]
) -> AsyncGenerator[GenerationEvent, None]:
    """The answer of `Engine.generate`, held to the structure. `stopped`: whether its reader wants no more of it."""
    matcher = await helper.open(structure)
    async with aclosing(Guide(engine, prompt, structure, matcher, stopped).answer()) as events:
        async for event in events:
            yield event
