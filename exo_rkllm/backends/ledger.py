"""How many prompt tokens the KV cache saved, for runtimes that only say how many they computed.

The library's perf block counts the tokens it really prefilled. It skips a prefix that its cache still holds, so the
length of the prompt has to be known from before: from the boundaries of the last run, whose lengths add up.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ledger:
    """The last run of one engine: what the cache holds now, as text and as token counts at the text's boundaries."""

    prompt: str = ""
    prompt_tokens: int = 0
    answer: str = ""
    answer_tokens: int = 0

    def cached(self, prompt: str, prefilled: int) -> int:
        """Tokens of `prompt` that were not computed, given that `prefilled` were.

        At least the tokens up to the last known boundary inside the common prefix; none where the count of computed
        tokens fits the whole prompt better, as with models whose cache the library cannot reuse.
        """
        if prompt in (self.prompt, self.prompt + self.answer):
            # Its length is known, and the library computes the last token of a prompt that it holds whole.
            return max(0, self._held(prompt) - prefilled)
        held = self._held(prompt)
        if not held or not prefilled:
            return held
        whole = len(prompt) * (self.prompt_tokens + self.answer_tokens) / len(self.prompt + self.answer)
        return 0 if abs(prefilled - whole) < abs(prefilled + held - whole) else held

    def _held(self, prompt: str) -> int:
        if prompt.startswith(self.prompt + self.answer):
            return self.prompt_tokens + self.answer_tokens
        return self.prompt_tokens if prompt.startswith(self.prompt) else 0
