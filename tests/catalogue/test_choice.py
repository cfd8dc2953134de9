"""The file for this board: chosen with a reason, or the candidates are listed."""

from __future__ import annotations

import pytest

from exo_rkllm.catalogue.choice import choose
from exo_rkllm.errors import ModelNotFound

RK3588 = tuple(
    f"Qwen2.5-3B-rk3588-{quantization}-opt-{level}-hybrid-ratio-{ratio}.rkllm"
    for quantization in ("w8a8", "w8a8_g128")
    for level in (0, 1)
    for ratio in ("0.0", "0.5", "1.0")
)


@pytest.mark.parametrize(
    ("files", "repo", "soc", "file", "why"),
    [
        (RK3588, "o/r", "rk3588", "Qwen2.5-3B-rk3588-w8a8-opt-0-hybrid-ratio-0.0.rkllm",
         "12 of 12 files fit RK3588, w8a8 is what runs best there, hybrid ratio 0 is the fastest offered"),
        (("a_W8A8_RK3576.rkllm", "a_W4A16_G128_RK3576.rkllm", "a_W8A8_RK3588.rkllm"), "o/r", "rk3576",
         "a_W4A16_G128_RK3576.rkllm", "2 of 3 files fit RK3576, w4a16_g128 is what runs best there"),
        (("a.rkllm", "README.md", "a_lora.rkllm"), "o/r", "rk3588", "a.rkllm", "the only model file"),
        (("a.rkllm",), "o/a-RK3588-1.1.4", "", "a.rkllm", "the only model file, made for RK3588"),
        (("a-w8a8.rkllm", "a-rk3588-w8a8.rkllm"), "o/r", "rk3588", "a-rk3588-w8a8.rkllm",
         "2 of 2 files fit RK3588, w8a8 is what runs best there"),
        (("a-w8a8.rkllm", "a-w8a8_g256.rkllm"), "o/a-rk3588", "", "a-w8a8.rkllm",
         "one of 2, w8a8 is what runs best there"),
    ],
)  # fmt: skip
def test_best_file_is_chosen_with_a_reason(files: tuple[str, ...], repo: str, soc: str, file: str, why: str) -> None:
    chosen = choose(files, repo, soc)
    assert (chosen.file, chosen.why) == (file, why)


@pytest.mark.parametrize(
    ("files", "soc", "wanted", "says", "hint"),
    [
        ((), "rk3588", "", "o/r has no .rkllm file, only: nothing.", "Look for a conversion of the model"),
        (("a.gguf", "b.safetensors"), "rk3588", "", "o/r has no .rkllm file, only: gguf, safetensors.", "Look for"),
        (("a-rk3576.rkllm",), "rk3588", "", "o/r has files for RK3576 only, and this board is an RK3588.", "Look for"),
        (("a-rk3576.rkllm", "a-rk3588.rkllm"), "", "",
         "o/r has several files that would do: a-rk3576.rkllm, a-rk3588.rkllm.",
         "Say which: exo-rkllm pull o/r:a-rk3576.rkllm"),
        (("a.rkllm", "b.rkllm"), "rk3588", "", "o/r has several files that would do: a.rkllm, b.rkllm.", "Say which"),
        (RK3588, "rk3588", "w8a8_g128", "'w8a8_g128' fits several files of o/r: ", "exo-rkllm pull o/r:Qwen"),
        (("a.rkllm",), "rk3588", "b", "o/r has no file 'b'; it has: a.rkllm.", "exo-rkllm pull o/r"),
        (("a.txt",), "rk3588", "b", "o/r has no file 'b'; it has: no .rkllm file.", "exo-rkllm pull o/r"),
        (tuple(f"m{n:02}.rkllm" for n in range(20)), "rk3588", "", "m11.rkllm and 8 more.", "Say which"),
    ],
)  # fmt: skip
def test_ambiguous_or_missing_file_is_explained(
    files: tuple[str, ...], soc: str, wanted: str, says: str, hint: str
) -> None:
    with pytest.raises(ModelNotFound) as refusal:
        choose(files, "o/r", soc, wanted)
    assert says in refusal.value.sentence
    assert refusal.value.hint.startswith(hint)


@pytest.mark.parametrize("soc", ["rk3582", "RK3583", "rk3588s"])
def test_file_fits_every_name_of_the_same_silicon(soc: str) -> None:
    files = ("a-rk3576-w4a16.rkllm", "a-rk3588-w8a8.rkllm")
    assert choose(files, "o/r", soc).file == "a-rk3588-w8a8.rkllm"


def test_file_for_an_unknown_soc_is_never_chosen() -> None:
    with pytest.raises(ModelNotFound, match="has files for RK3688 only"):
        choose(("a-rk3688-w8a8.rkllm",), "o/r", "rk3588")


def test_hint_names_llama_cpp_when_only_ggufs_exist() -> None:
    with pytest.raises(ModelNotFound) as refusal:
        choose(("README.md", "b.gguf", "a.GGUF"), "o/r", "rk3588")
    assert refusal.value.hint.endswith("On the CPU, by llama.cpp: exo-rkllm pull o/r:a.GGUF")


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        ("a-rk3588-w8a8.rkllm", "a-rk3588-w8a8.rkllm"),
        ("A-RK3588-w8a8.RKLLM", "a-rk3588-w8a8.rkllm"),
        ("w4a16", "sub/a-rk3576-w4a16.rkllm"),
        ("a-rk3576-w4a16", "sub/a-rk3576-w4a16.rkllm"),
        ("rk3576", "sub/a-rk3576-w4a16.rkllm"),
        ("a.gguf", "a.gguf"),
    ],
)
def test_unique_word_selects_a_file(wanted: str, file: str) -> None:
    files = ("a-rk3588-w8a8.rkllm", "sub/a-rk3576-w4a16.rkllm", "a.gguf")
    assert choose(files, "o/r", "rk3588", wanted).file == file
