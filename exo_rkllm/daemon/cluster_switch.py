"""Whether the board takes part in an exo cluster. What that takes is imported when it does, after the API answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exo_rkllm.cluster.identity import JOIN, LEFT, NodeIdentity
from exo_rkllm.config import ClusterSettings
from exo_rkllm.config.table import AUTO
from exo_rkllm.errors import ConfigError, ExoRkllmError

if TYPE_CHECKING:
    from exo_rkllm.cluster.node import ClusterNode
    from exo_rkllm.cluster.session.view import ClusterView

log = logging.getLogger(__name__)

UNNAMED = (
    "No exo cluster is joined: this board has API keys, and exo asks for none. Write namespace or endpoints under "
    "[cluster] to name the cluster that may use its models."
)


def may_join(cluster: ClusterSettings, *, keys: bool) -> bool:
    """exo asks nobody for a key: who has API keys has to name the cluster that may ask without one."""
    return not keys or cluster.namespace != AUTO or bool(cluster.endpoints)


class ClusterSwitch:
    """Starts and ends the board's node, at the operator's word, too; `build` gives None where there is to be none.

    `node` is None while the board takes part in no cluster.
    """

    def __init__(self, build: Callable[[], ClusterNode | None], folder: Path) -> None:
        self.node: ClusterNode | None = None
        self._build = build
        self._identity = NodeIdentity(folder)
        self._left = self._identity.stay_out() == LEFT
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """A board that cannot join still serves."""
        async with self._turn:
            await self._start()

    async def stop(self) -> None:
        """With a goodbye, so that no node of the cluster waits for this board."""
        async with self._turn:
            await self._stop()

    async def join(self) -> None:
        """The operator wants the board in, with all its models, whatever kept it out."""
        async with self._turn:
            if self.node is not None:
                self.node.join()
                return
            if self._left:
                self._remember("")  # first: the node stays out while its folder has a reason to
            await self._start()

    async def leave(self) -> None:
        """The operator wants the board out, until `join`, restarts included."""
        async with self._turn:
            self._left = True
            await self._stop()
            self._remember(LEFT)

    def view(self) -> ClusterView | None:
        if self.node is not None:
            return self.node.view()
        if not self._left:
            return None
        from exo_rkllm.cluster.session.view import ClusterView, Phase

        return ClusterView(Phase.OFF, sentence=LEFT, hint=JOIN)

    @property
    def node_id(self) -> str:
        return "" if self.node is None else self.node.node_id

    async def _start(self) -> None:
        if self._left:
            log.info("%s %s brings it back.", LEFT, JOIN)
            return
        try:
            node = self._build()
            if node is not None:
                await node.start()
                self.node = node
        except (ExoRkllmError, OSError) as error:
            log.error("No exo cluster is joined: %s", error)  # noqa: TRY400 - the sentence is all there is

    async def _stop(self) -> None:
        node, self.node = self.node, None
        if node is not None:
            await node.stop()

    def _remember(self, reason: str) -> None:
        self._left = bool(reason)
        try:
            self._identity.keep_out(reason)
        except OSError as error:
            raise ConfigError(
                f"This lasts until the daemon ends only: {error.filename} cannot be written ({error.strerror}).",
                f"Write enabled = {str(not reason).lower()} under [cluster].",
            ) from None
