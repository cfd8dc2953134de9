"""What `exo-rkllm bench` asks a model, through the same queue as everybody's requests, and what each question took."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from exo_rkllm.backends.base import GenerationRequest, Image, Message
from exo_rkllm.client.answers import AnswerSource
from exo_rkllm.doctor.measure import MeasuredAnswer, timed
from exo_rkllm.doctor.measure_vision import SQUARES, square
from exo_rkllm.errors import ContextOverflow, NotSupported, RunError

# The vendor's benchmark reads 128 tokens and writes 64.
LENGTHS = (128, 512, 2048)
SHORT = LENGTHS[0]
ANSWER = 64
TURN, PICTURE = "turn 2", "picture"
STEPS = ("warm-up", *(f"{length} tokens" for length in LENGTHS), TURN, PICTURE)
# A sentence of common words, which most tokenizers give one token each; how many it really takes is measured.
WORDS = "the keeper of the tower climbs the long stairs at night and looks at the lamp and the dark sea"
TASK = "Tell this as a long story."
FOLLOW_UP = "And how does it go on?"
LOOK = "Describe this picture in a few sentences."
WARM_UP = (8, 64)  # words
Ask: TypeAlias = Callable[..., Awaitable[MeasuredAnswer]]


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One question. `read` are the prompt tokens that were computed, `reused` those found in the KV cache.

    Without `counted` the engine does not say how many it computed: `read` is an estimate, and `prefill_tps` 0.
    `skipped` is why there are no figures.
    """

    name: str
    read: int = 0
    reused: int = 0
    written: int = 0
    first_seconds: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    encode_seconds: float = 0.0
    counted: bool = True
    skipped: str = ""

    @property
    def prompt(self) -> int:
        return self.read + self.reused


async def measure_speeds(source: AnswerSource, model: str, on_step: Callable[[str], None]) -> tuple[SpeedRow, ...]:
    """One row for each of STEPS after the first; `on_step` is told each of them before it begins.

    Raises what a question raises, except that the model cannot do such a thing.
    """

    async def ask(*messages: Message, tokens: int = ANSWER) -> MeasuredAnswer:
        return await timed(source.answer(GenerationRequest(model=model, messages=messages, max_tokens=tokens)))

    on_step(STEPS[0])
    known = [(words, _row("", await ask(Message("user", story(0, words)), tokens=2)).prompt) for words in WARM_UP]
    rows: list[SpeedRow] = []
    longest: tuple[Message, ...] = ()
    for number, length in enumerate(LENGTHS, 1):
        on_step(STEPS[number])
        words = words_for(length, known)
        question = Message("user", story(number, words))
        try:
            answer = await ask(question)
        except ContextOverflow as error:
            rows.append(SpeedRow(STEPS[number], skipped=error.sentence))
        else:
            rows.append(_row(STEPS[number], answer))
            known.append((words, rows[-1].prompt))
            longest = (question, Message("assistant", answer.text))
    on_step(TURN)
    rows.append(await _skippable(TURN, ask, *longest, Message("user", FOLLOW_UP)))
    on_step(PICTURE)
    rows.append(await _pictures(ask))
    return tuple(rows)


def words_for(tokens: int, known: Sequence[tuple[int, int]]) -> int:
    """Words that become so many tokens, by the line through the shortest and the longest that is known."""
    (fewer, less), (more, most) = known[0], known[-1]
    slope = (most - less) / (more - fewer) if more > fewer and most > less else 1.0
    return max(round(more + (tokens - most) / slope), 1)


async def _skippable(name: str, ask: Ask, *messages: Message) -> SpeedRow:
    try:
        return _row(name, await ask(*messages))
    except (ContextOverflow, NotSupported) as error:
        return SpeedRow(name, skipped=error.sentence)


async def _pictures(ask: Ask) -> SpeedRow:
    """Of the second of two pictures: the first one waits for its encoder to be loaded."""
    rows = [
        await _skippable(PICTURE, ask, Message("user", LOOK, images=(Image(square(colour), "image/png"),)))
        for colour in SQUARES.values()
    ]
    return rows[-1]


def story(number: int, words: int) -> str:
    """A question of about so many words. Its beginning differs with `number`, so that no KV cache knows it."""
    every = WORDS.split()
    text = [every[(number * 5 + place) % len(every)] for place in range(max(words - len(TASK.split()), 1))]
    return f"{number + 1}. {' '.join(text)}. {TASK}"


def _row(name: str, answer: MeasuredAnswer) -> SpeedRow:
    if answer.finish is None or not answer.finish.usage.completion:
        raise RunError("The model answered nothing.", "exo-rkllm run NAME hello --verbose")
    usage, timings = answer.finish.usage, answer.finish.timings
    read = max(usage.prompt - usage.cached, 0) if usage.counted else usage.prompt
    return SpeedRow(
        name,
        read=read,
        reused=usage.cached if usage.counted else 0,
        written=usage.completion,
        first_seconds=answer.first or answer.seconds,
        prefill_tps=read / timings.prefill if usage.counted and timings.prefill > 0 else 0.0,
        decode_tps=timings.tokens_per_second(usage.completion),
        encode_seconds=timings.encode,
        counted=usage.counted,
    )
