"""What the helper process does: follows answers, byte by byte, through the grammars that callers sent.

llguidance works on tokens; over a vocabulary of the 256 bytes it is an incremental matcher of bytes. Grammars are
strangers' programs: its own limits bound a step, the process's limits bound everything else.
"""

from __future__ import annotations

import importlib
import json
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from exo_rkllm.errors import AnswerInvalid, UsageError

END = 256
BLANKS = frozenset(b" \t\n\r")
# What makes an answer shorter comes first, then what a value may begin with.
PREFERRED = b'}]",:0123456789-tfn['
# The same where a letter may follow that begins no word of JSON: inside text.
PREFERRED_IN_TEXT, LETTER = b'"0-_a', ord("q")
# What models write in JSON that has another spelling there: raw line breaks inside strings, and Python's words.
SPELLINGS = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "True": "true", "False": "false", "None": "null"}
# So many characters of a word must fit with the other case of its first one.
CASE_CONTEXT = 3
MOST_ANSWERS = 32
# A byte takes some 3 microseconds; these bound what a hostile grammar makes of one: some milliseconds, some 20 MB.
LIMITS = {"step_lexer_fuel": 50_000, "step_max_items": 20_000, "max_lexer_states": 20_000, "verbose_errors": False}
# Of a completion: bytes, and attempts of which the shortest is taken.
LONGEST, WALKS = 1024, 8


class ByteVocabulary:
    """The 256 bytes as tokens, and one that ends an answer, as llguidance asks for a tokenizer."""

    eos_token_id = END
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(END)), b"<|end|>")
    special_token_ids = (END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class FollowedAnswer:
    """One answer. `taken` counts the bytes that were accepted; `json` tells that its strings are JSON's."""

    def __init__(self, kind: str, text: str) -> None:
        library: Any = importlib.import_module("llguidance")
        tokenizer = library.LLTokenizer(library.TokenizerWrapper(ByteVocabulary()), slices=[])
        try:
            grammar = grammar_of(library.LLMatcher, library.grammar_from, kind, text)
        except (ValueError, RecursionError) as error:
            raise _bad(str(error)) from None
        self.json = kind in ("json", "schema", "calls")
        self.taken = 0
        self._matcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=library.LLParserLimits(**LIMITS))
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _bad(str(self._matcher.get_error()))

    def feed(self, text: str) -> tuple[str, str]:
        """What of the text is accepted, where need be in its right spelling, and the rest of it."""
        accepted: list[str] = []
        while text:
            data = text.encode(errors="replace")
            count = int(self._matcher.try_consume_tokens(list(data)))
            self._check()
            whole = len(data[:count].decode(errors="ignore").encode())
            if whole < count:
                self._matcher.rollback(count - whole)
            accepted.append(data[:whole].decode())
            text = data[whole:].decode()
            self.taken += whole
            right, length = self._respelled(text)
            if not right:
                break
            accepted.append(right)
            text = text[length:]
        return "".join(accepted), text

    def _respelled(self, text: str) -> tuple[str, int]:
        """Takes the right spelling of what cannot belong as it stands: that, and how much of the text it is for."""
        if self.json:
            for wrong, right in SPELLINGS.items():
                if text.startswith(wrong) and self._take(right):
                    return right, len(wrong)
        word = text[:1].swapcase() + text[1:CASE_CONTEXT]
        if len(text) > 1 and text[0].isalpha() and self._take(word):
            return word, min(len(text), CASE_CONTEXT)
        return "", 0

    def _take(self, text: str) -> bool:
        """All of the text, or nothing of it."""
        data = list(text.encode())
        count = int(self._matcher.try_consume_tokens(data))
        if count < len(data):
            self._matcher.rollback(count)
            return False
        self.taken += count
        return True

    def forced(self) -> str:
        """Takes the bytes that have no alternative but blanks, up to the end of a character."""
        return self._commit(_forced(self._matcher.deep_copy()))

    def step(self) -> str:
        """Takes the preferred one of several bytes that may follow, and what is forced behind it."""
        walk = self._matcher.deep_copy()
        taken = bytearray()
        while bytes_after(walk) and (not taken or not _is_text(taken)):
            taken.append(_preferred(bytes_after(walk)))
            walk.try_consume_tokens([taken[-1]])
        return self._commit(bytes(taken) + _forced(walk))

    def finish(self) -> str:
        """Takes a short completion. Raises AnswerInvalid where none of LONGEST bytes was found."""
        best: bytes | None = None
        for seed in range(WALKS):
            walk = self._walk(seed, LONGEST if best is None else len(best) - 1)
            best = best if walk is None else walk
        if best is None:
            raise AnswerInvalid("Nothing short completes this answer in the form that was asked for.", "Ask again.")
        return self._commit(best)

    def _walk(self, seed: int, longest: int) -> bytes | None:
        """A completion: by preference, by the bytes that were taken least, and with chance, which leaves every loop."""
        walk, chance = self._matcher.deep_copy(), random.Random(seed)  # noqa: S311 - any choice is as good
        taken, counts = bytearray(), [0] * END
        while not walk.is_accepting():
            choices = bytes_after(walk)
            if not choices or len(taken) >= longest:
                return None
            if seed == 1:
                taken.append(min(choices, key=lambda byte: (counts[byte], -byte)))
                counts[taken[-1]] += 1
            else:
                taken.append(chance.choice(choices) if chance.random() < seed / WALKS else _preferred(choices))
            walk.try_consume_tokens([taken[-1]])
        return bytes(taken)

    def _commit(self, data: bytes) -> str:
        self._matcher.try_consume_tokens(list(data))
        self._check()
        self.taken += len(data)
        return data.decode(errors="replace")

    @property
    def complete(self) -> bool:
        """Nothing may follow."""
        return bool(self._matcher.is_stopped())

    @property
    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())


def grammar_of(matcher: Any, grammar_from: Any, kind: str, text: str) -> str:
    """The grammar in llguidance's own form. Raises ValueError for text that is none of its kind."""
    if kind == "json":
        return str(matcher.grammar_from_json_schema({"type": "object"}, overrides=OVERRIDES))
    if kind == "schema":
        return str(matcher.grammar_from_json_schema(text, overrides=OVERRIDES))
    if kind == "calls":
        return str(matcher.grammar_from_lark(lark_of_calls(json.loads(text))))
    if kind == "regex":
        return str(matcher.grammar_from_regex(text))
    return str(grammar_from(kind, text))


# What it does not know of JSON Schema is looked at when the answer is complete (schema.json_schema).
# Blanks are bounded, since some models write line breaks between two tokens of JSON without end.
OVERRIDES = {
    "lenient": True,
    "coerce_one_of": True,
    "json_allow_general_unicode_escapes": True,
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,80}",
}


def lark_of_calls(calls: Sequence[Sequence[Any]]) -> str:
    """Alternatives of a text that begins a call and its arguments' JSON Schema."""
    rules = [f"start: {' | '.join(f'call{number}' for number in range(len(calls)))}"]
    for number, (begin, schema) in enumerate(calls):
        rules.append(f"call{number}: {f'{json.dumps(begin)} ' if begin else ''}arguments{number}")
        options = json.dumps({**schema, "x-guidance": OVERRIDES})
        rules.append(f"arguments{number}: %json {options}")
    return "\n".join(rules)


def bytes_after(matcher: Any) -> list[int]:
    """The bytes that may follow; blanks only where there is nothing else."""
    if matcher.is_stopped():
        return []
    mask = matcher.compute_bitmask()
    allowed = [byte for byte in range(END) if mask[byte >> 3] >> (byte & 7) & 1]
    return [byte for byte in allowed if byte not in BLANKS] or allowed


def _forced(walk: Any) -> bytes:
    taken = bytearray()
    while len(taken) < LONGEST and not walk.is_accepting() and len(choices := bytes_after(walk)) == 1:
        taken += bytes(choices)
        walk.try_consume_tokens(choices)
    while not _is_text(taken):
        taken.pop()
    return bytes(taken)


def _preferred(choices: Sequence[int]) -> int:
    preferred = PREFERRED_IN_TEXT if LETTER in choices else PREFERRED
    return next((byte for byte in preferred if byte in choices), choices[0])


def _is_text(data: bytes | bytearray) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bad(reason: str) -> UsageError:
    words = " ".join(reason.split())[:300].rstrip(".")
    return UsageError(f"Answers cannot be held to this form: {words}.", "Make it simpler, or leave it out.")


_answers: OrderedDict[str, FollowedAnswer] = OrderedDict()


def match(operation: str, key: str, structure: Sequence[str] | None, before: int | str, text: str) -> str:
    """One step of the answer `key`: what it took as JSON, or "null" where this process does not know the answer.

    `before` is how many bytes were taken until now; with a `structure` it is these bytes' text, and the answer is
    begun with it. `feed` takes what it can of the text and, where the rest cannot belong, what is forced there.
    """
    if structure is not None:
        followed = _answers[key] = FollowedAnswer(*structure)
        followed.feed(str(before))
        while len(_answers) > MOST_ANSWERS:
            _answers.popitem(last=False)
    elif key not in _answers or _answers[key].taken != before:
        return "null"
    followed = _answers[key]
    _answers.move_to_end(key)
    taken, rest, forced = "", "", ""
    if operation == "feed":
        taken, rest = followed.feed(text)
        forced = followed.forced() if rest and not followed.may_end else ""
    else:
        forced = {"force": followed.forced, "step": followed.step, "finish": followed.finish}[operation]()
    ends = {"complete": followed.complete, "may_end": followed.may_end}
    return json.dumps({"taken": taken, "rest": rest, "forced": forced, **ends})
