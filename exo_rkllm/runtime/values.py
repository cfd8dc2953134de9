"""What a session is told and what it answers, as plain values: nothing here knows a layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Mode: TypeAlias = Literal["generate", "hidden", "logits"]
Role: TypeAlias = Literal["user", "tool"]


@dataclass(frozen=True, slots=True)
class LoadParams:
    """Everything that is fixed once the model is loaded. Defaults are the vendor's (reference 1.8)."""

    model_path: str
    # 0: what the file says of itself, else the converter's default of 4096 (reference 2.2).
    max_context_len: int = 0
    max_new_tokens: int = -1
    top_k: int = 40
    top_p: float = 0.9
    temperature: float = 0.8
    repeat_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    n_keep: int = -1
    skip_special_token: bool = True
    ignore_eos_token: bool = False
    # Ids that end an answer, whether the library knows them or not (see `ends.py`).
    end_tokens: tuple[int, ...] = ()
    is_async: bool = False
    base_domain_id: int = 0
    embed_flash: bool = True
    # CPU numbers of the threads; empty: what `socs.default_cpus` picks.
    cpus: tuple[int, ...] = ()
    n_batch: int = 1
    use_cross_attn: bool = False
    # Tags around an image: fixed at load before 1.3.0, and the default of each input since.
    img_start: str = ""
    img_end: str = ""
    img_content: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LoadParams:
        return cls(**{**value, **{name: tuple(value.get(name, ())) for name in ("cpus", "end_tokens")}})


# ── what a run starts from ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PromptInput:
    """Text, perhaps as the UTF-8 of it. The library applies its chat template to it and tokenises."""

    text: str | bytes
    role: Role = "user"
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids, used as they are."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class EmbedInput:
    """float32 rows, one a token, used as they are."""

    data: Buffer
    n_tokens: int


@dataclass(frozen=True, slots=True)
class ImageEmbeds:
    """Encoded images: float32, `count * n_tokens` rows. Tags: None means those of the load."""

    data: Buffer
    n_tokens: int
    count: int = 1
    width: int = 0
    height: int = 0
    start: str | None = None
    end: str | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class VideoEmbeds:
    """Encoded videos: float32, `count * frames * n_tokens` rows."""

    data: Buffer
    n_tokens: int
    frames: int
    count: int = 1
    width: int = 0
    height: int = 0
    start: str = ""
    end: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class AudioEmbeds:
    """Encoded audio: float32, `count * n_tokens` rows."""

    data: Buffer
    n_tokens: int
    count: int = 1
    start: str = ""
    end: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class MultimodalInput:
    """Text with a tag for each image, video or sound, and their embeddings."""

    text: str | bytes
    image: ImageEmbeds | None = None
    video: VideoEmbeds | None = None
    audio: AudioEmbeds | None = None
    role: Role = "user"
    thinking: bool = False


Input: TypeAlias = PromptInput | TokenInput | EmbedInput | MultimodalInput


@dataclass(frozen=True, slots=True)
class RunSpec:
    """How one run goes. A `max_new_tokens` of None, or a setting that `sampling` lacks, leaves what the load said.

    The session itself keeps to `max_new_tokens` where the library can't be told.
    `sampling` takes the sampling settings of LoadParams, `top_k` to `mirostat_eta`, by their names.
    """

    mode: Mode = "generate"
    sampling: Mapping[str, float] = field(default_factory=dict)
    max_new_tokens: int | None = None
    # The library's own conversation: the cache is kept after the run and the next prompt is added to it.
    keep_history: bool = False
    lora: str = ""
    # The KV cache is written here at the end of the run.
    save_prompt_cache: str = ""


# ── what comes back ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RunStats:
    """Figures of one run. None where nobody knows.

    `source` says who counted: the runtime, or we, because it has no statistics (before 1.2.1) or dropped them (abort).
    What we measure ourselves includes the time in the callbacks.
    """

    prefill_tokens: int | None = None
    prefill_ms: float | None = None
    generate_tokens: int = 0
    generate_ms: float | None = None
    # Peak of the whole process, not of this model (reference 2.5).
    memory_mb: float | None = None
    aborted: bool = False
    paused: bool = False
    # What ended the answer where it had an end of its own; None where the library or an abort ended it.
    finish: Literal["stop", "length"] | None = None
    # The id that ended the answer: one of the load's, or of a last event without text.
    end_token: int | None = None
    source: Literal["runtime", "measured"] = "runtime"

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What is known of a loaded model: the library's own lines, and what we set. None where nothing was printed."""

    release: str
    generation: str
    context: int
    cpus: tuple[int, ...]
    supports: tuple[str, ...]
    driver: str | None = None
    platform: str | None = None
    toolkit: str | None = None
    max_context_limit: int | None = None
    npu_cores: int | None = None
    target_platform: str | None = None
    dtype: str | None = None
    vocab_size: int | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    # Sentences of the library that did not stop it, such as a driver that is too old.
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
