"""Lines for systemd's journal with their fields, in its native protocol: one datagram a line."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress

from exo_rkllm.log.fields import fields_of, text_of

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
# A datagram that is too large for the socket's buffer is sent again with this much of its text.
SHORT = 16_000


def is_ours(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal already: systemd.exec(5), JOURNAL_STREAM."""
    try:
        seen = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{seen.st_dev}:{seen.st_ino}"


class Journal(logging.Handler):
    """A journal that does not take a line loses that line; the daemon never waits for it."""

    def __init__(self, address: str = SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        text = text_of(record)
        try:
            self._socket.sendto(self._datagram(record, text), self._address)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                with suppress(OSError):
                    self._socket.sendto(self._datagram(record, text[:SHORT] + " [cut]"), self._address)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _datagram(self, record: logging.LogRecord, text: str) -> bytes:
        fields = {
            "MESSAGE": text,
            "PRIORITY": str(PRIORITIES.get(record.levelname, 6)),
            "SYSLOG_IDENTIFIER": "exo-rkllm",
            "LOGGER": record.name,
            **{f"EXO_RKLLM_{name.upper()}": value for name, value in fields_of(record).items()},
        }
        return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
