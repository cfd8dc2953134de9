"""The seam between whoever asks and whatever answers.

Faces build a `GenerationRequest`; an `Engine` answers with `Piece`s and one `Finish`, or raises.
Nothing else crosses, so a new face or a new engine touches one room.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runner.preload import Preload
from exo_rkllm.sampling import SAMPLING_NAMES as SAMPLING_NAMES
from exo_rkllm.sampling import Sampling as Sampling  # part of this seam, for plugins' engines too

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
PieceKind: TypeAlias = Literal["answer", "thinking", "tool_call"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "abort"]
Output: TypeAlias = Literal["text", "hidden", "logits"]
StructureKind: TypeAlias = Literal["json", "schema", "regex", "choice", "gbnf", "calls"]
JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"


# Where a rendered prompt shows an image; the vendor's runtime puts the image's tokens in its place.
IMAGE_MARK = "<image>"


# ── what is asked ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image (PNG, JPEG) as the client sent it, behind the first `at` characters of its message's text.

    `digest` and `pixels`, RGB at the size of the model's encoder, are there once it was decoded for a model on the NPU.
    """

    data: bytes
    media_type: str
    at: int = 0
    digest: str = ""
    pixels: memoryview | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # JSON text, exactly as the model wrote it


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str = ""
    parameters: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    images: tuple[Image, ...] = ()  # sorted by `at`

    def parts(self) -> Iterator[str | Image]:
        """Text and images in their order; no text is empty."""
        start = 0
        for image in self.images:
            if text := self.content[start : image.at]:
                yield text
            start = max(start, image.at)
            yield image
        if text := self.content[start:]:
            yield text


def content_of(parts: Iterable[str | Image], separator: str) -> tuple[str, tuple[Image, ...]]:
    """A message's content and images from its parts; `separator` comes between texts that no image divides."""
    content, images, after_text = "", [], False
    for part in parts:
        if isinstance(part, Image):
            images.append(replace(part, at=len(content)))
            after_text = False
        else:
            content += separator + part if after_text else part
            after_text = True
    return content, tuple(images)


@dataclass(frozen=True, slots=True)
class Structure:
    """The form that an answer must have: any JSON object (`json`), or one that `text` describes.

    `text` is a JSON Schema, a regular expression, the allowed answers as a JSON list (`choice`), a grammar (`gbnf`,
    Lark's form as well), or for `calls` a JSON list of the ways to go on with a tool call that the prompt has begun:
    each a text and the schema of the arguments that follow it.
    """

    kind: StructureKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One question. Exactly one of `messages`, `prompt` (no template applied) and `tokens` is given."""

    model: str = ""
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    images: tuple[Image, ...] = ()  # beside a rendered prompt, one for each IMAGE_MARK in it
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"  # none, auto, required, or the name of one tool
    thinking: bool | None = None
    structure: Structure | None = None  # of the answer, behind its thoughts
    logprobs: int | None = None  # likeliest tokens to tell of at each place, for engines that can; None for no scores
    output: Output = "text"
    rows: int = 0  # how many of the last rows of `hidden` or `logits` are wanted; 0 means all
    lora: str = ""
    background: bool = False  # a client's own question, which no person waits for and none continues
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    reference: str = ""  # by which the client knows it; need not be unique


# ── what is answered ─────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Piece:
    """Text that came with one token. Not frozen: one is made a token, and freezing doubles its cost."""

    text: str
    token: int = -1
    kind: PieceKind = "answer"


@dataclass(frozen=True, slots=True)
class Array:
    """float32 rows of hidden states or logits; `data` is a view, valid as long as it is referenced."""

    output: Output
    rows: int
    width: int
    data: memoryview


class TokenLogprob(NamedTuple):
    """The text of a token with its log probability, and the likeliest ones at its place with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Scores of all tokens of the answer, from an engine that was asked for them; comes before the finish."""

    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What the request waits for: `queued` (done = people ahead), `loading`, `prefill` (done of total tokens)."""

    stage: Literal["queued", "loading", "prefill"]
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Ignored:
    """Fields of the request that the answer does without; comes before its first piece.

    `fields` are names of `Sampling` or `GenerationRequest`. `why` is the end of "The request sets NAME, which ...".
    """

    fields: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Usage:
    """`cached` prompt tokens were found in the KV cache and not computed again.

    `guessed`: the prompt's length is an estimate, and with it `cached`. Their difference, the tokens that were
    computed, is exact all the same where the engine `counted` them; where it did not, `cached` is unknown.
    Of the `images` of the prompt so many were `encoded`; the others' encodings had been kept.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    guessed: bool = False
    counted: bool = True
    images: int = 0
    encoded: int = 0

    @classmethod
    def guess(cls, prompt: str, completion: int) -> Usage:
        """Four bytes a token: near the truth for English and code as for Chinese."""
        return cls(-(-len(prompt.encode(errors="replace")) // 4), 0, completion, guessed=True, counted=False)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds; zero where the engine does not know. `prefill` includes the first token, `decode` follows it."""

    queued: float = 0.0
    load: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    encode: float = 0.0  # of images, before the prefill

    def tokens_per_second(self, completion: int) -> float:
        """Pace of an answer of so many tokens, whose first one took no part of `decode`; 0 where it is unknown."""
        return (completion - 1) / self.decode if self.decode > 0 and completion > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Finish:
    reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    stop: str = ""  # the client's stop string that ended it, where one did and the engine's text was read here
    end_token: int | None = None  # the id that ended it, where one did and the engine says so


TakePiece: TypeAlias = Callable[[Piece], bool]
GenerationEvent: TypeAlias = Piece | Array | Progress | Ignored | Logprobs | Finish


# ── who answers ──────────────────────────────────────────────────────────────────────────────────


class Tokenizer(ABC):
    """Text to token ids and back, for engines and hosts that work on ids."""

    @abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Vision:
    """The encoder beside a language model on the NPU, and the texts that stand around and for an image's tokens."""

    file: Path
    start: str = ""
    end: str = ""
    content: str = ""


class Model(ABC):
    """What is known of a model before it is loaded; a catalogue entry is one, a bare file is another."""

    domain: int | None = None  # the NPU address window that dispatch chose for this load; None leaves it to the engine

    @property
    @abstractmethod
    def id(self) -> str: ...

    @property
    @abstractmethod
    def engine(self) -> str:
        """Name of the backend that loads it: `rkllm`, `dummy`, `llamacpp`, `openai`, a plugin's."""

    @property
    @abstractmethod
    def path(self) -> Path | None: ...

    @property
    @abstractmethod
    def context(self) -> int:
        """Tokens of prompt and answer together; 0 lets the engine take the file's own limit."""

    @property
    def options(self) -> Mapping[str, JSON]:
        """Engine settings from the model's card; an engine refuses a key it does not know."""
        return {}

    @property
    def sampling(self) -> Sampling:
        """The model's defaults."""
        return Sampling()

    @property
    def reuse(self) -> bool:
        """Whether the KV cache may be kept between runs; off where reuse is known to corrupt (Gemma)."""
        return True

    @property
    def preload(self) -> Preload:
        """What a plugin wants in the model's process before the engine's own library."""
        return Preload()

    @property
    def vision(self) -> Vision | None:
        """What makes the model see, where the engine does not see by itself."""
        return None

    def tokenizer(self) -> Tokenizer | None:
        return None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model takes and can do; dispatch and faces decide by it.

    `sampling`, `images`, `tools` and `logprobs` narrow what its `EngineSpec` declares before anything is loaded.
    """

    chat: bool = False  # takes messages and tools itself; otherwise it wants a rendered prompt
    sampling: frozenset[str] = SAMPLING_NAMES  # settings by their names in `Sampling`, `seed` among them
    sampling_per_run: bool = True  # otherwise only the values that the model was loaded with
    images: bool = False
    tools: bool = True  # takes a request with tools, be it through a prompt that names them
    structure: bool = False  # holds an answer to the request's structure itself
    logprobs: bool = False
    hidden: bool = False
    logits: bool = False
    tokens: bool = True
    parallel: int = 1
    context: int = 0


class Engine(ABC):
    """One loaded model. Requests may be started together; an engine runs `capabilities.parallel` at a time.

    Closing the iterator of `generate` (or cancelling its reader) ends that run and no other.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    async def initialize(self) -> None:
        """Load the model, or raise the sentence that says why not. May be called once."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    async def warmup(self) -> None:
        """Bring the first answer's one-off costs forward."""
        async for _ in self.generate(GenerationRequest(prompt="Hi", max_tokens=1)):
            pass

    @abstractmethod
    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Pieces as they come, then one Finish; failures raise an `ExoRkllmError`."""

    def shortcut(self, request_id: str, take: TakePiece) -> None:  # noqa: B027 - what no engine has to do
        """From now on a piece of that run may be given to `take` while the reader of `generate` waits for the next one.
        It is yielded only where `take` returns False. An engine that does without yields every piece."""

    @abstractmethod
    async def abort(self, request_id: str) -> None:
        """End that run with reason `abort`; unknown ids are ignored, since a run may just have ended."""

    def queue_ahead(self, request: GenerationRequest) -> bool:
        """Have this request's run begin as soon as the present one ends; its `generate` follows, or `withdraw`. False
        where the engine does not, or where something else is to be done before."""
        return False

    def withdraw(self, request_id: str) -> None:  # noqa: B027 - most engines have nothing ahead
        """Take that run back; `settled` waits until it cannot begin any more, or has ended if it had begun."""

    # Seconds that `settled` may take; then the engine counts as lost. Longer than whatever the engine itself allows.
    settle_seconds = 60.0

    async def settled(self, request_id: str) -> None:  # noqa: B027 - most engines have nothing to wait for
        """Returns when a run whose iterator was closed early holds the hardware no longer."""

    @abstractmethod
    async def lost(self) -> ExoRkllmError:
        """Returns when this engine can serve no more, with the reason; for `close` the reason is a plain one."""

    @abstractmethod
    async def close(self) -> None:
        """Free everything, within seconds, whatever state the engine is in. May be called twice."""

    @property
    def runtime(self) -> tuple[str, str]:
        """Release of the vendor's library that the model was loaded with, and why that one; empty without one."""
        return "", ""

    @property
    def memory(self) -> int | None:
        """Bytes that unloading would free, None where it cannot be measured."""
        return None
