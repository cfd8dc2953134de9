"""Memory as a board's kernel tells it, and as a container's or a unit's limit leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.daemon.memory import available

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:    4194304 kB\nHugePages_Total:   0\n")
    return tmp_path


def limit(root: Path, **files: str) -> None:
    (root / "proc/self/cgroup").write_text("0::/system.slice/exo-rkllm.service\n")
    group = root / "sys/fs/cgroup/system.slice/exo-rkllm.service"
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / f"memory.{name}").write_text(text)


def test_the_machines_own(root: Path) -> None:
    assert available(root) == 4 * GIB


def test_a_limit_that_is_nearer_counts(root: Path) -> None:
    limit(root, max=f"{3 * GIB}\n", current=f"{2 * GIB}\n", stat=f"anon 5\ninactive_file {GIB // 2}\n")
    assert available(root) == GIB + GIB // 2


@pytest.mark.parametrize("files", [{"max": "max\n"}, {}, {"max": "123", "current": "what"}])
def test_a_limit_that_is_none_or_cannot_be_read_does_not(root: Path, files: dict[str, str]) -> None:
    limit(root, **files)
    assert available(root) == 4 * GIB


def test_this_machine_has_some() -> None:
    assert available(Path("/")) > 0
