"""Log lines with their fields, in the ring, in the journal's own protocol, and on a terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.log.ring import KEPT, Ring
from exo_rkllm.log.setup import JournalHandler, Plain, stderr_is_journal

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
def journal(logger: logging.Logger, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """The entries that the logger's lines become, as long as somebody listens."""
    entries: list[dict[str, Any]] = []
    address = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        send = lambda message, **fields: entries.append({"MESSAGE": message, **fields})  # noqa: E731
        logger.addHandler(JournalHandler(send, address))
        yield entries


def test_line_in_the_journal_can_be_searched_by_its_request(
    logger: logging.Logger, journal: list[dict[str, Any]]
) -> None:
    logger.warning("two\nlines", extra={"request": "abc", "model": "qwen3"})
    (entry,) = journal
    assert entry.pop("CODE_FILE") == __file__
    assert entry.pop("CODE_LINE") > 0
    assert entry == {
        "MESSAGE": "two\nlines",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "exo-rkllm",
        "LOGGER": "exo_rkllm.tests.log",
        "CODE_FUNC": "test_line_in_the_journal_can_be_searched_by_its_request",
        "EXO_RKLLM_REQUEST": "abc",
        "EXO_RKLLM_MODEL": "qwen3",
    }


def test_traceback_goes_into_the_log(logger: logging.Logger, journal: list[dict[str, Any]]) -> None:
    try:
        1 / 0  # noqa: B018 - raises
    except ZeroDivisionError:
        logger.exception("It broke")
    message = journal[0]["MESSAGE"]
    assert message.startswith("It broke\nTraceback")
    assert message.endswith("ZeroDivisionError: division by zero")


# A journal of its own, at the fixed place where libsystemd looks for it.
IN_A_NAMESPACE = """
import os, socket, sys, time, logging
os.makedirs("/run/systemd/journal")
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind("/run/systemd/journal/socket")
os.environ["JOURNAL_STREAM"] = "{0.st_dev}:{0.st_ino}".format(os.fstat(2))
from exo_rkllm.log.setup import set_up
set_up("info", os.environ)
log = logging.getLogger("exo_rkllm.x")
log.info("first", extra={"request": "abc"})
print(sorted(line for line in server.recv(65536).decode().splitlines() if line.startswith(("MESS", "PRIO", "EXO_"))))
began = time.monotonic()
for number in range(5000):  # nobody reads any more
    log.info("line %d", number)
print("waited" if time.monotonic() - began > 5 else "went on")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace is root's")
def test_journal_that_does_not_read_is_not_waited_for() -> None:
    script = 'mount -t tmpfs none /run && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "-", sys.executable, "-c", IN_A_NAMESPACE],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("this container may not mount")
    assert done.stdout.splitlines() == ["['EXO_RKLLM_REQUEST=abc', 'MESSAGE=first', 'PRIORITY=6']", "went on"], (
        done.stderr
    )


def test_the_journal_is_recognised_by_its_stream() -> None:
    seen = os.fstat(2)
    assert stderr_is_journal({"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"})
    assert not stderr_is_journal({"JOURNAL_STREAM": "1:2"})
    assert not stderr_is_journal({})


# ── the terminal ─────────────────────────────────────────────────────────────────────────────────


def test_a_terminal_shows_the_level_only_where_it_matters(logger: logging.Logger) -> None:
    record = logger.makeRecord("x", logging.INFO, "f", 1, "All is %s.", ("well",), None, extra={"request": "abc"})
    assert Plain().format(record)[9:] == "All is well.  [abc]"
    record = logger.makeRecord("x", logging.ERROR, "f", 1, "All is lost.", (), None)
    assert Plain().format(record)[9:] == "error: All is lost."


def test_a_process_begins_with_our_lines_at_its_level_and_others_only_when_they_warn() -> None:
    code = """
import logging
from exo_rkllm.log.setup import set_level, set_up
ring = set_up("info", {})
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
