"""Values into structs of one generation. What the generation has no field for is refused, never dropped."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from exo_rkllm.errors import UsageError
from exo_rkllm.runtime.abi.shared import (
    SAMPLING_NAMES,
    Generation,
    InferMode,
    InputType,
    RKLLMLoraParam,
    RKLLMPromptCacheParam,
    RKLLMSamplingParam,
)
from exo_rkllm.runtime.features import Features
from exo_rkllm.runtime.memory import assign, floats, text, token_ids, zeroed
from exo_rkllm.runtime.values import (
    AudioEmbeds,
    EmbedInput,
    ImageEmbeds,
    Input,
    LoadParams,
    Mode,
    MultimodalInput,
    PromptInput,
    RunSpec,
    TokenInput,
    VideoEmbeds,
)

# Load parameters that not every generation has: the feature that must be there once they differ from their default.
GATED: Mapping[str, str] = {
    "n_keep": "n_keep",
    "ignore_eos_token": "ignore_eos_token",
    "embed_flash": "embed_flash",
    "cpus": "cpus",
    "n_batch": "n_batch",
    "use_cross_attn": "cross_attention",
}
EXTENDED = ("base_domain_id", "embed_flash", "n_batch", "use_cross_attn")
TAGS = ("img_start", "img_end", "img_content")
APART = frozenset({"model_path", "cpus", "end_tokens", *EXTENDED, *TAGS})
MODES: Mapping[Mode, InferMode] = {
    "generate": InferMode.GENERATE,
    "hidden": InferMode.GET_LAST_HIDDEN_LAYER,
    "logits": InferMode.GET_LOGITS,
}


def _has(struct: ctypes.Structure, name: str) -> bool:
    return hasattr(type(struct), name)


# ── loading ──────────────────────────────────────────────────────────────────────────────────────


def check_params(params: LoadParams, features: Features) -> None:
    if params.n_batch < 1:
        raise UsageError(f"n_batch {params.n_batch} is no number of inputs.", "Give 1 or more")
    for field in fields(LoadParams):
        if field.name in GATED and getattr(params, field.name) != field.default:
            features.require(GATED[field.name])


def param_of(generation: Generation, params: LoadParams, context: int, cpus: Sequence[int]) -> ctypes.Structure:
    """RKLLMParam with every field set by us; `context` and `cpus` are what the session settled on."""
    param = zeroed(generation.param)[0]
    extend = param.extend_param
    # os.fsencode: a path is bytes to the library, in whatever encoding the file system has them.
    param.model_path = os.fsencode(text_free_of_nul(params.model_path))
    for field in fields(LoadParams):
        if field.name not in APART and _has(param, field.name):
            value = context if field.name == "max_context_len" else getattr(params, field.name)
            assign(param, field.name, value)
    for name in TAGS:
        if _has(param, name):
            setattr(param, name, text(name, getattr(params, name)))
    for name in EXTENDED:
        if _has(extend, name):
            assign(extend, name, getattr(params, name))
    if _has(extend, "enabled_cpus_mask"):
        assign(extend, "enabled_cpus_num", len(set(cpus)))
        assign(extend, "enabled_cpus_mask", sum(1 << cpu for cpu in set(cpus)), "The mask of CPUs")
    return param


def text_free_of_nul(path: str) -> str:
    if "\0" in path:
        raise UsageError(f"The path {path!r} holds a NUL character.")
    return path


# ── running ──────────────────────────────────────────────────────────────────────────────────────


def inputs_of(
    generation: Generation, features: Features, params: LoadParams, inputs: Sequence[Input]
) -> ctypes.Array[ctypes.Structure]:
    """An array at the generation's exact stride; everything it points to lives as long as the array."""
    array = zeroed(generation.input, len(inputs))
    for place, value in zip(array, inputs, strict=True):
        _fill_input(place, value, features, params)
    return array


def _fill_input(place: ctypes.Structure, value: Input, features: Features, params: LoadParams) -> None:
    role, thinking = "user", False
    if isinstance(value, PromptInput | MultimodalInput):
        role, thinking = value.role, value.thinking
    if role != "user":
        features.require("role")
    if thinking:
        features.require("thinking")
    if _has(place, "role"):
        place.role = text("The role", role)
        place.enable_thinking = thinking
    if isinstance(value, PromptInput):
        place.input_type = InputType.PROMPT
        place.prompt_input = text("The prompt", value.text)
    elif isinstance(value, TokenInput):
        place.input_type = InputType.TOKEN
        ids = token_ids(value.ids)
        place.token_input.input_ids = ids
        place.token_input.n_tokens = len(ids)
    elif isinstance(value, EmbedInput):
        place.input_type = InputType.EMBED
        place.embed_input.embed = floats("The embedding", value.data, value.n_tokens)
        place.embed_input.n_tokens = value.n_tokens
    else:
        place.input_type = InputType.MULTIMODAL
        _fill_multimodal(place.multimodal_input, value, features, params)


def _fill_multimodal(place: Any, value: MultimodalInput, features: Features, params: LoadParams) -> None:
    if value.image is None and value.video is None and value.audio is None:
        raise UsageError("A multimodal input without image, video and audio.", "Text alone goes as a PromptInput.")
    place.prompt = text("The prompt", value.text)
    if value.image is not None:
        _fill_image(place, value.image, features, params)
    if value.video is not None:
        features.require("video")
        _fill_video(place.video, value.video)
    if value.audio is not None:
        features.require("audio")
        _fill_audio(place.audio, value.audio)


def _fill_image(place: Any, image: ImageEmbeds, features: Features, params: LoadParams) -> None:
    if (image.count, image.width, image.height) != (1, 0, 0):
        features.require("image_sizes")
    own = {"start": image.start, "end": image.end, "content": image.content}
    tags = {name: getattr(params, f"img_{name}") if tag is None else tag for name, tag in own.items()}
    if any(tag != getattr(params, f"img_{name}") for name, tag in tags.items()):
        features.require("tags_per_input")
    target = place.image if _has(place, "image") else place
    target.image_embed = floats("The image", image.data, image.count * image.n_tokens)
    assign(target, "n_image_tokens", image.n_tokens)
    if features.has("image_sizes"):
        assign(target, "n_image", image.count)
        assign(target, "image_width", image.width)
        assign(target, "image_height", image.height)
    if features.has("tags_per_input"):
        for name, tag in tags.items():
            setattr(target, f"image_{name}", text("An image tag", tag))


def _fill_video(target: Any, video: VideoEmbeds) -> None:
    target.video_embed = floats("The video", video.data, video.count * video.frames * video.n_tokens)
    assign(target, "n_frame_tokens", video.n_tokens)
    assign(target, "n_frame_per_video", video.frames)
    assign(target, "n_video", video.count)
    assign(target, "frame_width", video.width)
    assign(target, "frame_height", video.height)
    for name in ("start", "end", "content"):
        setattr(target, f"video_{name}", text("A video tag", getattr(video, name)))


def _fill_audio(target: Any, audio: AudioEmbeds) -> None:
    target.audio_embed = floats("The audio", audio.data, audio.count * audio.n_tokens)
    assign(target, "n_audio_tokens", audio.n_tokens)
    assign(target, "n_audio", audio.count)
    for name in ("start", "end", "content"):
        setattr(target, f"audio_{name}", text("An audio tag", getattr(audio, name)))


def infer_param_of(generation: Generation, features: Features, params: LoadParams, spec: RunSpec) -> ctypes.Structure:
    """RKLLMInferParam for one run."""
    if spec.mode == "logits":
        features.require("logits")
    if spec.keep_history:
        features.require("keep_history")
    infer = zeroed(generation.infer_param)[0]
    infer.mode = MODES[spec.mode]
    if _has(infer, "keep_history"):
        infer.keep_history = int(spec.keep_history)
    if spec.lora:
        adapter = RKLLMLoraParam(text("The adapter's name", spec.lora))
        infer.lora_params = ctypes.pointer(adapter)
    if spec.save_prompt_cache:
        path = os.fsencode(text_free_of_nul(spec.save_prompt_cache))
        infer.prompt_cache_params = ctypes.pointer(RKLLMPromptCacheParam(1, path))
    _fill_sampling(infer, features, params, spec.sampling)
    if features.has("max_new_tokens_per_run"):
        limit = params.max_new_tokens if spec.max_new_tokens is None else spec.max_new_tokens
        # Always said: what 0 means in this field, nobody has written down.
        assign(infer, "max_new_tokens", limit)
    return infer


def _fill_sampling(infer: Any, features: Features, params: LoadParams, wanted: Mapping[str, float]) -> None:
    """What equals the load needs no field, so that a caller may name its sampling on every runtime."""
    if unknown := sorted(wanted.keys() - set(SAMPLING_NAMES)):
        raise UsageError(f"The runtime has no sampling setting {unknown[0]}.", f"It has: {', '.join(SAMPLING_NAMES)}.")
    if all(value == getattr(params, name) for name, value in wanted.items()):
        return
    features.require("sampling_per_run")
    sampling = zeroed(RKLLMSamplingParam)[0]
    for name in SAMPLING_NAMES:
        assign(sampling, name, wanted.get(name, getattr(params, name)))
    infer.sampling_params = ctypes.pointer(sampling)
