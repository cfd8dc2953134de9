"""Values into the vendor's structs, in the layout of one generation.

Structs are zeroed and have zeroed slack behind them, so that a field we do not know of reads as nothing. Everything
a struct points to is kept in `Filled.kept` for as long as the struct is in use.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import Structure, addressof, c_char_p, c_int32, cast, pointer, sizeof
from dataclasses import fields
from typing import Any

from exo_rkllm.errors import LoadError, UsageError
from exo_rkllm.runtime.abi import common
from exo_rkllm.runtime.library import Library
from exo_rkllm.runtime.values import (
    CrossAttention,
    EmbedInput,
    Input,
    LoadParams,
    Media,
    MultimodalInput,
    PromptInput,
    RunSpec,
    Sampling,
    TokenInput,
)

SLACK = 256
# What rkllm_createDefaultParam would fill in (reference 1.8); it is never called, its struct may be larger than ours.
DEFAULTS = Sampling(
    top_k=40,
    top_p=0.9,
    temperature=0.8,
    repeat_penalty=1.1,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    mirostat=0,
    mirostat_tau=5.0,
    mirostat_eta=0.1,
)
MODES = {
    "generate": common.Mode.GENERATE,
    "hidden": common.Mode.LAST_HIDDEN_LAYER,
    "logits": common.Mode.LOGITS,
}
# The vendor's default threads: the big cores of an 8-CPU SoC, all of a 4-CPU one (reference 5.2).
BIG_CORES = {8: (4, 5, 6, 7), 4: (0, 1, 2, 3)}
MOST_NPU_CORES = 3


class Filled:
    """A struct with slack, and what it points to."""

    def __init__(self, layout: type[Structure], count: int = 1) -> None:
        self._buffer = ctypes.create_string_buffer(sizeof(layout) * count + SLACK)
        self.items: Any = (layout * count).from_buffer(self._buffer)
        self.kept: list[Any] = [self._buffer]

    @property
    def struct(self) -> Any:
        return self.items[0]

    @property
    def reference(self) -> Any:
        return pointer(self.items[0])

    def text(self, value: str) -> bytes:
        """C strings end at a NUL; one inside would silently cut what the user said."""
        encoded = value.encode("utf-8", "surrogatepass")
        if b"\0" in encoded:
            raise UsageError("The text holds a NUL character, which the runtime cannot take.", "Remove it.")
        self.kept.append(encoded)
        return encoded

    def floats(self, view: memoryview) -> int:
        """Address of bytes that stay alive and in place; copied only where they are read-only and not ours."""
        flat = view.cast("B")
        block = (
            (ctypes.c_char * len(flat)).from_buffer(flat)
            if not flat.readonly
            else ctypes.create_string_buffer(bytes(flat), len(flat))
        )
        self.kept.append(block)
        return addressof(block)


def default_cpus(allowed: Sequence[int]) -> tuple[int, ...]:
    """Threads for the model where nobody chose: the board's big cores, or what of them this process may use.

    No fewer than the model's NPU cores, or the library refuses; on a machine that is no board any four will do.
    """
    wanted = BIG_CORES.get(os.cpu_count() or 0, BIG_CORES[4])
    usable = tuple(cpu for cpu in wanted if cpu in allowed)
    return usable if len(usable) >= MOST_NPU_CORES else wanted


def load_params(library: Library, params: LoadParams) -> Filled:
    filled = Filled(library.layout.Param)
    struct = filled.struct
    struct.model_path = filled.text(params.model_path)
    struct.max_context_len, struct.max_new_tokens = params.max_context_len, params.max_new_tokens
    _sampling(struct, params.sampling)
    struct.skip_special_token = params.skip_special_token
    if params.ignore_eos_token:
        library.need("going on after the end token")
        struct.ignore_eos_token = True
    if library.supports("n_keep"):
        struct.n_keep = params.n_keep
    elif params.n_keep >= 0:
        library.need("n_keep", "n_keep")
    _tags(library, filled, params)
    _extend(library, struct.extend_param, params)
    return filled


def _sampling(struct: Any, wanted: Sampling) -> None:
    for known in fields(Sampling):
        value = getattr(wanted, known.name)
        setattr(struct, known.name, getattr(DEFAULTS, known.name) if value is None else value)


def _tags(library: Library, filled: Filled, params: LoadParams) -> None:
    """Up to 1.2.3 the tags are set at load, and the vendor's default is empty, not NULL."""
    if hasattr(filled.struct, "img_start"):
        tags = params.image_tags
        filled.struct.img_start, filled.struct.img_end = filled.text(tags.start), filled.text(tags.end)
        filled.struct.img_content = filled.text(tags.content)


def _extend(library: Library, extend: Any, params: LoadParams) -> None:
    extend.base_domain_id = params.base_domain_id
    if hasattr(extend, "embed_flash"):
        cpus = params.cpus or default_cpus(sorted(os.sched_getaffinity(0)))
        if any(not 0 <= cpu < 32 for cpu in cpus):
            raise LoadError(
                f"CPU {max(cpus)} is not one that the runtime can use.", "Leave cpus out of the model's model.toml"
            )
        extend.embed_flash = int(params.embed_flash)
        extend.enabled_cpus_num = len(set(cpus))
        extend.enabled_cpus_mask = sum(1 << cpu for cpu in set(cpus))
    if hasattr(extend, "n_batch"):
        extend.n_batch, extend.use_cross_attn = params.n_batch, int(params.use_cross_attn)
    else:
        if params.n_batch > 1:
            library.need("several inputs at once")
        if params.use_cross_attn:
            library.need("cross attention")


def run_inputs(library: Library, inputs: Sequence[Input]) -> Filled:
    filled = Filled(library.layout.Input, len(inputs))
    for struct, value in zip(filled.items, inputs, strict=True):
        if hasattr(struct, "role"):
            struct.role = filled.text(value.role)
            struct.enable_thinking = value.thinking
        elif value.role != "user" or value.thinking:
            library.need("roles", "A role or a thinking switch")
        _input(library, filled, struct, value)
    return filled


def _input(library: Library, filled: Filled, struct: Any, value: Input) -> None:
    if isinstance(value, PromptInput):
        struct.input_type = common.InputType.PROMPT
        struct.prompt_input = filled.text(value.text)
    elif isinstance(value, TokenInput):
        struct.input_type = common.InputType.TOKEN
        ids = (c_int32 * len(value.ids))(*value.ids)
        filled.kept.append(ids)
        struct.token_input.input_ids, struct.token_input.n_tokens = ids, len(value.ids)
    elif isinstance(value, EmbedInput):
        struct.input_type = common.InputType.EMBED
        struct.embed_input.embed, struct.embed_input.n_tokens = filled.floats(value.data), value.n_tokens
    else:
        struct.input_type = common.InputType.MULTIMODAL
        _multimodal(library, filled, struct.multimodal_input, value)


def _multimodal(library: Library, filled: Filled, struct: Any, value: MultimodalInput) -> None:
    prompt = ctypes.create_string_buffer(filled.text(value.text))
    filled.kept.append(prompt)
    struct.prompt = cast(prompt, c_char_p)
    if value.image is not None:
        _image(library, filled, struct, value.image)
    if value.video is not None:
        library.need("video")
        _video(filled, struct.video, value.video)
    if value.audio is not None:
        library.need("audio")
        audio = struct.audio
        audio.audio_embed, audio.n_audio_tokens = filled.floats(value.audio.data), value.audio.n_tokens
        audio.n_audio = value.audio.count
        _media_tags(filled, audio, "audio", value.audio)


def _image(library: Library, filled: Filled, struct: Any, image: Media) -> None:
    target = struct.image if hasattr(struct, "image") else struct
    target.image_embed, target.n_image_tokens = filled.floats(image.data), image.n_tokens
    if hasattr(target, "n_image"):
        target.n_image, target.image_width, target.image_height = image.count, image.width, image.height
    elif image.count > 1 or image.width or image.height:
        library.need("image sizes", "More than one image, or an image's size,")
    if hasattr(target, "image_start"):
        _media_tags(filled, target, "image", image)


def _video(filled: Filled, target: Any, video: Media) -> None:
    target.video_embed, target.n_frame_tokens = filled.floats(video.data), video.n_tokens
    target.n_frame_per_video, target.n_video = video.frames, video.count
    target.frame_width, target.frame_height = video.width, video.height
    _media_tags(filled, target, "video", video)


def _media_tags(filled: Filled, target: Any, kind: str, media: Media) -> None:
    for part in ("start", "end", "content"):
        setattr(target, f"{kind}_{part}", filled.text(getattr(media.tags, part)))


def run_params(library: Library, spec: RunSpec) -> Filled:
    filled = Filled(library.layout.InferParam)
    struct = filled.struct
    if spec.mode == "logits":
        library.need("logits")
    struct.mode = MODES[spec.mode]
    if spec.lora:
        struct.lora_params = _kept(filled, common.LoraParam(filled.text(spec.lora)))
    if spec.save_prompt_cache:
        struct.prompt_cache_params = _kept(filled, common.PromptCacheParam(1, filled.text(spec.save_prompt_cache)))
    if hasattr(struct, "keep_history"):
        struct.keep_history = int(spec.keep_history)
    elif spec.keep_history:
        library.need("history")
    if spec.sampling is not None:
        library.need("sampling per run")
        sampling = library.layout.SamplingParam()
        _sampling(sampling, spec.sampling)
        struct.sampling_params = _kept(filled, sampling)
    if hasattr(struct, "max_new_tokens"):
        struct.max_new_tokens = -1 if spec.max_new_tokens is None else spec.max_new_tokens
    elif spec.max_new_tokens is not None:
        library.need("max_new_tokens per run", "A limit of new tokens per run")
    return filled


def cross_attention(filled: Filled, state: CrossAttention) -> None:
    struct = filled.struct
    struct.encoder_k_cache, struct.encoder_v_cache = filled.floats(state.keys), filled.floats(state.values)
    struct.encoder_mask = filled.floats(state.mask)
    positions = (c_int32 * len(state.positions))(*state.positions)
    filled.kept.append(positions)
    struct.encoder_pos, struct.num_tokens = positions, len(state.positions)


def _kept(filled: Filled, struct: Structure) -> Any:
    filled.kept.append(struct)
    return pointer(struct)
