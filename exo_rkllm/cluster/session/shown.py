"""A replica of exo's state as `exo-rkllm cluster`, the page and the metrics show it."""

from __future__ import annotations

from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.session.snapshot import InstanceView, NodeView


def nodes(replica: Replica, me: str, master: str) -> tuple[NodeView, ...]:
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


def instances(replica: Replica, me: str) -> tuple[InstanceView, ...]:
    views = []
    for instance in replica.instances.values():
        moved = [replica.runners.get(runner) for runner in instance.runners]
        statuses = sorted({status.status.removeprefix("Runner") for status in moved if status is not None})
        views.append(
            InstanceView(
                id=instance.id,
                model=instance.model_id,
                node=", ".join(replica.name(node) for node in instance.node_to_runner),
                status=", ".join(statuses),
                tasks=sum(1 for _ in replica.waiting(instance.id)),
                mine=me in instance.node_to_runner,
            )
        )
    return tuple(views)
