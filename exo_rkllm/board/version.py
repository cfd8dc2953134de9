"""The kernel driver's version: what it is called, and what each one is good for (npu-platform 5.1, 5.2)."""

from __future__ import annotations

import re

# RKLLM 1.0 asks for 0.9.6, every runtime warns below 0.9.7, runtime 1.3's manual requires 0.9.8.
MINIMUM = "0.9.6"
WANTED = "0.9.8"


def found_in(text: str) -> str:
    """`0.9.8` out of `RKNPU driver: v0.9.8`; empty where there is none."""
    hit = re.search(r"\d{1,3}(?:\.\d{1,3}){1,3}", text)
    return hit[0] if hit else ""


def older(version: str, than: str) -> bool:
    """An unknown version is not called old."""
    return bool(version) and _parts(version) < _parts(than)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
