"""One run as the daemon orders it, and what the vendor session makes of it."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from exo_rkllm.runtime.values import (
    AudioEmbeds,
    EmbedInput,
    ImageEmbeds,
    Input,
    MultimodalInput,
    PromptInput,
    RunSpec,
    TokenInput,
    VideoEmbeds,
)

MODES = {"text": "generate", "hidden": "hidden", "logits": "logits"}


class ChildJob(Protocol):
    """A run as some child takes it. `length` is what it has to read before it answers, in tokens or more."""

    @property
    def output(self) -> str: ...

    @property
    def length(self) -> int: ...

    def to_json(self, fds: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PictureJob:
    """One picture, which is the job's one array: encoded as it came, or as the pixels of an encoder."""

    output: str  # pixels or encoding
    height: int = 0
    width: int = 0
    length: int = 0

    def to_json(self, fds: int) -> bytes:
        return json.dumps({"height": self.height, "width": self.width, "fds": fds}).encode()


@dataclass(frozen=True, slots=True)
class RunnerJob:
    """`prompt` or `tokens` or one array of kind `embed`; arrays of media go beside a prompt.

    Arrays travel as memory files beside the frame; here stands what they are: their kind and the figures of
    `ImageEmbeds`, `VideoEmbeds` and their kin.
    """

    prompt: str | None = None
    tokens: Sequence[int] | None = None
    arrays: Sequence[Mapping[str, Any]] = ()
    output: str = "text"
    rows: int = 0  # the last ones only; 0 means all. A row of logits has some 600 kB
    max_tokens: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    lora: str = ""
    save_prompt_cache: str = ""
    # A saved prompt to start from, in place of whatever the KV cache holds; if it cannot be loaded, all is computed.
    load_prompt_cache: str = ""
    load_after_abort: bool = False  # also where a run of this process was aborted
    # The runtime's own conversation with its own template; everything else relies on prefix reuse (reference 7.1).
    keep_history: bool = False
    clear_first: bool = False

    @property
    def length(self) -> int:
        return len(self.tokens) if self.tokens is not None else len(self.prompt or "")

    def to_json(self, fds: int) -> bytes:
        return json.dumps({**asdict(self), "fds": fds}).encode()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunnerJob:
        return cls(**{item.name: value[item.name] for item in fields(cls)})


def inputs_of(job: RunnerJob, fds: Sequence[int]) -> Input:
    if job.tokens is not None:
        return TokenInput(job.tokens)
    media = {array["kind"]: (_mapped(fd), _figures(array)) for array, fd in zip(job.arrays, fds, strict=True)}
    if "embed" in media:
        data, figures = media["embed"]
        return EmbedInput(data, **figures)
    if not media:
        return PromptInput(job.prompt or "")
    image, video, audio = (media.get(kind) for kind in ("image", "video", "audio"))
    return MultimodalInput(
        job.prompt or "",
        image and ImageEmbeds(image[0], **image[1]),
        video and VideoEmbeds(video[0], **video[1]),
        audio and AudioEmbeds(audio[0], **audio[1]),
    )


def spec_of(job: RunnerJob) -> RunSpec:
    return RunSpec(
        mode=MODES[job.output],  # type: ignore[arg-type]  # the table's values are the literals
        sampling=job.sampling,
        max_new_tokens=job.max_tokens,
        keep_history=job.keep_history,
        lora=job.lora,
        save_prompt_cache=job.save_prompt_cache,
    )


def _figures(array: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in array.items() if name != "kind"}


def _mapped(fd: int) -> memoryview:
    """Privately and writable: the library takes a plain pointer, and what it writes stays its own."""
    return memoryview(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
