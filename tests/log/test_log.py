"""Log lines with their fields, in the ring, in the journal's own protocol, and on a terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from exo_rkllm.log.journal import Journal, is_ours
from exo_rkllm.log.ring import KEPT, Ring
from exo_rkllm.log.setup import Plain

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    one = logging.getLogger("exo_rkllm.tests.log")
    one.setLevel("DEBUG")
    one.propagate = False
    yield one
    for handler in list(one.handlers):
        one.removeHandler(handler)
        handler.close()


# ── the ring ─────────────────────────────────────────────────────────────────────────────────────


def test_the_ring_keeps_the_latest_with_their_fields(logger: logging.Logger) -> None:
    ring = Ring()
    logger.addHandler(ring)
    for number in range(KEPT + 5):
        logger.info("line %d", number, extra={"request": "abc", "unknown": 1})
    latest = ring.latest(2)
    assert [line.text for line in latest] == [f"line {KEPT + 3}", f"line {KEPT + 4}"]
    assert (latest[0].level, latest[0].source, latest[0].fields) == ("info", "tests.log", {"request": "abc"})
    assert len(ring.latest(KEPT * 2)) == KEPT
    assert ring.latest(0) == []


async def test_followers_hear_of_new_lines_from_any_thread(logger: logging.Logger) -> None:
    ring = Ring()
    logger.addHandler(ring)
    logger.info("before")
    logger.info("last before")
    async with aclosing(ring.follow(1)) as lines:
        assert (await lines.__anext__()).text == "last before"
        waits = asyncio.ensure_future(lines.__anext__())
        await asyncio.sleep(0)
        thread = threading.Thread(target=logger.warning, args=("from %s", "elsewhere"))
        thread.start()
        assert (await asyncio.wait_for(waits, 2)).text == "from elsewhere"
        thread.join()
    assert not ring._followers


# ── the journal ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def journal(tmp_path: Path, logger: logging.Logger) -> Iterator[socket.socket]:
    """A journal's socket, and the logger that writes to it."""
    address = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(2)
        logger.addHandler(Journal(address))
        yield listening


def fields(datagram: bytes) -> dict[str, str]:
    """The native protocol read back: systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    found: dict[str, str] = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", datagram[:8])
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def test_a_line_in_the_journal_can_be_searched_by_its_request(logger: logging.Logger, journal: socket.socket) -> None:
    logger.warning("two\nlines", extra={"request": "abc", "model": "qwen3"})
    assert fields(journal.recv(65536)) == {
        "MESSAGE": "two\nlines",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "exo-rkllm",
        "LOGGER": "exo_rkllm.tests.log",
        "EXO_RKLLM_REQUEST": "abc",
        "EXO_RKLLM_MODEL": "qwen3",
    }


def test_a_traceback_goes_into_the_log(logger: logging.Logger, journal: socket.socket) -> None:
    try:
        1 / 0  # noqa: B018 - raises
    except ZeroDivisionError:
        logger.exception("It broke")
    message = fields(journal.recv(65536))["MESSAGE"]
    assert message.startswith("It broke\nTraceback")
    assert message.endswith("ZeroDivisionError: division by zero")


def test_a_line_that_is_too_long_is_cut_and_a_journal_that_is_gone_is_not_waited_for(
    logger: logging.Logger, journal: socket.socket
) -> None:
    logger.error("x" * 10_000_000)
    message = fields(journal.recv(1 << 20))["MESSAGE"]
    assert message.endswith("x [cut]")
    assert len(message) < 20_000
    journal.close()
    logger.error("nobody hears this")


def test_the_journal_is_recognised_by_its_stream() -> None:
    seen = os.fstat(2)
    assert is_ours({"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"})
    assert not is_ours({"JOURNAL_STREAM": "1:2"})
    assert not is_ours({})


# ── the terminal ─────────────────────────────────────────────────────────────────────────────────


def test_a_terminal_shows_the_level_only_where_it_matters(logger: logging.Logger) -> None:
    record = logger.makeRecord("x", logging.INFO, "f", 1, "All is %s.", ("well",), None, extra={"request": "abc"})
    assert Plain().format(record)[9:] == "All is well.  [abc]"
    record = logger.makeRecord("x", logging.ERROR, "f", 1, "All is lost.", (), None)
    assert Plain().format(record)[9:] == "error: All is lost."


def test_a_process_begins_with_our_lines_at_its_level_and_others_only_when_they_warn() -> None:
    code = """
import logging
from exo_rkllm.log.setup import begin, set_level
ring = begin("info", {})
logging.getLogger("exo_rkllm.x").debug("no")
logging.getLogger("exo_rkllm.x").info("one")
logging.getLogger("aiohttp").info("no")
logging.getLogger("aiohttp").warning("two")
set_level("debug")
logging.getLogger("exo_rkllm.x").debug("three")
print([line.text for line in ring.latest(9)])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['one', 'two', 'three']"
    assert [line[9:] for line in done.stderr.splitlines()] == ["one", "warning: two", "debug: three"]
