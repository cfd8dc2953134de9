"""How long a prompt was, for a runtime that says only how many of its tokens it computed.

The library skips the beginning of a prompt that its KV cache still holds, and tells nobody how much that was. The
length of a prompt is known where the cache was empty, and from then on for the same text. Everything else is an
estimate, and says so: where an answer's tokens are not the tokenizer's own for its text, not even a plain
continuation of the last conversation reuses what it seems to.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from exo_rkllm.backends.base import Usage

if TYPE_CHECKING:
    from exo_rkllm.runner.jobs import RunnerJob
    from exo_rkllm.runner.stream import RunDone

# Prompts whose lengths are remembered, by their hashes: a conversation has one more each turn.
MOST_LENGTHS = 256
# Bytes a token in texts that take few tokens; plain English has four to five.
MOST_BYTES = 6


class CachedRun(NamedTuple):
    """What the KV cache holds: a prompt and its answer, as text and as numbers of tokens."""

    prompt: str = ""
    prompt_tokens: int = 0
    answer: str = ""
    answer_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def shared_with(self, prompt: str) -> int:
        """How many characters `prompt` begins with that this begins with, too."""
        shared = _common(self.prompt, prompt, 0)
        return shared if shared < len(self.prompt) else shared + _common(self.answer, prompt, shared)

    def tokens_within(self, length: int) -> int:
        """About how many tokens its first `length` characters take."""
        prompt = min(1.0, length / max(1, len(self.prompt)))
        answer = max(0, length - len(self.prompt)) / max(1, len(self.answer))
        return round(prompt * self.prompt_tokens + answer * self.answer_tokens)


def _common(text: str, other: str, at: int) -> int:
    """How many characters `text` begins with that stand in `other` from `at` on.

    Neither is copied whole, and texts that differ early are not read to their ends: they may have 400,000 characters,
    and the NPU waits.
    """
    if other.startswith(text, at):
        return len(text)
    low, high, step = 0, len(text), 64
    while low < high:
        middle = min(low + step, (low + high + 1) // 2)
        same = other.startswith(text[low:middle], at + low)
        low, high = (middle, high) if same else (low, middle - 1)
        step = 2 * step if same else max(1, step // 2)
    return low


EMPTY = CachedRun()


def cached_after(
    job: RunnerJob, prompt: str | None, done: RunDone, usage: Usage, answer: str, empty: CachedRun | None
) -> CachedRun | None:
    """What the KV cache holds after a run; None where nobody knows, `empty` where it was cleared.

    `prompt` is the text that its length is measured by.
    """
    if done.figures.get("aborted") or job.output != "text":
        return empty
    if prompt is None or not usage.counted:
        return None
    if job.keep_history:  # all of the conversation, which no other prompt is compared with
        return CachedRun("", usage.prompt, "", usage.completion)
    if done.stopped:  # the answer that was sent is not the whole of it
        return CachedRun(prompt, usage.prompt)
    return CachedRun(prompt, usage.prompt, answer, usage.completion)


class Ledger:
    """The token counts of one loaded model. `begin`, `usage` and `keep` follow one another in each run.

    `cache` is None where it is not known what the KV cache holds, as after a run that was left early.
    """

    def __init__(self, cache: CachedRun | None = EMPTY) -> None:
        self._cache = cache
        self._before: CachedRun | None = cache
        self._lengths: OrderedDict[int, int] = OrderedDict()

    @property
    def cache(self) -> CachedRun | None:
        """What the KV cache holds; None where nobody knows."""
        return self._cache

    def begin(self, *, cleared: bool, loaded: CachedRun | None = None) -> None:
        """A run starts, on an empty cache if `cleared`, or on what was `loaded` into it; what it leaves there is
        unknown until `keep`."""
        self._before, self._cache = loaded or (EMPTY if cleared else self._cache), None

    def keep(self, cache: CachedRun | None) -> None:
        """The run is over and has left this."""
        self._cache = cache

    def least(self, prompt: str, *, follows: bool = False, behind: CachedRun | None = None) -> int:
        """How many tokens this prompt takes up at least, before its run: exactly, where that is known. `behind` is the
        run that the cache will hold by then, where it is not over."""
        if not follows and (length := self._lengths.get(hash(prompt))) is not None:
            return length
        last = behind or self._cache or EMPTY
        shared = 0 if follows else last.shared_with(prompt)
        held = last.tokens if follows else last.tokens_within(shared)
        return held + len(prompt[shared:].encode(errors="replace")) // MOST_BYTES

    def usage(self, prompt: str, computed: int | None, completion: int, *, follows: bool = False) -> Usage:
        """Of a run that computed so many of the prompt's tokens: exact, or `guessed`.

        `follows`: the runtime has added this prompt to its own history, which then counts as cached.
        """
        if computed is None:
            return Usage.guess(prompt, completion)
        if self._before == EMPTY:
            self._remember(prompt, computed)
            return Usage(computed, 0, completion)
        length = 0 if follows else self._lengths.get(hash(prompt), 0)
        if length >= computed:
            return Usage(length, length - computed, completion)
        cached = self._before.tokens if follows and self._before else self._estimate(prompt, computed)
        return Usage(computed + cached, cached, completion, guessed=True)

    def _remember(self, prompt: str, length: int) -> None:
        self._lengths[hash(prompt)] = length
        if len(self._lengths) > MOST_LENGTHS:
            self._lengths.popitem(last=False)

    def _estimate(self, prompt: str, computed: int) -> int:
        """Cached tokens: those of the text that this prompt shares with the last run, if the sum is plausible.

        It is not where the library cannot reuse a cache: it has then computed about as much as the whole text takes.
        """
        last = self._before
        if last is None:
            return max(0, Usage.guess(prompt, 0).prompt - computed)
        shared = last.shared_with(prompt)
        cached = last.tokens_within(shared)
        if shared == len(prompt):  # held whole: its last token is computed all the same
            return max(0, cached - computed)
        whole = len(prompt) * last.tokens / max(1, len(last.prompt + last.answer))
        return 0 if abs(computed - whole) < abs(computed + cached - whole) else cached
