"""Errors of the NPU in the kernel's log, by kind; lines that only look like errors are not counted.

The wording is that of driver 0.9.7 and 0.9.8 (npu-platform 6, notes 7 to 9 and 12).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

KINDS: Mapping[str, re.Pattern[str]] = {
    "hung jobs": re.compile(r"failed to wait job|job timeout, flags|job abort, flags"),
    "soft resets": re.compile(r"soft reset, num"),
    "memory allocations that failed": re.compile(
        r"failed to allocate IOVA|failed to allocate handle|swiotlb buffer is full"
    ),
    "IOMMU domains that could not be switched": re.compile(
        r"switch iommu domain time out|failed to switch iommu domain"
    ),
}
# A ring of this size is the largest that distributions configure.
MOST_RECORDS = 100_000


def count(lines: Iterable[str]) -> dict[str, int]:
    """Lines of each kind; `swiotlb` is the whole machine's word, the others are the driver's own."""
    return dict(Counter(kind for line in lines for kind, pattern in KINDS.items() if pattern.search(line)))


def read(root: Path) -> list[str]:
    """Every record of /dev/kmsg, for which a strict kernel requires CAP_SYSLOG; raises OSError."""
    handle = os.open(root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return [record.decode("utf-8", "replace") for record in _records(handle)]
    finally:
        os.close(handle)


def _records(handle: int) -> Iterable[bytes]:
    """One record a read; EAGAIN is the end of the log, EPIPE a record that was overwritten meanwhile."""
    for _ in range(MOST_RECORDS):
        try:
            record = os.read(handle, 8192)
        except BlockingIOError:
            return
        except BrokenPipeError:
            continue
        if not record:
            return
        yield from record.split(b"\n")
