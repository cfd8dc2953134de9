"""Names: what may be one, what one means, and that none is ever a way out of the folder."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.catalogue import names
from exo_rkllm.catalogue.names import ModelNames, ParsedFilename, is_adapter, matching, parse_filename

# Names of the field, from reference 3.3.
IDS = {
    "Qwen2.5-3B-Instruct-rk3588-w8a8-opt-0-hybrid-ratio-0.5.rkllm": "qwen2.5-3b-instruct",
    "Qwen2.5-1.5B-Instruct-w8a8-opt1-hybrid-ratio-1.0.rkllm": "qwen2.5-1.5b-instruct",
    "DeepSeek-R1-Distill-Qwen-1.5B_W8A8_RK3588.rkllm": "deepseek-r1-distill-qwen-1.5b",
    "gemma-3-1b-it_W8A8_RK3588.rkllm": "gemma-3-1b-it",
    "qwen2.5-vl-3b-w8a8_level1_rk3588.rkllm": "qwen2.5-vl-3b",
    "Qwen3.5-0.8B_w8a8_rk3588.rkllm": "qwen3.5-0.8b",
    "gemma-4-E2B-it_w8a8_rk3588_ctx16384.rkllm": "gemma-4-e2b-it",
    "decoder_qwen3.w4a16_g128.rk3576.rkllm": "decoder_qwen3",
    "llm-jp-3-1.8b-opt-1-w8a8-hybrid-ratio-0.0-rk3588.rkllm": "llm-jp-3-1.8b",
    "deepseek-r1-1.5B-rkllm1.1.4.rkllm": "deepseek-r1-1.5b",
    "Qwen3-8B-rk3588-1.2.1-unsloth-16k.rkllm": "qwen3-8b-unsloth",
    "Qwen3-0.6B-w8a8-rk3688.rkllm": "qwen3-0.6b",
    "Qwen3-0.6B_w4a16_g128_RK3582.rkllm": "qwen3-0.6b",
    "模型.rkllm": "model",
    "....rkllm": "model",
    "../../etc/passwd": "etc-passwd",
    "-rk3588-w8a8.rkllm": "rk3588-w8a8",
}


@pytest.mark.parametrize(("file", "id_"), IDS.items())
def test_file_name_gives_the_short_id(file: str, id_: str) -> None:
    assert names.id_from(file) == id_


def test_id_has_no_suffix_of_a_plugins_files() -> None:
    assert names.id_from("Parrot-1B-w8a8.FEATHER", {".rkllm": "rkllm", ".feather": "parrot"}) == "parrot-1b"


@given(st.text(max_size=300))
def test_any_file_name_gives_a_valid_id(text: str) -> None:
    assert names.valid_id(names.id_from(text))


HARD = st.text(alphabet=st.sampled_from(list("ab1./\\\0-_:~%*?\n \u00e9\u202e\u0660\uff21\uff22")), max_size=20)


@given(HARD | st.text(max_size=200))
def test_an_id_is_one_plain_folder_name(text: str) -> None:
    if names.valid_id(text):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", text, re.ASCII)
        assert ".." not in text
        assert text[0] != "."
        assert names.plain_file_name(text)


@given(HARD | st.text(max_size=300))
def test_a_plain_file_name_stays_in_its_folder(text: str) -> None:
    if names.plain_file_name(text):
        assert not set(text) & set("/\\\0")
        assert text not in (".", "..")
        text.encode()


@pytest.mark.parametrize("text", ["org/repo", "Qwen/Qwen2.5-1.5B-Instruct", "a/b_c.d"])
def test_repository_names_are_accepted(text: str) -> None:
    assert names.valid_repo(text)


@pytest.mark.parametrize("text", ["", "repo", "a/b/c", "a/..", "../a", "a/.b", "a//b", "a/b\0", "é/b", "a/b c", "/a"])
def test_other_names_are_no_repositories(text: str) -> None:
    assert not names.valid_repo(text)


KNOWN = (
    ModelNames(
        "qwen2.5-1.5b-instruct",
        ("c01zaut/Qwen2.5-1.5B-RK3588", "Qwen/Qwen2.5-1.5B-Instruct"),
        ("w8a8", "q15.rkllm", "rk3588"),
    ),
    ModelNames("qwen2.5-3b-instruct", ("Qwen/Qwen2.5-3B-Instruct",), ("w8a8",)),
    ModelNames("qwen3", ("org/qwen3",), ("w8a8",)),
    ModelNames("qwen3-w4a16", ("org/qwen3",), ("w4a16",)),
    ModelNames("Gemma"),
    ModelNames("llama-1b-instruct"),
    ModelNames("llama-1b-instruct-w8a8_g128"),
)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("qwen2.5-1.5b-instruct", ["qwen2.5-1.5b-instruct"]),
        ("Qwen2.5-1.5B-Instruct", ["qwen2.5-1.5b-instruct"]),
        ("qwen2.5-1.5b-instruct:latest", ["qwen2.5-1.5b-instruct"]),
        ("qwen2.5-1.5b-instruct:w8a8", ["qwen2.5-1.5b-instruct"]),
        ("qwen2.5-1.5b-instruct:w4a16", []),
        ("qwen2.5-1.5b-instruct.rkllm", ["qwen2.5-1.5b-instruct"]),
        ("qwen2.5-1.5b", ["qwen2.5-1.5b-instruct"]),
        ("qwen2.5:1.5b", ["qwen2.5-1.5b-instruct"]),
        ("qwen2.5:1.5b-instruct", ["qwen2.5-1.5b-instruct"]),
        ("qwen2.5", ["qwen2.5-1.5b-instruct", "qwen2.5-3b-instruct"]),
        ("qwen2", []),
        ("Qwen/Qwen2.5-1.5B-Instruct", ["qwen2.5-1.5b-instruct"]),
        ("c01zaut/Qwen2.5-1.5B-RK3588:q15", ["qwen2.5-1.5b-instruct"]),
        ("Qwen2.5-1.5B-RK3588", ["qwen2.5-1.5b-instruct"]),
        ("org/qwen3", ["qwen3", "qwen3-w4a16"]),
        ("org/qwen3:w4a16", ["qwen3-w4a16"]),
        ("qwen3", ["qwen3"]),
        ("qwen3:w4a16", ["qwen3-w4a16"]),
        ("gemma", ["Gemma"]),
        ("llama:1b", ["llama-1b-instruct"]),
        ("llama", ["llama-1b-instruct"]),
        ("llama-1b-instruct:w8a8_g128", ["llama-1b-instruct-w8a8_g128"]),
        ("", []),
        (":", []),
        ("qwen3:", []),
        (":latest", []),
        ("../qwen3", []),
        ("qwen3/../gemma", []),
        ("qwen3\0", []),
        ("q" * 10_000, []),
    ],
)
def test_name_matches_the_expected_entries(said: str, meant: list[str]) -> None:
    assert [one.id for one in matching(said, KNOWN)] == meant


@given(HARD)
def test_name_matches_existing_entries_only(said: str) -> None:
    assert {one.id for one in matching(said, KNOWN)} <= {one.id for one in KNOWN}


def test_file_name_tells_platform_and_quantization() -> None:
    assert parse_filename("Qwen2.5-3B-Instruct-rk3588s-w8a8_g128-opt-1-hybrid-ratio-0.5.rkllm") == ParsedFilename(
        "rk3588", "w8a8_g128", 1, 0.5, 0, ""
    )
    assert parse_filename("model.rkllm", "dulimov/Qwen3-8B-rk3588-1.2.1-unsloth-16k") == ParsedFilename(
        "rk3588", "", -1, 0.0, 16384, "1.2.1"
    )
    assert parse_filename("rk3576/model_w4a16.rkllm", "org/rk3588").platform == "rk3576"
    assert parse_filename("plain.rkllm") == ParsedFilename()
    assert parse_filename("m-rk3582.rkllm").platform == "rk3588", "the same silicon"
    assert parse_filename("m-RK3688.rkllm").platform == "rk3688", "a SoC that nobody knows is not any SoC"
    assert is_adapter("x_LoRA.rkllm")
    assert not is_adapter("lora.rkllm")
