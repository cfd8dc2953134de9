"""What a file says of itself, with its source; what is no model; and what will not work here."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_rkllm.errors import ExoRkllmError, LoadError, ModelFileError, ModelNotFound
from exo_rkllm.runtime import container, filename, modelfile
from exo_rkllm.runtime.modelfile import Fact, ModelFacts
from simulator import model_file
from simulator.model_file import SimModel

Make = Callable[..., Path]


# ── the head ─────────────────────────────────────────────────────────────────────────────────────


def test_everything_that_a_head_says_is_read(make_model: Make) -> None:
    facts = modelfile.inspect(make_model(toolkit="1.2.3", npu_cores=2, max_context=8192, layers=28, vision=True))
    assert facts.known_head
    assert facts.toolkit == Fact("1.2.3", "footer")
    assert facts.platform == Fact("RK3588", "header")
    assert facts.npu_cores == Fact(2, "header")
    assert facts.max_context == Fact(8192, "header")
    assert facts.architecture == Fact("qwen2", "header")
    assert facts.name == Fact("Simulated-0.5B", "header")
    assert facts.layers == Fact(28, "header")
    assert facts.embedding_length == Fact(64, "header")
    assert facts.vocab_size is not None
    assert (facts.heads, facts.kv_heads, facts.head_dim) == (Fact(14, "header"), Fact(2, "header"), Fact(64, "header"))
    assert (facts.has_tokenizer, facts.has_embedding) == (Fact(True, "header"), Fact(True, "header"))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "minicpm3-long-name", "a"])
def test_keys_beyond_the_known_mask_are_told_by_their_length(make_model: Make, architecture: str) -> None:
    """Only 20 bytes of the mask follow from the first key; longer keys lengthen what is known."""
    facts = modelfile.inspect(make_model(architecture=architecture))
    assert facts.architecture == Fact(architecture, "header")
    assert facts.layers == Fact(24, "header")
    assert facts.kv_heads == Fact(2, "header")


def test_the_mask_is_the_file_s_own(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's mask stands in this program: whatever it is, the first key gives it away."""
    monkeypatch.setattr(model_file, "MASK", bytes((91 * i + 7) % 256 for i in range(256)))
    facts = modelfile.inspect(make_model(max_context=2048))
    assert facts.max_context == Fact(2048, "header")
    assert facts.name == Fact("Simulated-0.5B", "header")


def test_a_platform_whose_number_nobody_has_seen_is_unknown(make_model: Make) -> None:
    facts = modelfile.inspect(make_model(platform="RK3576", npu_cores=2))
    assert facts.platform is None
    named = modelfile.inspect(make_model(platform="RK3576", npu_cores=2, file="qwen_w4a16_rk3576.rkllm"))
    assert named.platform == Fact("RK3576", "name")


def test_without_a_footer_the_head_s_own_version_counts(make_model: Make) -> None:
    assert modelfile.inspect(make_model(toolkit="")).toolkit is None
    path = make_model(toolkit="1.2.3")
    data = path.read_bytes()
    path.write_bytes(data[: -len("rkllm-toolkit version: 1.2.3")])
    assert modelfile.inspect(path).toolkit == Fact("1.2.3", "header")


def test_a_footer_alone_is_read_too(tmp_path: Path) -> None:
    """Older toolkits write another head (reference 3.1)."""
    path = tmp_path / "old.rkllm"
    path.write_bytes(os.urandom(4096) + b"rkllm-toolkit version: 1.1.2")
    facts = modelfile.inspect(path)
    assert not facts.known_head
    assert facts.toolkit == Fact("1.1.2", "footer")
    assert facts.layers is None


def test_a_large_file_with_an_unknown_head_is_taken_for_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mystery-rk3588-1.1.1.rkllm"
    path.write_bytes(b"\x01" * modelfile.SMALLEST)
    facts = modelfile.inspect(path)
    assert not facts.known_head
    assert facts.toolkit == Fact("1.1.1", "name")


def head(keys: list[bytes], count: int | None = None, version: int = 3) -> bytes:
    return b"\xda\xee\xb3\x36" + struct.pack("<IQQ", version, 0, len(keys) if count is None else count) + b"".join(keys)


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


FIRST = string(b"general.architecture") + struct.pack("<I", 8) + string(b"llama")


@pytest.mark.parametrize(
    "data",
    [
        head([FIRST], version=2),
        head([FIRST], count=1 << 40),
        head([string(b"general.name") + struct.pack("<I", 8) + string(b"x")]),
        head([string(b"general.architecture") + struct.pack("<II", 4, 7)]),
        head([string(b"general.architecture") + struct.pack("<I", 8) + string(b"\x00\xff")]),
        head([string(b"general.architecture") + struct.pack("<I", 8) + string(b"x" * 99)]),
        head([FIRST, string(b"x") + struct.pack("<I", 77)]),
        head([FIRST, string(b"x") + struct.pack("<IIQ", 9, 9, 1)]),
        head([FIRST, string(b"x") + struct.pack("<IIQ", 9, 4, 1 << 60)]),
        head([FIRST, string(b"x" * 300) + struct.pack("<II", 4, 1)]),
    ],
    ids=["version", "count", "first key", "number", "no text", "long", "type", "nested", "array", "key"],
)
def test_any_surprise_ends_in_unknown(data: bytes) -> None:
    assert container.read(data + bytes(64)) is None


def test_arrays_and_long_texts_are_walked_over() -> None:
    entries = [
        FIRST,
        string(b"numbers") + struct.pack("<IIQ", 9, 5, 3) + bytes(12),
        string(b"texts") + struct.pack("<IIQ", 9, 8, 2) + string(b"a") + string(b"b" * 300),
        string(b"long") + struct.pack("<I", 8) + string(b"c" * 5000),
        string(b"rkllm.core_num") + struct.pack("<IQ", 10, 3),
    ]
    found = container.read(head(entries))
    assert found is not None
    assert dict(found.values) == {"general.architecture": "llama", "rkllm.core_num": 3}


TENSOR = string(b"token_embd.weight") + struct.pack("<IQIQ", 1, 64, 24, 0)


@pytest.mark.parametrize(
    ("tensors", "cut_off"),
    [
        (TENSOR + bytes(31 + 64), False),
        (TENSOR + bytes(20), True),
        (TENSOR[:-4], True),
        (string(b"odd") + struct.pack("<I", 99), None),
    ],
    ids=["whole", "data missing", "directory missing", "another directory"],
)
def test_a_directory_of_tensors_tells_how_long_the_file_must_be(tensors: bytes, cut_off: bool | None) -> None:
    data = bytearray(head([FIRST]) + tensors)
    data[8] = 1
    found = container.read(bytes(data))
    assert found is not None
    assert found.cut_off is bool(cut_off)
    assert found.values["general.architecture"] == "llama"


def test_two_keys_that_both_fit_are_neither() -> None:
    """spatial_patch_size and spatial_merge_size: as long, and the same as far as the mask is known."""
    mask = bytes(range(1, 100))

    def masked(text: bytes) -> bytes:
        return string(bytes(a ^ b for a, b in zip(text, mask, strict=False)))

    entries = [
        masked(b"general.architecture") + struct.pack("<I", 8) + masked(b"llama"),
        masked(b"rkllm.vision.spatial_patch_size") + struct.pack("<II", 4, 14),
    ]
    found = container.read(head(entries))
    assert found is not None
    assert set(found.values) == {"general.architecture"}


def test_values_out_of_all_measure_are_not_believed() -> None:
    values: dict[str, Any] = {"rkllm.core_num": 99, "rkllm.max_context": 0, "{}.block_count": True, "general.name": ""}
    assert modelfile._from_header(values) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused_with_a_sentence(data: bytes) -> None:
    try:
        facts = modelfile.read(Path("x-rk3588.rkllm"), data, len(data))
    except ModelFileError as error:
        assert error.sentence.endswith(".")
        assert error.hint
    else:
        assert isinstance(facts, ModelFacts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("models") / "whole.rkllm"
    return model_file.write(path, SimModel(has_tokenizer=False, size=0)).read_bytes()


@settings(deadline=None)
@given(data=st.data())
def test_a_real_head_with_any_bytes_changed_never_gives_a_wrong_type(whole: bytes, data: st.DataObject) -> None:
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    try:
        facts = modelfile.read(Path("x.rkllm"), bytes(changed[:cut]), cut)
    except ModelFileError:
        return
    assert facts.npu_cores is None or 0 < facts.npu_cores.value <= 8
    assert facts.architecture is None or isinstance(facts.architecture.value, str)
    modelfile.check(facts, "RK3588", "1.3.0", 4096)


# ── what is no model ─────────────────────────────────────────────────────────────────────────────

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (b"", "is empty", "Download"),
        (b"GGUF" + bytes(9000), "is a GGUF file", "rkllm-toolkit"),
        (POINTER, "is a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page", "Download"),
        (b"\n  <HTML>login</HTML>", "is a web page", "Download"),
        (b"not a model", "too small for a model (11 bytes)", "Download"),
    ],
)
def test_what_people_have_instead_of_a_model(tmp_path: Path, content: bytes, says: str, hint: str) -> None:
    path = tmp_path / "model.rkllm"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        modelfile.inspect(path)
    assert str(path) in caught.value.sentence
    assert says in caught.value.sentence
    assert hint in caught.value.hint


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_told(make_model: Make, keep: float) -> None:
    """In the vocabulary, in the tensors, just before the end."""
    path = make_model()
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(ModelFileError, match="is cut off"):
        modelfile.inspect(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        modelfile.inspect(tmp_path / "model.rkllm")
    assert caught.value.hint == f"ls {tmp_path}"


def test_a_directory_names_the_model_in_it(tmp_path: Path, make_model: Make) -> None:
    with pytest.raises(ModelFileError, match="is a directory") as caught:
        modelfile.inspect(tmp_path)
    assert caught.value.hint == f"ls {tmp_path}"
    path = make_model(file="b.rkllm")
    with pytest.raises(ModelFileError) as caught:
        modelfile.inspect(tmp_path)
    assert caught.value.hint == f"Did you mean {path}?"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.rkllm")
    with pytest.raises(ModelFileError, match="not a regular file"):
        modelfile.inspect(tmp_path / "model.rkllm")


@pytest.mark.parametrize("path", ["/dev/null/model.rkllm", "/tmp/" + "x" * 300, "/tmp/a\0b"])
def test_a_path_that_cannot_be(path: str) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        modelfile.inspect(path)


def test_the_context_of_a_load_comes_from_the_head_only(make_model: Make, tmp_path: Path) -> None:
    assert modelfile.context_of(make_model(max_context=1024, file="a_ctx16384.rkllm")) == 1024
    assert modelfile.context_of(tmp_path / "missing.rkllm") == 0
    path = tmp_path / "b_ctx16384.rkllm"
    path.write_bytes(b"\x01" * modelfile.SMALLEST)
    assert modelfile.context_of(path) == 0


# ── names ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "Qwen2.5-3B-Instruct-rk3588-w8a8-opt-0-hybrid-ratio-0.5",
            {"platform": "RK3588", "dtype": "W8A8", "optimization": 0, "hybrid_ratio": 0.5, "parameters": "3B"},
        ),
        (
            "Qwen2.5-1.5B-Instruct-w8a8-opt1-hybrid-ratio-1.0",
            {"dtype": "W8A8", "optimization": 1, "hybrid_ratio": 1.0, "parameters": "1.5B"},
        ),
        (
            "DeepSeek-R1-Distill-Qwen-1.5B_W8A8_RK3588",
            {"platform": "RK3588", "dtype": "W8A8", "parameters": "1.5B"},
        ),
        ("gemma-3-1b-it_W8A8_RK3588", {"platform": "RK3588", "dtype": "W8A8", "parameters": "1B"}),
        ("qwen2.5-vl-3b-w8a8_level1_rk3588", {"platform": "RK3588", "dtype": "W8A8", "parameters": "3B"}),
        ("Qwen3.5-0.8B_w8a8_rk3588", {"platform": "RK3588", "dtype": "W8A8", "parameters": "0.8B"}),
        (
            "gemma-4-E2B-it_w8a8_rk3588_ctx16384",
            {"platform": "RK3588", "dtype": "W8A8", "max_context": 16384, "parameters": "E2B"},
        ),
        ("decoder_qwen3.w4a16_g128.rk3576", {"platform": "RK3576", "dtype": "W4A16_G128"}),
        (
            "llm-jp-3-150m-opt-1-w8a8-hybrid-ratio-0.0-rk3588",
            {"platform": "RK3588", "dtype": "W8A8", "optimization": 1, "hybrid_ratio": 0.0, "parameters": "150M"},
        ),
        ("deepseek-r1-1.5B-rkllm1.1.4", {"toolkit": "1.1.4", "parameters": "1.5B"}),
        (
            "Qwen3-4B-Instruct-rk3588-w8a8-none-v1.2.1-RKLLM",
            {"platform": "RK3588", "dtype": "W8A8", "toolkit": "1.2.1", "parameters": "4B"},
        ),
        ("qwen_lora", {"lora": True}),
        (
            "Qwen3-8B-rk3588-1.2.1-unsloth-16k",
            {"platform": "RK3588", "toolkit": "1.2.1", "max_context": 16384, "parameters": "8B"},
        ),
        ("Model-RK3588S-x", {"platform": "RK3588"}),
        ("smol_rv1126b_w4a8_g32", {"platform": "RV1126B", "dtype": "W4A8_G32"}),
        ("qwen-1_8B", {}),
        ("ark3588x", {}),
        ("model", {}),
    ],
)  # fmt: skip
def test_the_conventions_of_names(name: str, facts: dict[str, Any]) -> None:
    assert dict(filename.facts(Path("/models/m") / f"{name}.rkllm")) == facts


def test_the_folder_says_what_the_file_s_name_leaves_out() -> None:
    """Repositories carry the toolkit's version: it is the main clue to what fits (reference 3.3)."""
    found = filename.facts(Path("/m/Qwen2.5-3B-Instruct-RK3576-1.1.4/qwen-rk3588.rkllm"))
    assert (found["toolkit"], found["platform"]) == ("1.1.4", "RK3588")


@given(st.text(max_size=80))
def test_any_name_is_read(name: str) -> None:
    filename.facts(Path("/models") / f"x{name}".replace("\0", ""))


# ── judging ──────────────────────────────────────────────────────────────────────────────────────


def facts(**known: Any) -> ModelFacts:
    sources = {"toolkit": "footer", "dtype": "name"}
    given = {name: Fact(value, sources.get(name, "header")) for name, value in known.items()}  # type: ignore[arg-type]  # the literals
    return ModelFacts(Path("/models/m.rkllm"), 1 << 30, known_head=True, **given)


@pytest.mark.parametrize(
    ("model", "here", "kind", "says", "certain"),
    [
        ({"platform": "RK3576"}, ("RK3588",), ModelFileError, "is built for RK3576, and this board is RK3588", True),
        ({"npu_cores": 3}, ("RK3576",), ModelFileError, "is built for 3 NPU cores, and RK3576 has 2", True),
        ({"dtype": "W4A16"}, ("RK3588",), ModelFileError, "is quantised as W4A16, which RK3588 does not have", False),
        ({"toolkit": "1.3.0"}, ("", "1.2.3"), LoadError, "toolkit 1.3.0, which runtime 1.2.3 is too old for", True),
        ({"toolkit": "1.0.1"}, ("", "1.2.3"), ModelFileError, "whose files runtime 1.2.3 does not read", False),
        ({"toolkit": "1.2.2"}, ("", "1.3.0"), ModelFileError, "ends each answer itself, which empties the KV", False),
        ({"toolkit": "1.2.3"}, ("", "1.3.0"), ModelFileError, "runtime 1.3.0 misses the end token of", False),
        ({"name": "DeepSeek R1-Distill Qwen 1.5B"}, ("", "1.2.3"), ModelFileError, "endless [PAD151935]", False),
        ({"max_context": 4096}, ("", "", 8192), LoadError, "4096 tokens at most, and 8192 were asked for", True),
    ],
)
def test_what_will_not_work_is_said_before_it_is_tried(
    model: dict[str, Any], here: tuple[Any, ...], kind: type[ExoRkllmError], says: str, certain: bool
) -> None:
    (objection,) = modelfile.check(facts(**model), *here)
    assert type(objection.error) is kind
    assert says in objection.error.sentence
    assert objection.error.hint
    assert objection.certain is certain


@pytest.mark.parametrize(
    ("model", "here"),
    [
        ({"platform": "RK3588", "npu_cores": 3, "dtype": "W8A8"}, ("RK3588S", "1.2.3", 4096)),
        ({"platform": "RK3588", "toolkit": "1.2.1", "max_context": 4096}, ("RK3588", "1.2.3", 4096)),
        ({"toolkit": "1.1.4"}, ("RK3588", "1.3.1")),
        ({"toolkit": "1.2.2"}, ("RK3588", "1.3.1")),  # some crash, and most do not
        ({"name": "DeepSeek-R1-Distill-Qwen-1.5B", "toolkit": "1.1.4"}, ("", "1.2.2")),
        ({"name": "DeepSeek-R1-Distill-Qwen-7B"}, ("", "1.2.3")),
        ({"toolkit": "1.2.3"}, ("RK3588", "1.3.1")),
        ({"toolkit": "1.2.1"}, ("RK3588", "1.3.0")),
        ({"toolkit": "unknown"}, ("RK3588", "1.3.1")),
        ({"toolkit": "1.2.1b1"}, ("", "1.2.1")),
        ({"platform": "RK3576"}, ()),
        ({}, ("RK3588", "1.3.0", 99999)),
    ],
)
def test_what_may_work_meets_no_objection(model: dict[str, Any], here: tuple[Any, ...]) -> None:
    assert modelfile.check(facts(**model), *here) == ()


def test_a_name_alone_is_no_proof(make_model: Make) -> None:
    found = modelfile.inspect(make_model(platform="RK3576", npu_cores=2, file="x-rk3576-9.9.9.rkllm", toolkit=""))
    objections = modelfile.check(found, "RK3588", "1.3.0")
    assert [objection.certain for objection in objections] == [False, False]


def test_memory_is_guessed_from_layers_and_heads() -> None:
    """147 472 bytes a token were seen in a saved cache of this shape, 16 of them a header (reference 2.10)."""
    qwen = facts(layers=36, kv_heads=8, head_dim=128)
    assert qwen.kv_bytes_per_token == 147_456
    assert qwen.memory(1000) == (1 << 30) + 147_456_000 + modelfile.OVERHEAD
    assert facts(layers=36).memory(1000) is None
