"""SoC names out of device trees, and the CPUs that the runtime's mask gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.socs import BY_NAME, SOCS, default_cpus, named, named_by_npu


@pytest.mark.parametrize(
    ("compatible", "name", "row"),
    [
        (("radxa,rock-5b", "rockchip,rk3588"), "rk3588", "rk3588"),
        (("rockchip,rk3588s-orangepi-5", "rockchip,rk3588"), "rk3588", "rk3588"),
        (("xunlong,orangepi-5", "rockchip,rk3588s"), "rk3588s", "rk3588"),
        (("radxa,e54c", "rockchip,rk3588s", "rockchip,rk3588"), "rk3588s", "rk3588"),
        (("radxa,rock-5c", "rockchip,rk3588f"), "rk3588f", "rk3588"),
        (("radxa,e52c", "rockchip,rk3582", "rockchip,rk3588s"), "rk3582", "rk3588"),
        (("rockchip,rk3583",), "rk3583", "rk3588"),
        (("rockchip,rk3576-evb1-v10", "rockchip,rk3576", "rockchip,Android9"), "rk3576", "rk3576"),
        (("friendlyarm,nanopi-r3s", "rockchip,rk3566"), "rk3566", "rk3566"),
        (("rockchip,rv1126b-evb1-v10", "rockchip,rv1126b"), "rv1126b", "rv1126b"),
        (("pine64,rockpro64", "rockchip,rk3399"), "rk3399", None),
        (("rockchip,rv1126",), "rv1126", None),
        (("somebody,board", "rockchip,rk3399", "rockchip,rk3588"), "rk3588", "rk3588"),
    ],
)
def test_a_soc_is_named_by_any_entry(compatible: tuple[str, ...], name: str, row: str | None) -> None:
    found = named(compatible)
    assert found
    assert (found.name, found.soc.name if found.soc else None) == (name, row)


@pytest.mark.parametrize(
    "compatible", [(), ("raspberrypi,5-model-b", "brcm,bcm2712"), ("rockchip,rk3588-evb7-v11",), ("",)]
)
def test_a_board_name_is_never_a_soc(compatible: tuple[str, ...]) -> None:
    assert named(compatible) is None


def test_the_npus_own_node_names_the_soc_where_nothing_else_does() -> None:
    found = named_by_npu(["rockchip,rk3576-rknpu"])
    assert found
    assert found.soc is BY_NAME["rk3576"]
    assert named_by_npu(["rockchip,rknpu"]) is None


def test_rows_are_complete() -> None:
    assert len(BY_NAME) == len(SOCS)
    for soc in SOCS:
        assert soc.zones
        assert soc.npu_node.startswith("npu@")
        assert soc.rkllm == (soc.ddr_hz > 0), "the vendor's clocks are known for what RKLLM runs on"


@pytest.mark.parametrize(
    ("soc", "allowed", "expected"),
    [
        ("rk3588", (4, 5), (4, 5)),  # CPUAffinity=4 5, which the library's threads must not leave
        ("rk3588", (0, 1, 2, 3, 6), (1, 2, 3, 6)),
        ("rk3588", range(8), (4, 5, 6, 7)),
        ("rk3576", range(8), (4, 5)),  # two workers are what RKV runs there, and four on RK3588 (board-facts 10)
        ("rk3576", (0, 1, 2, 3), (2, 3)),
        ("rk3576", (0, 6), (0, 6)),
        ("rk3562", range(4), (0, 1, 2, 3)),
        ("rv1126b", range(4), (0, 1, 2, 3)),
        ("rk3588", range(4), (0, 1, 2, 3)),  # a container that was given the small cores
        ("rk3588", (0, 1, 6, 7), (0, 1, 6, 7)),
        ("rk3588", (3, 5), (3, 5)),
        ("rk3562", (0,), (0,)),
    ],
)
def test_threads_go_to_the_big_cores_that_are_allowed(
    soc: str, allowed: range | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert default_cpus(BY_NAME[soc], allowed, 2) == expected


@pytest.mark.parametrize(
    ("allowed", "present", "expected"),
    [
        (range(8), 8, (4, 5, 6, 7)),
        (range(64), 64, (4, 5, 6, 7)),
        ({4, 5}, 8, (4, 5)),
        ({7}, 8, (7,)),
        ({0, 1, 2, 3, 6}, 8, (1, 2, 3, 6)),
        (range(4), 4, (0, 1, 2, 3)),
        ({2}, 4, (2,)),
        # No board has so few, or such, and the simulator starts no threads.
        (range(2), 2, (0, 1, 2, 3)),
        ({12, 13}, 64, (0, 1, 2, 3)),
        (set(), 8, (0, 1, 2, 3)),
    ],
)
def test_unknown_soc_is_judged_by_the_number_of_its_cpus(
    allowed: range | set[int], present: int, expected: tuple[int, ...]
) -> None:
    assert default_cpus(None, allowed, present) == expected


@given(st.sets(st.integers(0, 127)), st.sampled_from([1, 2, 4, 8, 64]))
def test_mask_has_four_cpus_or_all_that_are_allowed(allowed: set[int], present: int) -> None:
    """An empty one, or one beyond CPU7, has init refused (reference 1.8)."""
    chosen = default_cpus(None, allowed, present)
    usable = allowed & set(range(8))
    if present < 4 or not usable:
        assert chosen == (0, 1, 2, 3)
    else:
        assert set(chosen) <= usable and len(set(chosen)) == len(chosen) == min(4, len(usable))
