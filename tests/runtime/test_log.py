"""What the library prints, read: the real lines of several releases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.runtime import log
from exo_rkllm.runtime.log import Facts, VendorLine

FIRST = "I rkllm: rkllm-runtime version: 1.2.3, rknpu driver version: 0.9.8, platform: RK3588"
THIRD = "I rkllm: rkllm-toolkit version: 1.2.3, max_context_limit: 4096, npu_core_num: 3, target_platform: RK3588"
INIT = [
    FIRST,
    "I rkllm: loading rkllm model from /path/model.rkllm",
    f"{THIRD}, model_dtype: W8A8",
    "I rkllm: Enabled cpus: [4, 5, 6, 7]",
    "I rkllm: Enabled cpus num: 4",
]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("E rkllm: rkllm_init failed", VendorLine("E", "rkllm", "rkllm_init failed")),
        ("W rkllm: Warning: Your", VendorLine("W", "rkllm", "Warning: Your")),
        ("E RKNN: [07:12:13.123] load model file error!", VendorLine("E", "RKNN", "load model file error!")),
        ("I RKNN: no time", VendorLine("I", "RKNN", "no time")),
        ("rknn_init fail! ret=-1", VendorLine("", "", "rknn_init fail! ret=-1")),
        ("E rkllm: ended by a return\r", VendorLine("E", "rkllm", "ended by a return")),
        ("X rkllm: no level", VendorLine("", "", "X rkllm: no level")),
        ("", VendorLine("", "", "")),
    ],
)
def test_a_line_has_a_level_a_source_and_a_message(text: str, line: VendorLine) -> None:
    assert log.parse(text) == line


def test_init_of_1_2_3_tells_everything() -> None:
    assert log.facts(INIT) == Facts(
        release="1.2.3",
        driver="0.9.8",
        platform="RK3588",
        toolkit="1.2.3",
        max_context_limit=4096,
        npu_cores=3,
        target_platform="RK3588",
        dtype="W8A8",
        cpus=(4, 5, 6, 7),
    )


def test_before_1_2_1_the_type_is_not_printed_and_before_1_2_0_no_model_line() -> None:
    assert log.facts([THIRD]).npu_cores == 3
    assert log.facts([THIRD]).dtype is None
    old = log.facts([FIRST.replace("1.2.3", "1.1.4"), ""])
    assert (old.release, old.platform) == ("1.1.4", "RK3588")
    assert (old.toolkit, old.max_context_limit, old.cpus) == (None, None, ())


def test_the_unprefixed_line_of_1_0_is_read_too() -> None:
    assert log.facts([FIRST.removeprefix("I rkllm: ")]).driver == "0.9.8"


def test_an_unknown_toolkit_is_unknown() -> None:
    assert log.facts([THIRD.replace("1.2.3", "unknown")]).toolkit is None


@pytest.mark.parametrize(
    ("lines", "eos"),
    [
        (["I rkllm: EOS token: 151645 '<|im_end|>'"], (151645,)),
        (["I rkllm: EOS token[0]: 1 '<eos>'", "I rkllm: EOS token[1]: 106 '<end_of_turn>'"], (1, 106)),
        ([], ()),
    ],
)
def test_a_talkative_runtime_tells_the_vocabulary(lines: list[str], eos: tuple[int, ...]) -> None:
    said = log.facts(["I rkllm: vocab_size: 151936", "I rkllm: BOS token: 151643 '<|endoftext|>'", *lines])
    assert (said.vocab_size, said.bos, said.eos) == (151936, 151643, eos)


def test_warnings_are_kept_as_they_are() -> None:
    warning = "Warning: Your rknpu driver version is too low, please upgrade to 0.9.7"
    assert log.facts([FIRST, f"W rkllm: {warning}"]).warnings == (warning,)


@given(st.lists(st.text(max_size=200)))
def test_whatever_is_printed_is_read(lines: list[str]) -> None:
    assert isinstance(log.facts(lines), Facts)


@given(st.text(alphabet="IWED rkllm:-unteviosg.0123456789,[]'\n", max_size=200))
def test_what_nearly_is_a_line_is_read(text: str) -> None:
    assert isinstance(log.facts([f"I rkllm: {text}", f"rkllm-toolkit version: {text}"]), Facts)


RULE = "I rkllm: --------------------------------------------------------------------------------------"
BLOCK = [
    RULE,
    "I rkllm:  Stage         Total Time (ms)  Tokens    Time per Token (ms)      Tokens per Second",
    RULE,
    "I rkllm:  Init          846.00           /         /                        /",
    "I rkllm:  Prefill       70.58            14        5.04                     198.36",
    "I rkllm:  Generate      4019.46          105       38.28                    26.12",
    RULE,
]


def test_a_run_prints_its_figures_in_a_block() -> None:
    assert log.stages(BLOCK) == {"Prefill": (70.58, 14), "Generate": (4019.46, 105)}
    later = [line.replace(" 14 ", " 3  ") for line in BLOCK]
    assert log.stages([*BLOCK, *later])["Prefill"] == (70.58, 3), "the last run is meant"


@pytest.mark.parametrize("line", ["Prefill 1 2", "I rkllm: Prefill / /", "I RKNN: Prefill 1.0 2", "E rkllm: Prefill"])
def test_other_lines_are_no_figures(line: str) -> None:
    assert log.stages([line]) == {}
