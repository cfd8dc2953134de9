"""One run as the daemon orders it, and what the vendor session makes of it."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
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

# Prompts of more characters than this travel beside the frame: nobody writes them as JSON, and nobody reads that.
INLINE = 8192
PROMPT = "prompt"
MODES = {"text": "generate", "hidden": "hidden", "logits": "logits"}


class ChildJob(Protocol):
    """A run as some child takes it. `length` is what it has to read before it answers, in tokens or more."""

    @property
    def output(self) -> str: ...

    @property
    def length(self) -> int: ...

    def packed(self, arrays: Sequence[memoryview]) -> tuple[bytes, Sequence[memoryview]]:
        """The frame's payload, and what travels beside it as memory files: the arrays, and whatever else is long."""


@dataclass(frozen=True, slots=True)
class PictureJob:
    """One picture, which is the job's one array: encoded as it came, or as the pixels of an encoder."""

    output: str  # pixels or encoding
    height: int = 0
    width: int = 0
    length: int = 0

    def packed(self, arrays: Sequence[memoryview]) -> tuple[bytes, Sequence[memoryview]]:
        return json.dumps({"height": self.height, "width": self.width, "fds": len(arrays)}).encode(), arrays


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

    def packed(self, arrays: Sequence[memoryview]) -> tuple[bytes, Sequence[memoryview]]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if len(self.prompt or "") > INLINE:
            with suppress(UnicodeEncodeError):  # the child says what is wrong with it
                arrays = [memoryview((self.prompt or "").encode()), *arrays]
                values |= {"prompt": None, "arrays": [{"kind": PROMPT}, *self.arrays]}
        return json.dumps({**values, "fds": len(arrays)}).encode(), arrays

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunnerJob:
        return cls(**{item.name: value[item.name] for item in fields(cls)})


def inputs_of(job: RunnerJob, fds: Sequence[int]) -> Input:
    if job.tokens is not None:
        return TokenInput(job.tokens)
    prompt: str | bytes = job.prompt or ""
    if job.arrays and job.arrays[0]["kind"] == PROMPT:
        prompt = _read(fds[0])
        job, fds = replace(job, arrays=job.arrays[1:]), fds[1:]
    media = {array["kind"]: (_mapped(fd), _figures(array)) for array, fd in zip(job.arrays, fds, strict=True)}
    if "embed" in media:
        data, figures = media["embed"]
        return EmbedInput(data, **figures)
    if not media:
        return PromptInput(prompt)
    image, video, audio = (media.get(kind) for kind in ("image", "video", "audio"))
    return MultimodalInput(
        prompt,
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


def _read(fd: int) -> bytes:
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as file:
        return file[:]


def _mapped(fd: int) -> memoryview:
    """Privately and writable: the library takes a plain pointer, and what it writes stays its own."""
    return memoryview(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
