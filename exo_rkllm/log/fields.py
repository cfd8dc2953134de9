"""Facts that a log line carries beside its text, given as `extra=` to the logger."""

from __future__ import annotations

import logging
from collections.abc import Mapping

# Request and model, who asked, and which process of the machine did (over the control socket).
FIELDS = ("request", "model", "client", "peer")


def fields_of(record: logging.LogRecord) -> Mapping[str, str]:
    return {name: str(value) for name in FIELDS if (value := record.__dict__.get(name)) is not None}


def text_of(record: logging.LogRecord) -> str:
    """The message, and the traceback under it where there is one: for the log, never for a user's terminal."""
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text
