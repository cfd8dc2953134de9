"""exo's own placement, run by a Python that has exo: clusters on stdin, where each model went on stdout, as JSON.

A cluster is its events, the models' cards, and the ways in which each is wanted; an answer is the ring in its order,
or None where exo refuses.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from exo.master.placement import place_instance
from exo.shared.apply import event_apply
from exo.shared.types.commands import PlaceInstance
from exo.shared.types.events import Event
from exo.shared.types.state import State
from pydantic import TypeAdapter

EVENT = TypeAdapter(Event)


def placed(state: Any, card: Any, way: Any) -> list[str] | None:
    wanted = {"sharding": way["sharding"], "instance_meta": way["meta"], "min_nodes": way["min_nodes"]}
    try:
        instances = place_instance(
            PlaceInstance.model_validate_json(json.dumps({"PlaceInstance": {"model_card": card, **wanted}})),
            state.topology,
            {},
            state.node_memory,
            state.node_network,
            state.node_backends,
            download_status=state.downloads,
            node_rdma_ctl=state.node_rdma_ctl,
        )
    except ValueError:
        return None
    (instance,) = instances.values()
    return list(instance.shard_assignments.node_to_runner)


def main() -> None:
    answers = []
    for cluster in json.load(sys.stdin):
        state = State()
        for event in cluster["events"]:
            state = event_apply(EVENT.validate_json(json.dumps(event)), state)
        answers.append([placed(state, card, way) for card in cluster["cards"] for way in cluster["ways"]])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
