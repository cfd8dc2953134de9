"""Requests that end before their turn: the run loop hears of them, and the log tells of them, once a turn of the loop.

A program with hundreds of connections that ends, or a model that cannot be loaded, ends all who wait for it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import groupby

from exo_rkllm.backends.observer import AnswerReport
from exo_rkllm.dispatch.events import DispatchEvent, QueueLeftEvent
from exo_rkllm.dispatch.request import ActiveRequest, log_line

log = logging.getLogger(__name__)


class QueueDepartures:
    """`post` tells the run loop."""

    def __init__(self, post: Callable[[DispatchEvent], None]) -> None:
        self._post = post
        self._left: list[tuple[ActiveRequest, AnswerReport]] = []

    def add(self, active: ActiveRequest, report: AnswerReport) -> None:
        if not self._left:
            asyncio.get_running_loop().call_soon(self.flush)
        self._left.append((active, report))

    def flush(self) -> None:
        """Before anything else is decided, or in the loop's next turn: however many leave at once."""
        if not self._left:
            return
        left, self._left = self._left, []
        self._post(QueueLeftEvent(frozenset(active.ticket for active, _ in left)))
        left.sort(key=_kind)
        for _, alike in groupby(left, _kind):
            log_departures(list(alike))


def _kind(departure: tuple[ActiveRequest, AnswerReport]) -> tuple[str, str]:
    return departure[1].model, departure[1].reason


def log_departures(alike: Sequence[tuple[ActiveRequest, AnswerReport]]) -> None:
    """One line for all who wanted the same model and ended for the same reason."""
    active, report = alike[0]
    if len(alike) == 1:
        log.info("%s", log_line(report), extra=active.log_fields)
        return
    seconds = [one.seconds for _, one in alike]
    log.info(
        "%s: %s, %d requests before their turn, after %.1f to %.1f s.",
        *(report.model, report.reason, len(alike), min(seconds), max(seconds)),
        extra={"model": report.model},
    )
