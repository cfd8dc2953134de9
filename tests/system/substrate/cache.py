"""Folders that take long to make, kept outside the checkout and named after everything that went into them.

Nothing depends on them: an empty cache costs minutes, a stale one cannot be hit, and whoever deletes it breaks nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

# The mirror moves on with security updates; a root that is older than this is made again.
OLDEST = 7 * 24 * 3600


def folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "exo-rkllm-system"


def kept(name: str, inputs: object, make: Callable[[Path], None]) -> Path:
    """The folder of these inputs; `make` fills an empty one, alone even when several test sessions run."""
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]
    path = folder() / f"{name}-{key}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (folder() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_dir() and time.time() - path.stat().st_mtime < OLDEST:
            return path
        for old in folder().glob(f"{name}-*"):
            if old == path or _unused(old):
                shutil.rmtree(old)
        unfinished = folder() / f".{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        os.utime(unfinished)
        unfinished.rename(path)
    return path


def _unused(path: Path) -> bool:
    """Another checkout may still stand on a folder of other inputs."""
    return time.time() - path.stat().st_mtime >= OLDEST
