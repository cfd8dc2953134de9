"""The daemon's side of the matching: one answer's text on its way through the helper process.

What was taken so far is kept here, so that a helper that was lost or has forgotten the answer is told it again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from exo_rkllm.backends.base import Structure
from exo_rkllm.config.places import VENDOR_FOLDER
from exo_rkllm.errors import UsageError
from exo_rkllm.helper.parent import Helper, HelperLost

PACKAGE = "llguidance"
UNKNOWN = "null"
INSTALL = f"pip install {PACKAGE}"
# Of JSON Schema: what answers are held to and no check of ours knows.
HELD_KEYWORDS = frozenset({"pattern", "patternProperties"})
# A usual grammar is read within a millisecond, and a piece of an answer matched within 50 microseconds.
SECONDS, PROCESSOR_SECONDS = 5.0, 2
# A form that takes longer to read than this is refused; a request with any other body is answered by then, too.
READ_SECONDS = 1.5
MEMORY = 512 << 20
# It takes some 30 MB: where no answer has a form for so long, its process ends.
IDLE_SECONDS = 300.0


def installed(vendor_folder: Path = VENDOR_FOLDER) -> bool:
    """Whether answers can be held to a form here."""
    return find_spec(PACKAGE) is not None or (vendor_folder / PACKAGE).is_dir()


@dataclass(frozen=True, slots=True)
class Match:
    """What one step took: of the model's text, and what was `forced` behind it. `rest` is what could not belong.

    `complete`: nothing may follow any more. `may_end`: the answer is valid as it is, and may go on.
    """

    taken: str
    rest: str
    forced: str
    complete: bool
    may_end: bool


class MatcherHelper:
    """The helper process of all answers; it starts with the first and ends when none came for a while."""

    def __init__(self) -> None:
        self.helper = Helper("exo_rkllm.structure.matching:match", (PACKAGE,), MEMORY, PROCESSOR_SECONDS)
        self._idle: asyncio.TimerHandle | None = None

    async def open(self, structure: Structure) -> Matcher:
        """Raises UsageError for a structure that is none, or takes too much time or memory."""
        matcher = Matcher(self, structure)
        await matcher.feed("")
        return matcher

    async def call(self, *job: object, seconds: float) -> str:
        self._cancel()
        try:
            return await self.helper.call(*job, seconds=seconds)
        finally:
            self._cancel()
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.helper.close)

    def close(self) -> None:
        self._cancel()
        self.helper.close()

    def _cancel(self) -> None:
        if self._idle is not None:
            self._idle.cancel()


class Matcher:
    """One answer that has to have a form."""

    def __init__(self, helper: MatcherHelper, structure: Structure) -> None:
        self._helper = helper
        self._structure = structure
        self._key = uuid.uuid4().hex
        self.text = ""  # the answer so far
        self.length = 0  # its bytes
        self._opened = False

    async def feed(self, text: str) -> Match:
        return await self._step("feed", text)

    async def repair(self, how: Literal["force", "step", "finish"]) -> Match:
        """Takes what has no alternative (`force`), one character of several and what is forced behind it (`step`), or a
        short completion (`finish`); raises AnswerInvalid where none is found."""
        return await self._step(how)

    async def _step(self, operation: str, text: str = "") -> Match:
        # A first step brings the structure along, and so does one whose answer the process does not know.
        answer = await self._ask(operation, None, self.length, text) if self._opened else UNKNOWN
        if answer == UNKNOWN:
            answer = await self._ask(operation, (self._structure.kind, self._structure.text), self.text, text)
        self._opened = True
        match = Match(**json.loads(answer))
        self.text += match.taken + match.forced
        self.length += len((match.taken + match.forced).encode())
        return match

    async def _ask(self, operation: str, structure: tuple[str, str] | None, before: int | str, text: str) -> str:
        try:
            seconds = SECONDS if self._opened else READ_SECONDS
            return await self._helper.call(operation, self._key, structure, before, text, seconds=seconds)
        except HelperLost as error:
            raise UsageError(
                f"Holding the answer to its form was stopped: it {error}.", "Ask for a simpler form."
            ) from None
