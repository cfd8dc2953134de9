"""`make run` as it is typed, and ended by whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_demo_takes_its_daemon_with_it() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "tools.demo"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("EXO_RKLLM_")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    daemon = 0
    try:
        while "Watch it answer" not in (line := demo.stdout.readline()):
            assert line, "it ended"
        daemon = int(Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text())
        demo.terminate()
        assert demo.wait(20) == 0
        assert not Path(f"/proc/{daemon}").exists()
    finally:
        demo.kill()
        demo.wait()
        if daemon:
            with suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGKILL)
