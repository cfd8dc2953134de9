"""What goes into the library and what comes out, as plain values that know no pointer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Sampling:
    """None leaves the vendor's default (reference 1.8)."""

    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None


@dataclass(frozen=True, slots=True)
class Tags:
    """What surrounds media in the prompt; the vendor's words depend on the model family."""

    start: str = ""
    end: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class LoadParams:
    """Everything that is fixed when a model is loaded. A context of 0 takes the most the file allows."""

    model_path: str
    max_context_len: int = 0
    max_new_tokens: int = -1
    n_keep: int = -1
    sampling: Sampling = Sampling()
    skip_special_token: bool = True
    ignore_eos_token: bool = False
    base_domain_id: int = 0
    embed_flash: bool = True
    cpus: tuple[int, ...] = ()
    n_batch: int = 1
    use_cross_attn: bool = False
    image_tags: Tags = Tags()


@dataclass(frozen=True, slots=True)
class PromptInput:
    """UTF-8 text; the chat template that is in force is applied to it."""

    text: str
    role: str = "user"
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class TokenInput:
    ids: Sequence[int]
    role: str = "user"
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class EmbedInput:
    """`n_tokens` rows of float32."""

    data: memoryview
    n_tokens: int
    role: str = "user"
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Media:
    """Embeddings of `count` images, videos or audio clips of `n_tokens` each; a video has `frames` of them."""

    data: memoryview
    n_tokens: int
    count: int = 1
    frames: int = 1
    width: int = 0
    height: int = 0
    tags: Tags = Tags()


@dataclass(frozen=True, slots=True)
class MultimodalInput:
    """Text with one `<image>` (or `<video>`) tag for each piece of media."""

    text: str
    image: Media | None = None
    video: Media | None = None
    audio: Media | None = None
    role: str = "user"
    thinking: bool = False


Input: TypeAlias = PromptInput | TokenInput | EmbedInput | MultimodalInput


@dataclass(frozen=True, slots=True)
class RunSpec:
    """How one run differs from what was loaded."""

    mode: Literal["generate", "hidden", "logits"] = "generate"
    sampling: Sampling | None = None
    max_new_tokens: int | None = None
    keep_history: bool = False
    lora: str = ""
    save_prompt_cache: str = ""


@dataclass(frozen=True, slots=True)
class RunStats:
    """Figures of a finished run. Before 1.2.1 the library gives none: counts are ours, `measured` is False."""

    tokens: int = 0
    prefill_tokens: int = 0
    prefill_ms: float = 0.0
    generate_tokens: int = 0
    generate_ms: float = 0.0
    memory_mb: float = 0.0
    measured: bool = False


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Encoder state for converted encoder-decoder models (reference 2.14)."""

    keys: memoryview
    values: memoryview
    mask: memoryview
    positions: Sequence[int] = field(default=())
