"""The same boards through real libudev and pyudev: umockdev has to be preloaded, hence a pytest of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.board.umock import WRAPPER

CASES = Path(__file__).with_name("under_umockdev.py")
WITH_A_MODEL = "ends_the_models or back_before_anybody"

pytestmark = pytest.mark.skipif(WRAPPER is None, reason="umockdev is not installed: apt install umockdev")


def passed(selection: str) -> int:
    pytest_of_its_own = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command = [str(WRAPPER), *pytest_of_its_own, "-k", selection, str(CASES)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    told = re.search(r"(\d+) passed", done.stdout)
    return int(told[1]) if told else 0


def test_cases_for_libudev_pass() -> None:
    assert passed(f"not ({WITH_A_MODEL})") >= 10, "the cases were not collected"


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="Python 3.10's vfork has a child close the daemon's files in its memory, and umockdev forgets its socket",
)
def test_cases_with_a_model_in_a_child_pass() -> None:
    assert passed(WITH_A_MODEL) == 2, "the cases were not collected"
