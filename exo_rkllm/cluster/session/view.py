"""The cluster as this node sees it, as one frozen value for the CLI, the page, `doctor` and the metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from exo_rkllm.errors import ExoRkllmError

if TYPE_CHECKING:  # a daemon is ready before it joins a cluster, and may join none
    from exo_rkllm.cluster.session.replica import Replica
    from exo_rkllm.cluster.worker.state import Worker


class Phase(str, Enum):
    """Where the node is; the value is the word that people read."""

    OFF = "off"
    SEARCHING = "searching"  # nobody heard, or no link to anybody
    LISTENING = "listening"  # linked, the master not known yet
    CHECKING = "checking"  # comparing the cluster with what we speak, nothing published yet
    JOINING = "joining"  # introduced, reading the log
    SERVING = "serving"
    PASSIVE = "passive"  # following without a word
    OUT = "out"  # stopped until told
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class NodeView:
    id: str
    name: str = ""
    model: str = ""
    chip: str = ""
    addresses: tuple[str, ...] = ()
    master: bool = False
    me: bool = False


@dataclass(frozen=True, slots=True)
class InstanceView:
    id: str
    model: str
    node: str  # its name, or its id where it has none
    status: str
    tasks: int
    mine: bool = False


@dataclass(frozen=True, slots=True)
class OfferView:
    """A model of this board in the cluster: `offered` is its instance there; `reason` is why there is none."""

    id: str  # in the cluster
    model: str  # in the catalogue
    offered: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Echoes:
    """How long events of ours took to come back in the log: a number, seconds together, the longest."""

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    def __add__(self, other: Echoes) -> Echoes:
        return Echoes(self.count + other.count, self.seconds + other.seconds, max(self.longest, other.longest))


@dataclass(frozen=True, slots=True)
class ClusterCounters:
    """Since the daemon started."""

    sessions: int = 0
    links: int = 0
    events_in: int = 0
    events_out: int = 0
    commands_out: int = 0
    resends: int = 0
    gap_repairs: int = 0
    garbage: int = 0
    refused: int = 0  # messages of ours that the schema stopped
    tasks: int = 0
    echoes: Echoes = Echoes()


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the operator should know of the cluster, and what to do about it."""

    sentence: str
    hint: str


def unconfirmed(namespace: str) -> Announcement:
    """Of a cluster that was joined because it was the only one heard."""
    return Announcement(
        f"This board joins the exo cluster {namespace}, which nobody has confirmed: all its nodes may use the models.",
        "exo-rkllm cluster join confirms it; exo-rkllm cluster leave forbids it, as does enabled = false under "
        "[cluster]",
    )


@dataclass(frozen=True, slots=True)
class ClusterView:
    phase: Phase
    node_id: str = ""
    name: str = ""
    namespace: str = ""
    sentence: str = ""  # why, where the phase is not `serving`
    hint: str = ""
    revision: str = ""
    master: str = ""
    election_clock: int = 0
    session_age: float = 0.0
    nodes: tuple[NodeView, ...] = ()
    instances: tuple[InstanceView, ...] = ()
    offers: tuple[OfferView, ...] = ()
    tasks: int = 0  # of ours, in hand
    log_index: int = 0
    lag: int = 0  # events known to exist and not seen
    unechoed: int = 0
    drift: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    other_clusters: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    announcement: Announcement | None = None
    counters: ClusterCounters = ClusterCounters()

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def why_alone(
    ambiguous: Sequence[str],
    problem: ExoRkllmError | None,
    namespace: str,
    other_clusters: Sequence[str],
    *,
    has_endpoints: bool,
) -> tuple[str, str]:
    """Why a node that searches is alone, and what helps; `problem` is discovery's own."""
    if ambiguous:
        return (
            f"Several exo clusters are heard and none is joined: {', '.join(ambiguous)}.",
            "Set namespace in [cluster] to one of them.",
        )
    if problem is not None:
        return problem.sentence, problem.hint
    if has_endpoints:
        return "No exo node answers at the addresses known.", ""
    if other_clusters:
        return (
            f"exo {other_clusters[0]} is heard, which is not the cluster {namespace}.",
            'Set namespace in [cluster] to it, or to "auto".',
        )
    return "No exo node is heard on the local network.", ""


def node_views(replica: Replica, me: str, master: str) -> tuple[NodeView, ...]:
    return tuple(
        NodeView(
            id=node,
            name=facts.name or "",
            model=facts.model or "",
            chip=facts.chip or "",
            addresses=facts.addresses or (),
            master=node == master,
            me=node == me,
        )
        for node, facts in replica.nodes.items()
    )


def instance_views(replica: Replica, me: str) -> tuple[InstanceView, ...]:
    views = []
    for instance in replica.instances.values():
        runners = [replica.runners.get(runner, "").removeprefix("Runner") for runner in instance.runners]
        views.append(
            InstanceView(
                id=instance.id,
                model=instance.model_id,
                node=", ".join(replica.name(node) for node in instance.node_to_runner),
                status=", ".join(sorted({status for status in runners if status})),
                tasks=sum(1 for _ in replica.waiting(instance.id)),
                mine=me in instance.node_to_runner,
            )
        )
    return tuple(views)


def offer_views(worker: Worker, replica: Replica) -> tuple[OfferView, ...]:
    """All models that this board may offer. None is offered to a cluster that the worker does not serve."""
    instances = {instance.model_id for instance in replica.mine() if worker.serving}
    offered = {model_id for model_id, _ in worker.offered() if model_id in instances}
    return tuple(
        OfferView(model_id, model.id, model_id in offered, "" if model_id in offered else _reason(worker, model_id))
        for model_id, model in worker.models.items()
    )


def _reason(worker: Worker, model_id: str) -> str:
    model = worker.models[model_id]
    if model.state == "failed":
        return model.problem or "It cannot be loaded."
    if model_id in worker.withdrawn:
        return "Somebody took it out of the cluster; exo-rkllm cluster join offers it again."
    if worker.placement == "dashboard":
        return "It waits to be launched from exo's dashboard."
    return "The cluster has not placed it yet." if worker.serving else "This board is not in the cluster."
