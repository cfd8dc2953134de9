"""From an engine's raw text to answer, thoughts and tool calls: the second of the room's two doors.

Each of the engine's pieces goes through `feed`, its end through `end`. Once `stopped` is true a stop string was met and
the run is to be ended: nothing after it comes out any more.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.backends.base import Finish, GenerationEvent, Piece, ToolCall
from exo_rkllm.chat.formats import read_forced
from exo_rkllm.chat.prompt import Prompt
from exo_rkllm.chat.toolcall import tool_call_piece
from exo_rkllm.errors import AnswerInvalid

# `lead`: the answer's first characters, where a format without tags may begin a call; `call`: inside a tool call;
# `musing`: what looks like one amid thoughts, where a model may as well speak of calls as make them.
State: TypeAlias = Literal["lead", "answer", "thinking", "call", "musing", "done"]
CALLS: frozenset[State] = frozenset({"call", "musing"})
JSON_CALL = re.compile(r'\{\s*"(?:name|type|function)"\s*:')
UNDECIDED = 64  # characters after which a JSON answer without a call's first key is no call


@dataclass(frozen=True, slots=True)
class Marks:
    """What is looked for in one state, and the first characters that make looking necessary."""

    pattern: re.Pattern[str] | None
    texts: tuple[str, ...]
    triggers: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str], *, breaks: bool = False) -> Marks:
        """With `breaks`, line breaks wait for what follows them, since a tag swallows those in front of it."""
        marks = tuple(sorted({text for text in texts if text}, key=len, reverse=True))
        pattern = re.compile("|".join(map(re.escape, marks))) if marks else None
        return cls(pattern, marks, frozenset({mark[0] for mark in marks} | ({"\n"} if breaks else set())))

    def waiting(self, text: str) -> int:
        """How many characters at the end may still become a mark, or be swallowed by one."""
        longest = 0
        for mark in self.texts:
            for size in range(min(len(mark) - 1, len(text)), longest, -1):
                if text.endswith(mark[:size]):
                    longest = size
                    break
        return longest + self.blanks_before_tag(text[: len(text) - longest])

    def blanks_before_tag(self, text: str) -> int:
        """Line breaks and blanks at the end that belong to a tag behind them."""
        if "\n" not in self.triggers:
            return 0
        blank = text[len(text.rstrip()) :]
        return len(blank) - blank.index("\n") if "\n" in blank else 0


class ResponseParser:
    """Reads one answer as it comes."""

    __slots__ = (
        *(
            "_client_stops",
            "_buffer",
            "_call_start",
            "_calls",
            "_ended_by",
            "_forced",
            "_format",
            "_ends",
            "_pieces",
            "_marks",
            "_open_tag",
            "_plain",
            "_reasoning",
            "_has_answer",
        ),
        *("_search_from", "_skip", "_state", "_stops", "_thinking", "_tools", "_triggers", "stopped"),
    )

    _plain: bool
    _state: State
    _thinking: bool

    def __init__(self, prompt: Prompt) -> None:
        reasoning, tools = prompt.reasoning, prompt.tools
        self.stopped = False
        self._reasoning = reasoning
        self._format = tools
        self._tools = prompt.request.tools
        self._stops = frozenset(prompt.request.stop)
        self._client_stops = prompt.stop
        self._ended_by = ""
        self._ends = Marks.of(self._stops).pattern
        opens = tools.open if tools else ()
        begin, close = ((reasoning.open,), (reasoning.close,)) if reasoning else ((), ())
        answer = Marks.of((*self._stops, *opens, *begin), breaks=tools is not None)
        ends = (*prompt.ends, *(tools.close if tools else ()))
        self._marks: dict[State, Marks] = {
            "lead": answer,
            "answer": answer,
            "thinking": Marks.of((*prompt.ends, *opens, *close), breaks=True),
            "call": Marks.of(ends),
            "musing": Marks.of((*ends, *close)),
            "done": Marks.of(()),
        }
        self._buffer = ""
        self._pieces: list[Piece] = []  # the pieces whose text is in the buffer
        self._search_from = 0
        self._open_tag = ""  # the tag that opened the call, given back when it turns out to be none
        self._calls = 0
        self._has_answer = False
        self._call_start = ""  # of the call that the prompt has begun
        self._forced = prompt.forced  # until it was made
        if prompt.call_start:
            self._enter("call")
            self._open_tag = next((tag for tag in opens if prompt.call_start.startswith(tag)), "")
            self._buffer = self._call_start = prompt.call_start.removeprefix(self._open_tag)
            self._pieces = [Piece(self._buffer)] if self._buffer else []
        else:
            self._enter("thinking" if prompt.thinking else self._after(), skip=reasoning is not None)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def feed(self, piece: Piece) -> Sequence[Piece]:
        """What is certain by now; text that may still become a tag or a stop string stays inside."""
        if self.passes(piece):
            return (piece,)
        if piece.kind != "answer":
            return (*self._flush(), piece)  # an engine that chats has read it already
        if self.stopped:
            return ()
        if not piece.text and not self._pieces:
            return (piece,)  # a part of a character, whose id counts for hosts that work on ids
        self._pieces.append(piece)
        self._buffer += piece.text
        out: list[Piece] = []
        while self._step(out):
            pass
        self._plain = not self._buffer and not self._skip and self._state in ("answer", "thinking")
        return out

    def passes(self, piece: Piece) -> bool:
        """Whether it is certain by itself, and nothing waits before it: `feed` gives it alone, with its kind."""
        if self._plain and self._triggers.isdisjoint(piece.text):
            if self._thinking:
                piece.kind = "thinking"
            return True
        return False

    def end(self, finish: Finish) -> Sequence[GenerationEvent]:
        """What was held back, then the finish with its real reason."""
        out = self._flush()
        if self._forced:
            raise self._no_call()
        reason = "stop" if self.stopped else finish.reason
        if self._calls and reason == "stop":
            reason = "tool_calls"
        self._enter("done")
        return (*out, dataclasses.replace(finish, reason=reason, stop=self._ended_by))

    def _flush(self) -> list[Piece]:
        """All that waits, as what it most likely is."""
        out: list[Piece] = []
        if self._state in CALLS:
            self._close(len(self._buffer), 0, out)
        if self._state == "lead":
            self._enter("answer")
        while self._step(out):
            pass
        self._take(len(self._buffer.rstrip() if self._thinking else self._buffer), out)
        self._drop(len(self._buffer))
        return out

    def _enter(self, state: State, *, skip: bool = False) -> None:
        """`skip`: blanks at the beginning belong to the tag before them."""
        self._state = state
        self._thinking = state == "thinking"
        self._triggers = self._marks[state].triggers
        self._search_from = 0
        self._skip = skip
        self._plain = not skip and state in ("answer", "thinking")

    def _after(self) -> State:
        """Where an answer begins: here a call may begin without a tag."""
        return "lead" if self._format is not None and self._format.bare else "answer"

    def _step(self, out: list[Piece]) -> bool:
        """One move over the buffer; false when there is nothing more to do without more text."""
        if self._skip:
            self._drop(len(self._buffer) - len(self._buffer.lstrip()))
            self._skip = not self._buffer
        if not self._buffer:
            return False
        if self._state == "lead" and not self._decide_lead():
            return False
        marks = self._marks[self._state]
        match = marks.pattern.search(self._buffer, self._search_from) if marks.pattern else None
        if match is not None:
            return self._on_mark(match[0], match.start(), out)
        if self._state in CALLS:
            self._search_from = max(0, len(self._buffer) - max(map(len, marks.texts), default=0))
        else:
            self._take(len(self._buffer) - marks.waiting(self._buffer), out)
        return False

    def _on_mark(self, mark: str, start: int, out: list[Piece]) -> bool:
        reasoning, tools = self._reasoning, self._format
        if self._state in CALLS:
            self._close(start, len(mark) if tools and mark in tools.close else 0, out)
        elif mark in self._stops:
            self._take(start, out)
            self._stop(mark)
        elif reasoning and mark == reasoning.open and (self._has_answer or self._buffer[:start].strip()):
            self._take(start + len(mark), out)  # an answer that speaks of the tag
        else:
            blank = self._marks[self._state].blanks_before_tag(self._buffer[:start])
            self._take(start - blank, out)
            tag = self._buffer[: blank + len(mark)]
            self._drop(len(tag))
            if reasoning and mark == reasoning.open:
                self._enter("thinking", skip=True)
            elif reasoning and mark == reasoning.close:
                self._enter(self._after(), skip=True)
            else:
                self._enter("musing" if self._thinking else "call")
                self._open_tag = tag
        return bool(self._buffer)

    def _stop(self, mark: str) -> None:
        self._ended_by = mark if mark in self._client_stops else ""
        self._drop(len(self._buffer))
        self.stopped = True
        self._enter("done")

    # ── calls ────────────────────────────────────────────────────────────────────────────────────

    def _decide_lead(self) -> bool:
        """Whether the answer's first characters have told what they are; then the state says it."""
        text = self._buffer.lstrip()
        if self._format is not None and self._format.bare == "json":
            is_call = JSON_CALL.match(text) is not None
            open_ = not text or (text[0] == "{" and '":' not in text and len(text) < UNDECIDED)
        else:
            line, newline, _ = text.partition("\n")
            names = [tool.name for tool in self._tools]
            is_call = bool(newline) and line.strip() in names
            open_ = not newline and any(name.startswith(line.rstrip()) for name in names)
        if open_ and not is_call:
            return False
        self._enter("call" if is_call else "answer")
        self._open_tag = ""
        return True

    def _close(self, size: int, tag: int, out: list[Piece]) -> None:
        """The call's text is whole: it becomes calls, or is given back as the words that it was."""
        before: State = "thinking" if self._state == "musing" else "answer"
        token = self._pieces[-1].token if self._pieces else -1
        try:
            calls = self._read(self._buffer[:size])
        except ValueError:
            if self._forced:
                raise self._no_call() from None
            self._enter(before)
            if self._open_tag:
                out.append(Piece(self._open_tag, -1, "thinking" if self._thinking else "answer"))
                self._has_answer = self._has_answer or not self._thinking
            if self._thinking:
                self._take(size + tag, out)
                return
            match = self._ends.search(self._buffer, 0, size + tag) if self._ends else None
            self._take(match.start() if match else size + tag, out)
            if match:
                self._stop(match[0])
            return
        self._forced = self._call_start = ""
        self._drop(size + tag)
        self._calls += len(calls)
        out += [tool_call_piece(call, token) for call in calls]
        self._enter(before, skip=True)

    def _no_call(self) -> AnswerInvalid:
        return AnswerInvalid(
            f"The model had to call {self._forced}, and its answer is no complete call.",
            "Ask again, allow more tokens, or use a larger model.",
        )

    def _read(self, text: str) -> list[ToolCall]:
        """The calls in a text; raises ValueError where it is none."""
        if self._format is None:
            return []
        if self._forced:
            return read_forced(self._format, text, self._tools, self._call_start)
        return self._format.read(text, self._tools)

    # ── text and the tokens it came with ─────────────────────────────────────────────────────────

    def _take(self, size: int, out: list[Piece]) -> None:
        """Let the first `size` characters go, in the pieces that they came in."""
        for piece in self._cut(size):
            if self._thinking:
                piece.kind = "thinking"
            else:
                self._has_answer = self._has_answer or not piece.text.isspace()
            out.append(piece)

    def _drop(self, size: int) -> None:
        self._cut(size)

    def _cut(self, size: int) -> list[Piece]:
        if size <= 0:
            return []
        self._buffer = self._buffer[size:]
        self._search_from = 0
        cut: list[Piece] = []
        while size and self._pieces:
            piece = self._pieces[0]
            if size < len(piece.text):
                cut.append(Piece(piece.text[:size], piece.token))
                piece.text = piece.text[size:]
                break
            cut.append(self._pieces.pop(0))
            size -= len(piece.text)
        while self._pieces and not self._pieces[0].text:
            cut.append(self._pieces.pop(0))
        return cut
