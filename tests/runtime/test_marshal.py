"""Values end where the vendor's header has their fields, and a library that reads too far finds zeros."""

from __future__ import annotations

import array
import ctypes
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from exo_rkllm.runtime import abi, marshal
from exo_rkllm.runtime.features import Features
from exo_rkllm.runtime.memory import SLACK
from exo_rkllm.runtime.session import (
    AudioEmbeds,
    EmbedInput,
    ImageEmbeds,
    Input,
    LoadParams,
    MultimodalInput,
    PromptInput,
    RunSpec,
    TokenInput,
    VideoEmbeds,
)
from tests.runtime import abi_table
from tests.runtime.abi_check import GENERATIONS

every = pytest.mark.parametrize("release", GENERATIONS)
CODES = {"float": "<f", "bool": "<?", "int8_t": "<b", "uint8_t": "<B", "uint32_t": "<I", "size_t": "<Q"}
# Each value differs, so that a field in the wrong place cannot look right.
PARAMS = LoadParams(
    "/models/m.rkllm", max_new_tokens=101, top_k=102, n_keep=103, top_p=0.25, temperature=0.5, repeat_penalty=1.25,
    frequency_penalty=0.125, presence_penalty=0.0625, mirostat=2, mirostat_tau=6.5, mirostat_eta=0.75, base_domain_id=3,
    img_start="<s>", img_end="<e>", img_content="<c>", skip_special_token=False,
)  # fmt: skip
SAMPLING = {"top_k": 9, "top_p": 0.375, "temperature": 1.5, "repeat_penalty": 1.75, "frequency_penalty": 0.875,
            "presence_penalty": 0.625, "mirostat": 1, "mirostat_tau": 7.5, "mirostat_eta": 0.0078125}  # fmt: skip


def in_memory(release: str, name: str, address: int) -> Mapping[str, Any]:
    """The struct at an address, read by the vendor's offsets and not by our classes; strings and structs followed."""
    layouts = abi_table.layouts(release)
    found: dict[str, Any] = {}
    for field in layouts[name].fields:
        size = abi_table.width(field.type, layouts)
        data = ctypes.string_at(address + field.offset, size)
        if field.type in {"const char*", "char*"}:
            (pointer,) = struct.unpack("<Q", data)
            found[field.name] = ctypes.string_at(pointer) if pointer else None
        elif field.type in layouts:
            found[field.name] = in_memory(release, field.type, address + field.offset)
        elif "[" in field.type:
            found[field.name] = set(data)
        elif size == 8:
            (found[field.name],) = struct.unpack("<Q", data)
        else:
            (found[field.name],) = struct.unpack(CODES.get(field.type, "<i"), data)
    return found


def slack_of(value: Any, array_of: Any) -> bytes:
    """What lies behind the last struct of an array."""
    return ctypes.string_at(ctypes.addressof(value) + ctypes.sizeof(array_of), SLACK)


# ── loading ──────────────────────────────────────────────────────────────────────────────────────


@every
def test_parameters_of_the_load_end_where_the_vendor_has_them(release: str) -> None:
    generation, features = abi.load(release), Features(release)
    params = replace(
        PARAMS,
        ignore_eos_token=features.has("ignore_eos_token"),
        embed_flash=not features.has("embed_flash"),
        n_batch=4 if features.has("n_batch") else 1,
        use_cross_attn=features.has("cross_attention"),
    )
    param = marshal.param_of(generation, params, 2048, (4, 5, 7))
    found = in_memory(release, "RKLLMParam", ctypes.addressof(param))
    extend = found["extend_param"]
    wanted = {
        **{name: getattr(params, name) for name in LoadParams.__slots__ if name in found},
        "model_path": b"/models/m.rkllm",
        "max_context_len": 2048,
        "extend_param": {name: getattr(params, name) for name in LoadParams.__slots__ if name in extend},
    }
    tags = {"img_start": b"<s>", "img_end": b"<e>", "img_content": b"<c>"}
    wanted |= {tag: text for tag, text in tags.items() if tag in found}
    if features.has("cpus"):
        wanted["extend_param"] |= {"enabled_cpus_num": 3, "enabled_cpus_mask": 0b10110000}
    wanted["extend_param"]["reserved"] = {0}
    assert found == wanted


@every
def test_empty_tags_are_empty_strings_and_not_null(release: str) -> None:
    """As the library's own defaults are (reference 1.8)."""
    param = marshal.param_of(abi.load(release), LoadParams("m"), 512, ())
    found = in_memory(release, "RKLLMParam", ctypes.addressof(param))
    assert {found.get(tag, b"") for tag in ("img_start", "img_end", "img_content")} == {b""}


@every
def test_zeros_lie_behind_the_parameters(release: str) -> None:
    param: Any = marshal.param_of(abi.load(release), PARAMS, 2048, (4, 5, 6, 7))
    assert slack_of(param, type(param)) == bytes(SLACK)


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────


def filled(release: str, *inputs: Input) -> Any:
    return marshal.inputs_of(abi.load(release), Features(release), PARAMS, inputs)


def read(release: str, found: Any, index: int = 0) -> Mapping[str, Any]:
    stride = abi_table.layouts(release)["RKLLMInput"].size
    return in_memory(release, "RKLLMInput", ctypes.addressof(found) + index * stride)


@every
def test_prompts_lie_one_stride_apart(release: str) -> None:
    found = filled(release, PromptInput("one"), PromptInput("two"))
    assert [read(release, found, index)["prompt_input"] for index in (0, 1)] == [b"one", b"two"]
    assert slack_of(found, type(found)) == bytes(SLACK)


@every
def test_role_and_thinking_stand_in_front_where_there_are_such(release: str) -> None:
    features = Features(release)
    plain = read(release, filled(release, PromptInput("x")))
    if not features.has("role"):
        assert "role" not in plain
        return
    assert (plain["role"], plain["enable_thinking"], plain["input_type"]) == (b"user", False, 0)
    tool = read(release, filled(release, PromptInput("x", role="tool", thinking=True)))
    assert (tool["role"], tool["enable_thinking"]) == (b"tool", True)


@every
def test_ids_and_embeddings_are_handed_over_with_their_count(release: str) -> None:
    found = read(release, kept := filled(release, TokenInput([7, -1, 1 << 30])))
    assert (found["input_type"], found["token_input"]["n_tokens"]) == (1, 3)
    assert list((ctypes.c_int32 * 3).from_address(found["token_input"]["input_ids"])) == [7, -1, 1 << 30]
    rows = array.array("f", [1.5, 2.5])
    found = read(release, kept := filled(release, EmbedInput(memoryview(rows), 1)))
    assert (found["input_type"], found["embed_input"]["n_tokens"]) == (2, 1)
    assert found["embed_input"]["embed"] == rows.buffer_info()[0]  # not copied
    assert kept


def floats(address: int, count: int) -> list[float]:
    return list((ctypes.c_float * count).from_address(address))


@every
def test_an_image_ends_where_the_vendor_has_it(release: str) -> None:
    features = Features(release)
    many = features.has("image_sizes")
    image = ImageEmbeds(
        array.array("f", [0.5] * (12 if many else 4)).tobytes(), 2, 3 if many else 1,
        width=448 if many else 0, height=336 if many else 0,
        start="<own>" if features.has("tags_per_input") else None,
    )  # fmt: skip
    kept = filled(release, MultimodalInput("<image>", image))
    found = read(release, kept)["multimodal_input"]
    inner = "image." if features.has("tags_per_input") else ""
    assert found["prompt"] == b"<image>"
    assert floats(found[f"{inner}image_embed"], 4) == [0.5] * 4
    assert found[f"{inner}n_image_tokens"] == 2
    if many:
        sizes = [found[f"{inner}{name}"] for name in ("n_image", "image_width", "image_height")]
        assert sizes == [3, 448, 336]
    if inner:
        tags = [found[f"image.image_{name}"] for name in ("start", "end", "content")]
        assert tags == [b"<own>", b"<e>", b"<c>"]


@pytest.mark.parametrize("release", GENERATIONS[4:])
def test_a_video_ends_where_the_vendor_has_it(release: str) -> None:
    video = VideoEmbeds(bytes(4 * 24), 2, 3, 4, width=64, height=48, start="<a>", end="<b>", content="<d>")
    kept = filled(release, MultimodalInput("<video>", video=video))
    found = read(release, kept)["multimodal_input"]
    assert found["video.video_embed"]
    figures = ("n_frame_tokens", "n_frame_per_video", "n_video", "frame_width", "frame_height")
    assert [found[f"video.{name}"] for name in figures] == [2, 3, 4, 64, 48]
    assert [found[f"video.video_{name}"] for name in ("start", "end", "content")] == [b"<a>", b"<b>", b"<d>"]
    assert not found["image.image_embed"]


def test_audio_ends_where_the_vendor_has_it() -> None:
    audio = AudioEmbeds(bytes(4 * 6), 2, 3, start="<a>", end="<b>", content="<d>")
    kept = filled("1.3.1", MultimodalInput("<audio>", audio=audio))
    found = read("1.3.1", kept)["multimodal_input"]
    assert found["audio.audio_embed"]
    assert [found[f"audio.{name}"] for name in ("n_audio_tokens", "n_audio")] == [2, 3]
    assert [found[f"audio.audio_{name}"] for name in ("start", "end", "content")] == [b"<a>", b"<b>", b"<d>"]


@every
@pytest.mark.parametrize("name", ["RKLLMParam", "RKLLMInput", "RKLLMInferParam"])
def test_the_slack_covers_what_any_other_generation_would_read_too_far(release: str, name: str) -> None:
    """A library that is not what it says finds zeros and NULL behind our structs, not our heap (reference 1.10)."""
    largest = max(abi_table.sizes(other)[name] for other in GENERATIONS)
    assert largest <= abi_table.sizes(release)[name] + SLACK


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────


@every
def test_what_a_run_wants_ends_where_the_vendor_has_it(release: str) -> None:
    generation, features = abi.load(release), Features(release)
    spec = RunSpec(
        mode="logits" if features.has("logits") else "hidden",
        sampling=SAMPLING if features.has("sampling_per_run") else {},
        max_new_tokens=77 if features.has("max_new_tokens_per_run") else None,
        keep_history=features.has("keep_history"),
        lora="pirate",
        save_prompt_cache="/cache/x",
    )
    infer: Any = marshal.infer_param_of(generation, features, PARAMS, spec)
    found = in_memory(release, "RKLLMInferParam", ctypes.addressof(infer))
    assert found["mode"] == (2 if features.has("logits") else 1)
    assert in_memory(release, "RKLLMLoraParam", found["lora_params"]) == {"lora_adapter_name": b"pirate"}
    cache = in_memory(release, "RKLLMPromptCacheParam", found["prompt_cache_params"])
    assert cache == {"save_prompt_cache": 1, "prompt_cache_path": b"/cache/x"}
    if features.has("keep_history"):
        assert found["keep_history"] == 1
    if features.has("sampling_per_run"):
        assert in_memory(release, "RKLLMSamplingParam", found["sampling_params"]) == SAMPLING
        assert found["max_new_tokens"] == 77
    assert slack_of(infer, type(infer)) == bytes(SLACK)


@every
def test_a_plain_run_is_all_zeros_but_for_its_limit(release: str) -> None:
    generation, features = abi.load(release), Features(release)
    infer: Any = marshal.infer_param_of(generation, features, PARAMS, RunSpec())
    found = dict(in_memory(release, "RKLLMInferParam", ctypes.addressof(infer)))
    assert found.pop("max_new_tokens", 101) == 101
    assert set(found.values()) == {0}


@pytest.mark.parametrize("release", GENERATIONS[4:])
def test_what_a_run_leaves_open_is_what_was_loaded(release: str) -> None:
    infer: Any = marshal.infer_param_of(
        abi.load(release), Features(release), PARAMS, RunSpec(sampling={"temperature": 1.5})
    )
    found = in_memory(release, "RKLLMInferParam", ctypes.addressof(infer))
    sampling = in_memory(release, "RKLLMSamplingParam", found["sampling_params"])
    assert sampling == {name: getattr(PARAMS, name) for name in SAMPLING} | {"temperature": 1.5}
