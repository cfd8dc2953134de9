"""What is printed is kept: by whoever printed it, however much it was, whatever became of the process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_rkllm.runtime import blackbox
from exo_rkllm.runtime.blackbox import BOUND, GAP, BlackBox

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def box() -> Iterator[BlackBox]:
    made = BlackBox.create()
    yield made
    made.close()


def test_lines_come_once_and_in_order(box: BlackBox) -> None:
    os.write(box.fd, b"one\ntwo\n")
    assert box.new_lines() == ["one", "two"]
    assert box.new_lines() == []
    os.write(box.fd, b"three\n")
    assert box.new_lines() == ["three"]


def test_looking_takes_nothing_away(box: BlackBox) -> None:
    os.write(box.fd, b"before\n")
    mark = box.mark()
    os.write(box.fd, b"after\n")
    assert box.since(mark) == ["after"]
    assert box.since(mark) == ["after"]
    assert box.new_lines() == ["before", "after"]


def test_what_one_end_took_the_other_does_not_read_again(box: BlackBox) -> None:
    """The child takes its lines; the parent reads what was left when it died."""
    other = BlackBox(os.dup(box.fd))
    os.write(box.fd, b"taken\n")
    assert other.new_lines() == ["taken"]
    os.write(box.fd, b"left\n")
    assert box.new_lines() == ["left"]
    assert box.new_lines() == []
    other.close()


@pytest.mark.parametrize("size", [9000, 2 * mmap.PAGESIZE])
def test_an_end_that_comes_late_finds_nothing_where_all_was_taken(box: BlackBox, size: int) -> None:
    other = BlackBox(os.dup(box.fd))
    os.write(box.fd, b"x" * (size - 1) + b"\n")
    assert len(other.new_lines()) == 1
    assert box.new_lines() == []
    other.close()


def held(box: BlackBox) -> int:
    """Bytes of memory behind the file."""
    return os.fstat(box.fd).st_blocks * 512


def test_memory_that_was_read_is_given_back(box: BlackBox) -> None:
    for _ in range(64):
        os.write(box.fd, b"a line of the library\n" * 5000)
        assert len(box.new_lines()) == 5000
    assert held(box) <= mmap.PAGESIZE


def test_megabytes_of_garbage_do_not_hurt(box: BlackBox) -> None:
    for _ in range(32):
        os.write(box.fd, os.urandom(1 << 20))
    os.write(box.fd, b"\nthe last words\n")
    lines = box.new_lines()
    assert lines[0] == GAP
    assert lines[-1] == "the last words"
    assert sum(map(len, lines)) <= BOUND + len(GAP)
    assert held(box) <= mmap.PAGESIZE


def test_nothing_that_is_printed_reaches_a_terminal_as_a_command(box: BlackBox) -> None:
    os.write(box.fd, b"\x1b[31mred\x00\x07\r\n\n\xff\xfe broken \xc3\n\ttab\n")
    assert box.new_lines() == ["\ufffd[31mred\ufffd\ufffd\ufffd", "\ufffd\ufffd broken \ufffd", "\ttab"]


def test_two_writers_do_not_overwrite_each_other(box: BlackBox) -> None:
    """stdout and stderr are two descriptors of one file."""
    second = os.dup(box.fd)
    writers = [
        threading.Thread(target=lambda fd=fd, text=text: [os.write(fd, text) for _ in range(500)])
        for fd, text in ((box.fd, b"out\n"), (second, b"err\n"))
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(box.new_lines()) == ["err"] * 500 + ["out"] * 500
    os.close(second)


def run_with(box: BlackBox, code: str) -> int:
    """A child process whose stdout and stderr are the box."""
    program = f"import ctypes, os; libc = ctypes.CDLL(None)\n{code}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", program], stdout=box.fd, stderr=box.fd, cwd=ROOT, env=environment
    ).returncode


PRINT = "libc.printf(b'last words\\n')"


def test_without_a_box_a_crash_takes_c_s_last_words_with_it(box: BlackBox) -> None:
    """Why the child's end changes how stdout is buffered."""
    run_with(box, f"{PRINT}; os.kill(os.getpid(), 11)")
    assert box.new_lines() == []


@pytest.mark.parametrize(
    "death", ["os.kill(os.getpid(), 11)", "os.kill(os.getpid(), 9)", "os._exit(3)", "libc.abort()"]
)
def test_the_last_words_survive_the_process(box: BlackBox, death: str) -> None:
    opened = "from exo_rkllm.runtime.blackbox import BlackBox; box = BlackBox(1)"
    assert run_with(box, f"{opened}; {PRINT}; {death}") != 0
    assert box.new_lines() == ["last words"]


def test_a_process_without_stdout_can_hold_a_box() -> None:
    held, stdout = os.memfd_create("box", os.MFD_CLOEXEC), os.dup(1)
    os.close(1)
    try:
        made = BlackBox(held)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    os.write(held, b"line\n")
    assert made.new_lines() == ["line"]
    made.close()


REDIRECTED = """
import sys
from exo_rkllm.runtime.blackbox import redirected

print("before")
try:
    with redirected() as box:
        print("python")
        libc.printf(b"c\\n")
        os.write(2, b"stderr\\n")
        sys.stdout.flush()
        caught = box.new_lines()
        print("lost with the box")
        {inside}
except KeyError:
    pass
print("after", sorted(caught))
"""


@pytest.mark.parametrize("inside", ["pass", "raise KeyError"])
def test_redirected_catches_python_and_c_and_lets_go_again(box: BlackBox, inside: str) -> None:
    """In a process of its own: here, pytest holds stdout."""
    assert run_with(box, REDIRECTED.format(inside=inside)) == 0
    assert box.new_lines() == ["before", "after ['c', 'python', 'stderr']"]


def test_a_line_that_was_cut_by_the_bound_is_left_out(box: BlackBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "BOUND", 10)
    os.write(box.fd, b"a long line\nshort\n")
    assert box.new_lines() == [GAP, "short"]
