"""Where in an engine's raw text the answer begins that has to have a form: behind thoughts, blanks and a fence."""

from __future__ import annotations

import re

from exo_rkllm.chat.prompt import Prompt

# The opening of a Markdown fence, and what may still become one; for JSON, which no fence can begin.
FENCE = re.compile(r"\s*(?:```[a-zA-Z]*[ \t]*\n\s*)?")
MAY_OPEN = re.compile(r"\s*(?:`{1,2}|```[a-zA-Z]*[ \t]*)?")
BLANK = re.compile(r"\s*")


class Lead:
    """Divides text, as it comes, into what goes through as it is and what has to match.

    `free`: the answer has begun as a tool call, which the request allows and no form is for.
    """

    def __init__(self, prompt: Prompt, *, json: bool) -> None:
        self._reasoning = prompt.reasoning
        self._calls = prompt.tools.open if prompt.tools is not None and not prompt.call_start else ()
        self._skips = FENCE if json and not prompt.call_start else BLANK
        self._thinking = prompt.thinking
        self._tail = ""  # of the thoughts: what may be the beginning of the tag that closes them
        self._pending = ""
        self.over = False
        self.free = False

    def feed(self, text: str) -> tuple[str, str]:
        """What goes through, and what has to match."""
        if self.over:
            return ("", text) if not self.free else (text, "")
        if self._thinking:
            return self._think(text)
        self._pending += text
        said = self._pending.lstrip()
        tags = (*self._calls, *((self._reasoning.open,) if self._reasoning else ()))
        for tag in tags:
            if said.startswith(tag):
                text, self._pending = self._pending, ""
                if tag in self._calls:
                    self.over = self.free = True
                    return text, ""
                self._thinking = True
                return self._think(text)
        if any(tag.startswith(said) for tag in tags) or (self._skips is FENCE and MAY_OPEN.fullmatch(self._pending)):
            return "", ""
        return "", self.end()

    def end(self) -> str:
        """What has to match of the text so far, when no more of it comes."""
        if self.over:
            return ""
        skipped = self._skips.match(self._pending)
        rest = self._pending[skipped.end() if skipped else 0 :]
        if not rest:
            return ""
        self._pending, self.over = "", True
        return rest

    def close_thoughts(self) -> str:
        """The text that ends the thoughts, for a model that does not; empty where it does not think."""
        if not self._thinking or self._reasoning is None:
            return ""
        self._thinking, self._tail = False, ""
        return f"\n{self._reasoning.close}\n\n"

    def _think(self, text: str) -> tuple[str, str]:
        close = self._reasoning.close if self._reasoning else ""
        seen = self._tail + text
        at = seen.find(close)
        if at < 0:
            self._tail = seen[-(len(close) - 1) :]
            return text, ""
        end = at + len(close) - len(self._tail)
        self._thinking, self._tail, self._reasoning = False, "", None
        _, matched = self.feed(text[end:])
        return text[:end], matched
