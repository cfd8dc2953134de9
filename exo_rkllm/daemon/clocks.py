"""`[board] performance`: the privileged unit is connected to while a model is loaded, and let go of otherwise."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from exo_rkllm.board.performance import Performance
from exo_rkllm.dispatch.status import DispatchStatus
from exo_rkllm.errors import ClocksError

log = logging.getLogger(__name__)
LOADED = ("loading", "ready")


async def follow(changes: AsyncGenerator[DispatchStatus, None], performance: Performance) -> None:
    """Never holds a load back: what cannot be raised is said once, and tried again with the next model."""
    complained = False
    try:
        async with aclosing(changes):
            async for status in changes:
                wanted = any(model.state in LOADED for model in status.models)
                if not wanted:
                    await performance.down()
                    complained = False
                elif not performance.connected and not complained:
                    complained = not await _raise(performance)
    finally:
        await performance.down()


async def _raise(performance: Performance) -> bool:
    try:
        outcome = await performance.up()
    except ClocksError as error:
        log.warning("%s", error)
        return False
    if outcome.done:
        log.info("Clocks are up: %s.", ", ".join(outcome.done))
    for sentence in outcome.failed:
        log.warning("%s", sentence)
    return True
