"""What the vendor's NPU driver says of itself: its version (npu-platform 5.1, 5.2) and its `load` line (3.2)."""

from __future__ import annotations

import re

# RKLLM 1.0 asks for 0.9.6, every runtime warns below 0.9.7, runtime 1.3's manual requires 0.9.8.
MINIMUM = "0.9.6"
RECOMMENDED = "0.9.8"
MULTI = re.compile(rb"Core(\d{1,2}):\s*(\d{1,9})%")
SINGLE = re.compile(rb"NPU load:\s*(\d{1,9})%")
# Sixteen would be five times the largest NPU; a longer line is not one of ours.
MOST_CORES = 16


def parse_load(line: bytes) -> tuple[float, ...] | None:
    """Ratio 0..1 of the last second in which each core had a job; None for any other text, which must not pass as idle.

    Drivers up to about 0.9.2 do not clamp at 100 (5.1).
    """
    cores = {int(core): int(percent) for core, percent in MULTI.findall(line)}
    if not cores:
        single = SINGLE.search(line)
        return (_ratio(int(single[1])),) if single else None
    # A line cut in the middle lacks its last cores, and nothing says that a core which is not listed is idle.
    if not line.rstrip().endswith(b"%,") or sorted(cores) != list(range(len(cores))) or len(cores) > MOST_CORES:
        return None
    return tuple(_ratio(cores[core]) for core in range(len(cores)))


def _ratio(percent: int) -> float:
    return min(percent, 100) / 100


def version_in(text: str) -> str:
    """`0.9.8` out of `RKNPU driver: v0.9.8`; empty without a version."""
    hit = re.search(r"\d{1,3}(?:\.\d{1,3}){1,3}", text)
    return hit[0] if hit else ""


def is_older(version: str, than: str) -> bool:
    """Whether `version` is known and lower than `than`."""
    return bool(version) and _numbers(version) < _numbers(than)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
