"""The program of docs/rkllm-binding.md runs, on every generation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulated import VERSIONS, Library

PAGE = Path(__file__).parent.parent.parent / "docs" / "rkllm-binding.md"
PROGRAM = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.mark.parametrize("version", VERSIONS)
def test_program_of_the_page_runs(
    library: Library, board_root: Path, make_model: Callable[..., Path], version: str
) -> None:
    model = make_model(reply="Good day to you too")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, library(version), model], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    said = run.stdout.splitlines()
    assert said[0].startswith("Good day to you too (")
    assert "Good day" in said[1]
    assert "3 tokens, aborted: True" in said
    assert ("paused: True" in said) == (version in {"1.2.3", "1.3.0", "1.3.1"})
    assert said[-1].startswith("model_not_found - There is no file /nowhere/model.rkllm.")
