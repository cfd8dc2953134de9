"""What lines of the kernel's log add up to."""

from __future__ import annotations

import pytest

from exo_rkllm.board.kernel_log import NpuLog, after_bind, after_success, summarize

SWITCH = "3,5,100,-;RKNPU: failed to switch iommu domain"
TIMEOUT = "3,6,101,-;RKNPU: switch iommu domain time out"
HUNG = "3,7,102,-;RKNPU: job timeout, flags: 0x0:"
BOUND = "6,8,103,-;RKNPU fdab0000.npu: RKNPU: Initialized RKNPU driver: v0.9.8 for 20240828"


@pytest.mark.parametrize(
    ("lines", "fault", "stops"),
    [
        ([], None, False),
        ([HUNG], "hung_job", False),
        ([SWITCH], "domain_switch", True),
        ([TIMEOUT, SWITCH, HUNG], "domain_switch_timeout", True),
        ([SWITCH, TIMEOUT], "domain_switch_timeout", True),
        ([SWITCH, BOUND], "domain_switch", False),
        ([SWITCH, BOUND, HUNG], "domain_switch", True),
        ([BOUND, SWITCH], "domain_switch", True),
        ([SWITCH.replace("3,", "30,", 1)], None, False),
        ([f" DEVICE={SWITCH}"], None, False),
    ],
)
def test_heaviest_fault_holds_until_the_driver_is_bound_again(lines: list[str], fault: str | None, stops: bool) -> None:
    state = summarize(lines)
    assert (state.fault and state.fault.name) == fault
    assert (state.unavailable_reason("fdab0000.npu") is not None) == stops


def test_success_clears_a_stop_only_after_the_driver_was_bound_again() -> None:
    stuck = summarize([SWITCH])
    assert after_success(stuck) == stuck
    assert after_success(after_bind(stuck)) == NpuLog(counts={"domain_switch": 1})
    assert after_success(summarize([HUNG])).fault is None
    assert after_bind(NpuLog()) == NpuLog()
