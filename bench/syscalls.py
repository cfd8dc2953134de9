"""Calls into the kernel: the same on a busy machine as on a quiet one, so they can be compared between two days."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

ATTACHED = 20.0
# What makes strace tell each file that is opened, and where it says which.
OPENS = "trace=open,openat,openat2,creat"
OPEN = re.compile(r'\bopen\w*\(.*?"([^"]+)"')


class Counted:
    """`total` is filled in when the counting ends; None where strace is missing or may not look."""

    total: int | None = None


class Opened:
    """`paths` is filled in when the tracing ends; None where strace is missing or may not look."""

    paths: list[str] | None = None


@contextmanager
def counted(*pids: int) -> Iterator[Counted]:
    """Those of the processes and all their threads."""
    found = Counted()
    with _traced("-c", pids) as report:
        yield found
    if report is not None and (total := re.search(r"^100\.00\s+\S+\s+(?:\d+\s+)?(\d+)", report[0], re.MULTILINE)):
        found.total = int(total[1])


@contextmanager
def opened(*pids: int) -> Iterator[Opened]:
    """Files that the processes and all their threads try to open."""
    found = Opened()
    with _traced(f"-e{OPENS}", pids) as report:
        yield found
    if report is not None:
        found.paths = OPEN.findall(report[0])


@contextmanager
def _traced(what: str, pids: tuple[int, ...]) -> Iterator[list[str] | None]:
    """A list that holds strace's report afterwards."""
    if shutil.which("strace") is None:
        yield None
        return
    with NamedTemporaryFile("r", suffix=".strace") as file:
        targets = [word for pid in pids for word in ("-p", str(pid))]
        tracer = subprocess.Popen(["strace", "-f", what, "-o", file.name, *targets], stderr=subprocess.DEVNULL)
        report: list[str] = []
        try:
            yield report if _attached(tracer, pids) else None
        finally:
            tracer.terminate()
            tracer.wait()
            report.append(file.read())


def _attached(tracer: subprocess.Popen[bytes], pids: tuple[int, ...]) -> bool:
    ends = time.monotonic() + ATTACHED
    while not all(map(traced, pids)):
        if tracer.poll() is not None or time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def traced(pid: int) -> bool:
    return re.search(r"^TracerPid:\s+[1-9]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
