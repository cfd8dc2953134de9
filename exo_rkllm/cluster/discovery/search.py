"""Looks for an exo cluster of either generation and chooses the one to join."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from exo_rkllm.cluster.discovery.generation import LIBRARIES, Generation, wanted
from exo_rkllm.cluster.discovery.interfaces import Interfaces, hosts_in
from exo_rkllm.cluster.discovery.libp2p import LIBP2P, SEARCH_EVERY, LibP2pWatch, sentence_of
from exo_rkllm.cluster.discovery.service import EVERY, Discovery, new_nonce
from exo_rkllm.cluster.discovery.state import (
    DISCOVERY_WINDOW,
    FORGET,
    AmbiguousClusters,
    DiscoveredPeer,
    DiscoveryState,
)
from exo_rkllm.cluster.session.transport import available
from exo_rkllm.cluster.session.view import why_alone
from exo_rkllm.cluster.wire.revisions import supported
from exo_rkllm.config.table import AUTO, ClusterSettings
from exo_rkllm.errors import ExoRkllmError

# A link that is down for so long does not come back by itself.
START_OVER = 12.0


class SearchListener(Protocol):
    """Whom the search tells."""

    def endpoint_found(self, endpoint: str) -> None:
        """A node of the chosen generation."""

    def generation_chosen(self) -> None:
        """`ClusterSearch.generation` is another one than before."""

    def cluster_chosen(self) -> None:
        """`ClusterSearch.namespace` is the cluster to join: from now on something may be said to it."""

    def cluster_ambiguous(self) -> None:
        """Several clusters are heard, and none was named."""

    def interfaces_changed(self) -> None:
        """Addresses of this machine came or went."""


class ClusterSearch:
    """Hears both generations and stays with one of them while its link is up.

    With `auto`, the newer one is joined if it is heard within the first DISCOVERY_WINDOW, the older one if only that
    is heard. Later it goes over to the other generation if that is heard while its own has been down for START_OVER.
    """

    def __init__(self, settings: ClusterSettings, me: str, listener: SearchListener) -> None:
        self.settings = settings
        installed = [generation for generation, library in LIBRARIES.items() if available(library)]
        self.wanted = wanted(settings.namespace, settings.endpoints, installed)
        self.generation = self.wanted.generation or Generation.ZENOH
        self.is_named = settings.namespace != AUTO or bool(settings.endpoints)
        self.interfaces = Interfaces(settings.interfaces)
        self.state = DiscoveryState(me, self.wanted.zenoh, new_nonce, supported()[0].versions, settings.discovery_port)
        self._installed = installed
        self._listener = listener
        self._log = logging.getLogger("exo_rkllm.cluster")
        self._ambiguous: tuple[str, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._is_chosen = self.is_named
        self._was_linked = False
        self._down_since: float | None = None  # None while the link is up

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._down_since = self._loop.time()
        self.discovery = Discovery(
            self.state,
            self.interfaces,
            self.settings.discovery_port,
            configured=hosts_in(self.wanted.endpoints[Generation.ZENOH]),
            on_peer=self._on_peer,
            on_ambiguity=self._on_ambiguity,
            on_interfaces=self._on_interfaces,
        )
        self.watch = LibP2pWatch(self.interfaces.is_neighbour, self._on_libp2p_host, self._on_libp2p_endpoint)
        if self.problem is not None:
            self._log.warning("%s", self.problem)
        self.discovery.start()
        self.linked(up=False)
        if not self.is_named:
            self._timer = self._loop.call_later(DISCOVERY_WINDOW, self._look)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.discovery.close()
        self.watch.close()

    # ── what was found ──

    @property
    def namespace(self) -> str:
        """The cluster's name, empty while none was chosen."""
        return self.state.namespace if self.generation is Generation.ZENOH else self.wanted.libp2p_label

    def endpoints(self) -> tuple[str, ...]:
        """Of the chosen generation: those of the configuration, then those that were found."""
        found = self.state.endpoints() if self.generation is Generation.ZENOH else self.watch.endpoints()
        return (*self.wanted.endpoints[self.generation], *found)

    def others(self) -> tuple[str, ...]:
        """Clusters that are heard and not joined."""
        zenoh = [f"{one.namespace} at {one.source}" for one in self.state.other_clusters(self._loop.time())]
        if self.generation is Generation.LIBP2P:
            return (*(f"{self.state.namespace} at {source}" for source in self._zenoh_sources(FORGET)), *zenoh)
        return (*zenoh, *(f"{LIBP2P} at {host}" for host in self.watch.hosts()))

    @property
    def problem(self) -> ExoRkllmError | None:
        """Why nodes cannot be discovered."""
        named = self.wanted.endpoints[Generation.ZENOH] or self.wanted.generation is Generation.LIBP2P
        return None if named else self.discovery.problem

    def why_alone(self) -> tuple[str, str]:
        """Why no node is linked to, and what helps."""
        hosts = () if self._can_join(Generation.LIBP2P) else self.watch.hosts()
        has_endpoints = bool(self.endpoints())
        sentence = why_alone(self._ambiguous, self.problem, self.namespace, self.others(), has_endpoints=has_endpoints)
        return (
            sentence_of(hosts, missing=self._is_missing)
            if hosts and not (has_endpoints or self._ambiguous)
            else sentence
        )

    # ── the choice ──

    def linked(self, *, up: bool) -> None:
        """Search while there is no link to the cluster that was chosen."""
        if not up:
            self._down_since = self._loop.time() if self._down_since is None else self._down_since
        elif self._is_chosen:
            self._down_since, self._was_linked = None, True
        searches = self._down_since is not None
        self.discovery.search(on=searches and self.wanted.generation is not Generation.LIBP2P)
        self.watch.search(on=searches)

    def reconsider(self) -> None:
        """Go over to the other generation if it is there and ours is not."""
        other, now = self.generation.other, self._loop.time()
        if self._down_since is None or self._ambiguous or not (self._can_join(other) and self._is_heard(other)):
            return
        patience = START_OVER if self._was_linked or self._is_heard(self.generation) else DISCOVERY_WINDOW
        if now - self._down_since < patience:
            return
        self.generation, self._was_linked, self._is_chosen, self._down_since = other, False, False, now
        self._listener.generation_chosen()
        self._settle()

    def _look(self) -> None:
        self.reconsider()
        self._settle()

    def _settle(self) -> None:
        """Choose the cluster, if it is clear which one, or look again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        is_zenoh = self.generation is Generation.ZENOH
        if self._is_chosen:
            return
        if not (self.state.is_settled(now) if is_zenoh else self.endpoints()):
            self._timer = self._loop.call_later(self.state.patience(now), self._look)
            return
        self._is_chosen, self._ambiguous = True, ()
        self._listener.cluster_chosen()
        if is_zenoh and self.watch.hosts():
            self._tell_of_libp2p(self.watch.hosts())

    def _can_join(self, generation: Generation) -> bool:
        return generation in self._installed and self.wanted.generation in (None, generation)

    @property
    def _is_missing(self) -> bool:
        return Generation.LIBP2P not in self._installed

    def _zenoh_sources(self, seconds: float) -> tuple[str, ...]:
        return self.state.sources(self._loop.time() - seconds)

    def _is_heard(self, generation: Generation) -> bool:
        """Whether it has answered the last questions."""
        is_zenoh = generation is Generation.ZENOH
        return bool(self._zenoh_sources(5 * EVERY) if is_zenoh else self.watch.hosts(2.5 * SEARCH_EVERY))

    # ── what is heard ──

    def _on_peer(self, peer: DiscoveredPeer) -> None:
        self._log.debug("Found exo node %s at %s", peer.node_id, peer.endpoint)
        if self.generation is Generation.ZENOH:
            self._listener.endpoint_found(peer.endpoint)
        else:
            self._log.warning(
                "exo %s is heard at %s and not joined: this board is in the cluster %s.",
                *(self.state.namespace, peer.source, self.namespace),
            )

    def _on_ambiguity(self, clusters: AmbiguousClusters) -> None:
        """Join none of several clusters: the configuration has to name one."""
        if self.generation is not Generation.ZENOH:
            return
        self._ambiguous, self._is_chosen = clusters.namespaces, False
        self._log.warning(
            "Several exo clusters are heard (%s) and none is joined. Set namespace in [cluster] to one of them.",
            ", ".join(clusters.namespaces),
        )
        self._listener.cluster_ambiguous()

    def _on_libp2p_host(self, host: str) -> None:
        if self._is_missing or self.wanted.generation is Generation.ZENOH or self._joined_zenoh:
            self._tell_of_libp2p((host,))

    def _on_libp2p_endpoint(self, endpoint: str) -> None:
        self._log.debug("Found exo 1.0.71 at %s", endpoint)
        if self.generation is Generation.LIBP2P:
            self._listener.endpoint_found(endpoint)
        else:
            self.reconsider()

    @property
    def _joined_zenoh(self) -> bool:
        return self._is_chosen and self.generation is Generation.ZENOH

    def _tell_of_libp2p(self, hosts: tuple[str, ...]) -> None:
        self._log.warning("%s %s", *sentence_of(hosts, missing=self._is_missing))

    def _on_interfaces(self) -> None:
        self.watch.use({entry.index for entry in self.interfaces.usable()})
        self._listener.interfaces_changed()
