"""Where exo's master places a model (reference 4): rings of nodes, the smallest ones first, and only then backends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from tests.exo_cluster.standin.state import Json, State, unwrap

# What an engine of exo runs on, by the kind of instance.
ENGINES = {"MlxRing": {"MlxMetal", "MlxCuda", "MlxCpu"}, "MlxJaccl": {"MlxMetal"}}


class NoPlacement(Exception):
    """What exo's API answers with status 400."""


def place(state: State, card: Json, *, min_nodes: int = 1, sharding: str = "Pipeline", meta: str = "MlxRing") -> Json:
    """The ring of nodes that a model is placed on, in order; raises NoPlacement."""
    rings = [(node,) for node in state.topology] + _cycles(tuple(state.topology), frozenset(state.edges))
    rings = [ring for ring in rings if len(ring) >= min_nodes and _has_memory(state, ring, card)]
    if sharding == "Tensor":
        rings = [ring for ring in rings if _divides(card, len(ring))]
    if not rings:
        raise NoPlacement("No cycles with sufficient memory")
    smallest = min(len(ring) for ring in rings)
    rings = [ring for ring in rings if len(ring) == smallest]
    usable = ENGINES[meta] & set(card["backends"])
    if not usable:
        raise NoPlacement(f"backends {card['backends']} cannot satisfy engine {meta}")
    rings = [ring for ring in rings if all(usable & set(state.node_backends.get(node, ())) for node in ring)]
    if not rings:
        raise NoPlacement(f"No cycle where every node supports a backend in {sorted(usable)}")
    if meta == "MlxJaccl" and not (rings := list(filter(state.is_rdma, rings))):
        raise NoPlacement("no RDMA-connected cycles available")
    leafy = [ring for ring in rings if any(len(state.neighbours(node)) <= 1 for node in ring)]
    ring = max(leafy or rings, key=lambda ring: (_downloaded(state, ring, card), _free(state, ring)))
    if (sharding == "Pipeline" or len(ring) == 1) and not _has_room_for_layers(state, ring, card):
        raise NoPlacement("Node has insufficient memory")
    beside = [pair for pair in zip(ring, ring[1:] + ring[:1], strict=True) if len(ring) > 1]
    if meta == "MlxRing" and not {*beside, *((other, one) for one, other in beside)} <= state.edges.keys():
        raise NoPlacement("MLX ring backend requires connectivity between neighbouring nodes")
    return ring


@lru_cache(maxsize=2)
def _cycles(topology: tuple[str, ...], edges: frozenset[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Every simple cycle of two nodes and more, once, beginning at its first node."""
    order = {node: number for number, node in enumerate(topology)}
    after = {
        node: sorted((sink for source, sink in edges if source == node), key=order.__getitem__) for node in topology
    }

    def grow(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for node in after[path[-1]]:
            if node == path[0] and len(path) > 1:
                yield path
            elif node not in path and order[node] > order[path[0]]:
                yield from grow((*path, node))

    return [ring for node in topology for ring in grow((node,))]


def _free(state: State, ring: tuple[str, ...]) -> int:
    return sum(int(state.node_memory[node]["ram_available"]["in_bytes"]) for node in ring)


def _has_memory(state: State, ring: tuple[str, ...], card: Json) -> bool:
    known = all(node in state.node_memory for node in ring)
    return known and _free(state, ring) >= card["storage_size"]["in_bytes"]


def _has_room_for_layers(state: State, ring: tuple[str, ...], card: Json) -> bool:
    """Layers go by memory, the rest by the largest remainders, and each node gets one."""
    shares = [_free(state, (node,)) / _free(state, ring) * card["n_layers"] for node in ring]
    layers = list(map(int, shares))
    places = sorted(range(len(ring)), key=lambda place: shares[place] - layers[place], reverse=True)
    for place in places[: card["n_layers"] - sum(layers)]:
        layers[place] += 1
    for place in places if 0 in layers else ():
        if layers[place] == 0:
            layers[layers.index(max(layers))] -= 1
            layers[place] = 1
    sizes = [card["storage_size"]["in_bytes"] * count // card["n_layers"] for count in layers]
    return all(size <= _free(state, (node,)) for size, node in zip(sizes, ring, strict=True))


def _divides(card: Json, nodes: int) -> bool:
    heads = card.get("num_key_value_heads")
    whole = card["hidden_size"] % nodes == 0 and (heads is None or heads % nodes == 0)
    return bool(card["supports_tensor"]) and whole


def _downloaded(state: State, ring: tuple[str, ...], card: Json) -> int:
    def has(node: str) -> bool:
        models = [
            unwrap(unwrap(entry)[1]["shard_metadata"])[1]["model_card"]["model_id"]
            for entry in state.downloads.get(node, [])
            if "DownloadCompleted" in entry
        ]
        return card["model_id"] in models

    return sum(has(node) for node in ring)
