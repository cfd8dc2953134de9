"""Looks for an exo cluster of either transport and chooses the one to join."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from exo_rkllm.cluster.discovery.interfaces import Interfaces, hosts_in
from exo_rkllm.cluster.discovery.libp2p import LIBP2P, SEARCH_EVERY, LibP2pWatch, sentence_of, silent
from exo_rkllm.cluster.discovery.service import EVERY, Discovery, new_nonce
from exo_rkllm.cluster.discovery.state import (
    DISCOVERY_WINDOW,
    FORGET,
    AmbiguousClusters,
    DiscoveredPeer,
    DiscoveryState,
)
from exo_rkllm.cluster.discovery.transports import LIBRARIES, Transport, wanted
from exo_rkllm.cluster.session.link import available
from exo_rkllm.cluster.session.view import why_alone
from exo_rkllm.cluster.wire.revisions import supported
from exo_rkllm.config.table import AUTO, ClusterSettings
from exo_rkllm.errors import ExoRkllmError

# A link that is down for so long does not come back by itself.
START_OVER = 12.0
# Nodes of both transports answer a question within milliseconds; only then is one of them the only one.
HESITATE = 0.1
# Who has answered so lately is there, while questions are asked.
RECENT_ZENOH, RECENT_LIBP2P = 5 * EVERY, 2.5 * SEARCH_EVERY


class SearchListener(Protocol):
    """Whom the search tells."""

    def endpoint_found(self, endpoint: str) -> None:
        """A node of the chosen transport."""

    def transport_likely(self, endpoints: tuple[str, ...]) -> None:
        """Only the other transport was heard until now, at these endpoints."""

    def transport_chosen(self) -> None:
        """`ClusterSearch.transport` is another one than before."""

    def cluster_chosen(self) -> None:
        """`ClusterSearch.namespace` is the cluster to join: from now on something may be said to it."""

    def cluster_ambiguous(self) -> None:
        """Several clusters are heard, and none was named."""

    def interfaces_changed(self) -> None:
        """Addresses of this machine came or went."""

    def link_suspect(self) -> None:
        """A cable is back: what was sent meanwhile waits for TCP's next attempt, which may be 20 s away."""


class ClusterSearch:
    """Hears exo on both transports and stays with one of them while its link is up.

    With `auto`, the newer one is joined if it is heard within the first DISCOVERY_WINDOW, the older one if only that
    is heard. Later it goes over to the other one if that is heard while its own has been down for START_OVER.
    """

    def __init__(self, settings: ClusterSettings, me: str, listener: SearchListener) -> None:
        self.settings = settings
        installed = [transport for transport, library in LIBRARIES.items() if available(library)]
        self.wanted = wanted(settings.namespace, settings.endpoints, installed)
        self.transport = self.wanted.transport or Transport.ZENOH
        self.is_named = settings.namespace != AUTO or bool(settings.endpoints)
        self.interfaces = Interfaces(settings.interfaces)
        self.state = DiscoveryState(me, self.wanted.zenoh, new_nonce, supported()[0].versions, settings.discovery_port)
        self._installed = installed
        self._listener = listener
        self._log = logging.getLogger("exo_rkllm.cluster")
        self._ambiguous: tuple[str, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._likely: asyncio.TimerHandle | None = None
        self._is_chosen = self.is_named
        self._was_linked = False
        self._usable: set[int] = set()  # interfaces, by index
        self._down_since: float | None = None  # None while the link is up

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._down_since = self._loop.time()
        self.discovery = Discovery(
            self.state,
            self.interfaces,
            self.settings.discovery_port,
            configured=hosts_in(self.wanted.endpoints[Transport.ZENOH]),
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
        for timer in (self._timer, self._likely):
            if timer is not None:
                timer.cancel()
        self.discovery.close()
        self.watch.close()

    # ── what was found ──

    @property
    def namespace(self) -> str:
        """The cluster's name, empty while none was chosen."""
        return self.state.namespace if self.transport is Transport.ZENOH else self.wanted.libp2p_label

    def endpoints(self) -> tuple[str, ...]:
        """Of the chosen transport: those of the configuration, then those that were found."""
        found = self.state.endpoints() if self.transport is Transport.ZENOH else self.watch.endpoints()
        return (*self.wanted.endpoints[self.transport], *found)

    def others(self) -> tuple[str, ...]:
        """Clusters that are heard and not joined."""
        zenoh = [f"{one.namespace} at {one.source}" for one in self.state.other_clusters(self._loop.time())]
        if self.transport is Transport.LIBP2P:
            return (*(f"{self.state.namespace} at {source}" for source in self._zenoh_sources(FORGET)), *zenoh)
        return (*zenoh, *(f"{LIBP2P} at {host}" for host in self.watch.hosts()))

    @property
    def problem(self) -> ExoRkllmError | None:
        """Why nodes cannot be discovered."""
        named = self.wanted.endpoints[Transport.ZENOH] or self.wanted.transport is Transport.LIBP2P
        return None if named else self.discovery.problem

    def why_alone(self) -> tuple[str, str]:
        """Why no node is linked to, and what helps."""
        hosts = self.watch.hosts()
        if hosts and not self._ambiguous and self.transport is Transport.LIBP2P:
            return silent(hosts, self.wanted.libp2p)
        has_endpoints = bool(self.endpoints())
        if hosts and not self._ambiguous and not has_endpoints and not self._can_join(Transport.LIBP2P):
            return sentence_of(hosts, self._why_not_libp2p)
        return why_alone(self._ambiguous, self.problem, self.namespace, self.others(), has_endpoints=has_endpoints)

    # ── the choice ──

    def linked(self, *, up: bool) -> None:
        """Search while there is no link to the cluster that was chosen."""
        if not up:
            self._down_since = self._loop.time() if self._down_since is None else self._down_since
        elif self._is_chosen:
            self._down_since, self._was_linked = None, True
        searches = self._down_since is not None
        self.discovery.search(on=searches and self.wanted.transport is not Transport.LIBP2P)
        self.watch.search(on=searches)

    def reconsider(self) -> None:
        """Go over to the other one if it is there and ours is not."""
        other, now = self.transport.other, self._loop.time()
        if self._down_since is None or self._ambiguous or not (self._can_join(other) and self._is_heard(other)):
            return
        patience = START_OVER if self._was_linked or self._is_heard(self.transport) else DISCOVERY_WINDOW
        left = self._down_since + patience - now
        if left > 0:
            self._timer = self._timer or self._loop.call_later(left, self._look)
            if other is Transport.LIBP2P and self._likely is None:
                self._likely = self._loop.call_later(HESITATE, self._tell_likely)
            return
        self.transport, self._was_linked, self._is_chosen, self._down_since = other, False, False, now
        if other is Transport.ZENOH:
            self.watch.forget()
        self._listener.transport_chosen()
        self._settle()

    def _tell_likely(self) -> None:
        self._likely = None
        if not (self.transport is Transport.LIBP2P or self._was_linked or self._is_heard(self.transport)):
            self._listener.transport_likely(self.watch.endpoints())

    def _look(self) -> None:
        self._timer = None
        self.reconsider()
        self._settle()

    def _settle(self) -> None:
        """Choose the cluster, if it is clear which one, or look again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        is_zenoh = self.transport is Transport.ZENOH
        if self._is_chosen:
            return
        if not (self.state.is_settled(now) if is_zenoh else self.endpoints()):
            self._timer = self._loop.call_later(self.state.patience(now), self._look)
            return
        self._is_chosen, self._ambiguous = True, ()
        self._listener.cluster_chosen()
        others = self.watch.hosts(RECENT_LIBP2P)
        if is_zenoh and others and self._can_join(Transport.LIBP2P):
            self._tell_of_libp2p(others)

    def _can_join(self, transport: Transport) -> bool:
        return transport in self._installed and self.wanted.transport in (None, transport)

    @property
    def _why_not_libp2p(self) -> str:
        if Transport.LIBP2P not in self._installed:
            return "missing"
        return "named" if self.wanted.transport is Transport.ZENOH else "newer"

    def _zenoh_sources(self, seconds: float) -> tuple[str, ...]:
        return self.state.sources(self._loop.time() - seconds)

    def _is_heard(self, transport: Transport) -> bool:
        """Whether it has answered the last questions."""
        is_zenoh = transport is Transport.ZENOH
        return bool(self._zenoh_sources(RECENT_ZENOH) if is_zenoh else self.watch.hosts(RECENT_LIBP2P))

    # ── what is heard ──

    def _on_peer(self, peer: DiscoveredPeer) -> None:
        self._log.debug("Found exo node %s at %s", peer.node_id, peer.endpoint)
        if self.transport is Transport.ZENOH:
            self._listener.endpoint_found(peer.endpoint)
        elif self._down_since is not None:
            self.reconsider()
        else:
            self._log.warning(
                "exo %s is heard at %s and not joined: this board is in the cluster %s.",
                *(self.state.namespace, peer.source, self.namespace),
            )

    def _on_ambiguity(self, clusters: AmbiguousClusters) -> None:
        """Join none of several clusters: the configuration has to name one."""
        if self.transport is not Transport.ZENOH:
            return
        self._ambiguous, self._is_chosen = clusters.namespaces, False
        self._log.warning(
            "Several exo clusters are heard (%s) and none is joined. Set namespace in [cluster] to one of them.",
            ", ".join(clusters.namespaces),
        )
        self._listener.cluster_ambiguous()

    def _on_libp2p_host(self, host: str) -> None:
        joined_zenoh = self._is_chosen and self.transport is Transport.ZENOH
        if joined_zenoh or not self._can_join(Transport.LIBP2P):
            self._tell_of_libp2p((host,))

    def _on_libp2p_endpoint(self, endpoint: str) -> None:
        self._log.debug("Found exo 1.0.71 at %s", endpoint)
        if self.transport is Transport.LIBP2P:
            self._listener.endpoint_found(endpoint)
        else:
            self.reconsider()

    def _tell_of_libp2p(self, hosts: tuple[str, ...]) -> None:
        self._log.warning("%s %s", *sentence_of(hosts, self._why_not_libp2p))

    def _on_interfaces(self) -> None:
        usable = {entry.index for entry in self.interfaces.usable()}
        is_back, self._usable = bool(usable - self._usable), usable
        self.watch.use(usable)
        self._listener.interfaces_changed()
        if is_back and self.transport is Transport.LIBP2P:
            self._listener.link_suspect()
