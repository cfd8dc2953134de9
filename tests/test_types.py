"""mypy over everything, as one test, so that it runs beside the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_mypy_finds_no_error() -> None:
    # Coverage would measure mypy itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "mypy"],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
