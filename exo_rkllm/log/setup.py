"""Where this process's lines go: systemd's journal with their fields, or standard error; and the ring."""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Callable, Mapping

from exo_rkllm.log.fields import fields_of, text_of
from exo_rkllm.log.ring import Ring

ROOT = "exo_rkllm"
PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
JOURNAL = "/run/systemd/journal/socket"


class Plain(logging.Formatter):
    """For a terminal or a container's log: the time, the level where it matters, the text, the request."""

    def format(self, record: logging.LogRecord) -> str:
        moment = self.formatTime(record, "%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        request = fields_of(record).get("request", "")
        return f"{moment} {level}{text_of(record)}" + (f"  [{request}]" if request else "")


class JournalHandler(logging.Handler):
    """One journal entry a line; `send` is systemd.journal's. A journal that takes no line loses it."""

    def __init__(self, send: Callable[..., None], address: str = JOURNAL) -> None:
        super().__init__()
        self._send = send
        self._address = address

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not journal_reads(self._address):  # which needs a descriptor of its own
                return
            self._send(
                text_of(record),
                PRIORITY=str(PRIORITIES.get(record.levelname, 6)),
                SYSLOG_IDENTIFIER="exo-rkllm",
                LOGGER=record.name,
                # Without these `send` walks the stack, and finds this handler.
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                **{f"EXO_RKLLM_{name.upper()}": value for name, value in fields_of(record).items()},
            )
        except Exception:  # noqa: BLE001 - a line must never fail whoever logs it
            self.handleError(record)


def journal_reads(address: str) -> bool:
    """Whether the journal takes a line now. libsystemd waits for it, and systemd-python 235 holds the interpreter's
    lock meanwhile, so that a journal which hangs would stop every thread of the daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except OSError:
            return False
        poll = select.poll()
        poll.register(probe, select.POLLOUT)
        return bool(poll.poll(0))


def journal() -> logging.Handler | None:
    """None where systemd-python is not installed."""
    try:
        from systemd.journal import send
    except ImportError:
        return None
    return JournalHandler(send)


def stderr_is_journal(environment: Mapping[str, str]) -> bool:
    """systemd.exec(5), JOURNAL_STREAM."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_up(level: str, environment: Mapping[str, str]) -> Ring:
    """Every line of ours and of the libraries under us, to the journal or standard error, and to the ring."""
    ring = Ring()
    outward = journal() if stderr_is_journal(environment) else None
    if outward is None:
        outward = logging.StreamHandler()
        outward.setFormatter(Plain())
    logger = logging.getLogger()
    logger.handlers[:] = [outward, ring]
    logger.setLevel(logging.WARNING)
    set_level(level)
    return ring


def set_level(level: str) -> None:
    logging.getLogger(ROOT).setLevel(level.upper())
