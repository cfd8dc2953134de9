"""The packages of tools/page, installed by npm from its lock file into build/page."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "tools/page"
FOLDER = ROOT / "build/page"
NOT_REACHED = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH")


@functools.cache
def installed() -> Path:
    """A copy of tools/page with its node_modules. Skips the test where there is no npm, or no registry to ask."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine (apt install npm)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, wanted = FOLDER / "node_modules/.installed", (SOURCE / "package-lock.json").read_text()
        for path in SOURCE.glob("*.js*"):
            shutil.copy(path, FOLDER)
        if not stamp.exists() or stamp.read_text() != wanted:
            command = ["npm", "ci", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300)
            if done.returncode and any(reason in done.stderr for reason in NOT_REACHED):
                pytest.skip("npm reaches no registry")
            assert done.returncode == 0, done.stderr
            stamp.write_text(wanted)
    return FOLDER
