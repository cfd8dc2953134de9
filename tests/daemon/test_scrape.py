"""What a scrape of the real daemon opens, by the kernel's own account: few files, and none that wakes the NPU."""

from __future__ import annotations

import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from bench.syscalls import OPEN, OPENS, opened
from exo_rkllm.board.files import WAKING
from tests.daemon.running import Daemon, House

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt install strace")
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


def scrape(daemon: Daemon) -> str:
    address = daemon.status()["listening"][0]
    with urllib.request.urlopen(urllib.request.Request(f"http://{address}/metrics", headers=OPENMETRICS)) as answer:
        return str(answer.read().decode())


def waking(paths: list[str], root: Path) -> list[str]:
    """Files that power the NPU up or may crash the kernel, and devices, whose ioctls do so, too (npu-platform 3.1)."""
    return [
        path for path in paths if Path(path).name in WAKING or path.startswith((f"{root}/dev/", "/dev/dri", "/dev/rk"))
    ]


@needs_strace
def test_a_scrape_reads_thirty_files_at_most_and_wakes_nothing(board_house: House) -> None:
    root = Path(board_house.environment["EXO_RKLLM_BOARD_ROOT"])
    daemon = board_house.start()
    assert "rknpu_core_utilization_ratio" in scrape(daemon), "the first one imports what the others use"
    time.sleep(7)  # until nobody is taken for watching any more, and the sampler sleeps
    daemon.status()
    with opened(daemon.process.pid) as one:
        assert "rknpu_core_busy_seconds_total" in scrape(daemon)
    if one.paths is None:
        pytest.skip("strace may not look at processes here")
    own = [path for path in one.paths if path.startswith(str(root))]
    assert {"load", "runtime_status", "cur_freq", "temp", "interrupts"} <= {Path(path).name for path in own}
    assert len(one.paths) <= 30, one.paths
    assert waking(one.paths, root) == []


@needs_strace
def test_a_daemon_that_starts_answers_and_is_watched_wakes_nothing_by_itself(
    board_house: House, tmp_path: Path
) -> None:
    """From its first call on; the model's process, which is the library's to use, is another one."""
    root = Path(board_house.environment["EXO_RKLLM_BOARD_ROOT"])
    board_house.words("words")
    log = tmp_path / "opens"
    daemon = board_house.start(through=("strace", "-D", "-f", f"-e{OPENS}", "-o", str(log)))
    scrape(daemon)
    assert daemon.answer("words", "one two")
    time.sleep(2.5)  # samples of the second that passed
    paths = OPEN.findall(log.read_text())
    assert sum(path.endswith("/rknpu/load") for path in paths) >= 3
    assert waking(paths, root) == [f"{root}/dev/kmsg"], "the kernel's log, read once, and no device of the NPU's"
