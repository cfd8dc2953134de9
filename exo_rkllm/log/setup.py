"""Where this process's lines go."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from exo_rkllm.log.fields import fields_of, text_of
from exo_rkllm.log.journal import Journal, is_ours
from exo_rkllm.log.ring import Ring

ROOT = "exo_rkllm"


class Plain(logging.Formatter):
    """For a terminal or a container's log: the time, the level where it matters, the text, the request."""

    def format(self, record: logging.LogRecord) -> str:
        moment = self.formatTime(record, "%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        request = fields_of(record).get("request", "")
        return f"{moment} {level}{text_of(record)}" + (f"  [{request}]" if request else "")


def begin(level: str, environment: Mapping[str, str]) -> Ring:
    """Every line of ours and of the libraries under us, to the journal or standard error, and to the ring."""
    ring = Ring()
    outward: logging.Handler
    if is_ours(environment):
        outward = Journal()
    else:
        outward = logging.StreamHandler()
        outward.setFormatter(Plain())
    logger = logging.getLogger()
    logger.handlers[:] = [outward, ring]
    logger.setLevel(logging.WARNING)
    set_level(level)
    return ring


def set_level(level: str) -> None:
    logging.getLogger(ROOT).setLevel(level.upper())
