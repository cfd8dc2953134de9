"""The same boards through real libudev and pyudev: umockdev has to be preloaded, hence a pytest of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.board.umock import WRAPPER

CASES = Path(__file__).with_name("under_umockdev.py")


@pytest.mark.skipif(WRAPPER is None, reason="umockdev is not installed: apt install umockdev")
def test_the_cases_for_libudev() -> None:
    command = [str(WRAPPER), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d{2,} passed", done.stdout), "the cases were not collected"
