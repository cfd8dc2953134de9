"""The vendor's table as an expectation for one model, board and length."""

from __future__ import annotations

import pytest

from exo_rkllm.board.speeds import expected_speed, grouped, speeds


@pytest.mark.parametrize(
    ("soc", "model", "length", "expected"),
    [
        ("rk3588", "Qwen3-0.6B_w8a8_RK3588.rkllm", 0, (32.91, "rk3588/qwen3-0.6b")),
        ("rk3588", "qwen3-0.6b", 1000, (24.68, "rk3588/qwen3-0.6b")),
        ("rk3588", "qwen3-0.6b", 9000, (24.68, "rk3588/qwen3-0.6b")),
        ("rk3576", "Qwen3-0.6B-w4a16_g128-rk3576", 0, (23.48, "rk3576/qwen3-0.6b/w4a16_g128")),
        ("rk3576", "qwen3-vl-2b", 0, (12.68, "rk3576/qwen3-vl-2b")),
        ("rk3588", "Qwen2-VL-2B_W8A8_RK3588.rkllm", 0, (16.6, "rk3588/qwen2-vl-2b/image")),
        ("rk3588", "a-model-of-nobody", 0, None),
        ("rk3566", "qwen3-0.6b", 0, None),
    ],
)
def test_expected_speed_follows_model_soc_quantization_and_length(
    soc: str, model: str, length: int, expected: tuple[float, str] | None
) -> None:
    known = expected_speed(soc, model, length)
    if expected is None or known is None:
        assert known == expected
        return
    assert known[0] == pytest.approx(expected[0], abs=0.01)
    assert known[1].startswith(expected[1])


def test_every_model_of_the_tables_has_an_expected_speed() -> None:
    """`doctor` ended with a traceback at one that stands among the images only."""
    for cell in speeds():
        soc, model, *_ = cell.split("/")
        assert soc == "measured" or expected_speed(soc, model) is not None


def test_grouped_eight_bits_are_recognised() -> None:
    assert grouped("Qwen3-1.7B_w8a8_g128.rkllm")
    assert not grouped("Qwen3-1.7B_w4a16_g128.rkllm")
