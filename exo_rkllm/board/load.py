"""The driver's `load` line (npu-platform 3.2): percent of the last second in which each core had a job."""

from __future__ import annotations

import re

MULTI = re.compile(rb"Core(\d{1,2}):\s*(\d{1,9})%")
SINGLE = re.compile(rb"NPU load:\s*(\d{1,9})%")
# Sixteen would be five times the largest NPU; a longer line is not one of ours.
MOST_CORES = 16


def parse_load(line: bytes) -> tuple[float, ...] | None:
    """One ratio 0..1 a core, in order; None where the text is not such a line, so that nobody reads it as idle.

    Drivers up to about 0.9.2 do not clamp at 100 (5.1).
    """
    cores = {int(core): int(percent) for core, percent in MULTI.findall(line)}
    if not cores:
        single = SINGLE.search(line)
        return (_ratio(int(single[1])),) if single else None
    # A line cut in the middle lacks its last cores, and a core that is not listed is not known to be idle.
    if not line.rstrip().endswith(b"%,") or sorted(cores) != list(range(len(cores))) or len(cores) > MOST_CORES:
        return None
    return tuple(_ratio(cores[core]) for core in range(len(cores)))


def _ratio(percent: int) -> float:
    return min(percent, 100) / 100
