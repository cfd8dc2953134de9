"""Where exo's master places a model (reference 4): rings of nodes, the smallest ones first, and only then backends."""

from __future__ import annotations

from collections.abc import Iterator

from tests.exo_cluster.standin.state import Json, State, unwrap

# What an engine of exo runs on, by the kind of instance.
ENGINES = {"MlxRing": {"MlxMetal", "MlxCuda", "MlxCpu"}, "MlxJaccl": {"MlxMetal"}}


class NoPlacement(Exception):
    """What exo's API answers with status 400."""


def place(state: State, card: Json, *, min_nodes: int = 1, sharding: str = "Pipeline", meta: str = "MlxRing") -> Json:
    """The ring of nodes that a model is placed on, in order; raises NoPlacement."""
    rings = [(node,) for node in state.topology] + list(_cycles(state))
    rings = [ring for ring in rings if len(ring) >= min_nodes and _has_memory(state, ring, card)]
    if sharding == "Tensor":
        rings = [ring for ring in rings if _divides(card, len(ring))]
    if not rings:
        raise NoPlacement("No cycles with sufficient memory")
    smallest = min(len(ring) for ring in rings)
    rings = [ring for ring in rings if len(ring) == smallest]
    usable = ENGINES["MlxRing" if smallest == 1 else meta] & set(card["backends"])
    if not usable:
        raise NoPlacement(f"backends {card['backends']} cannot satisfy engine {meta}")
    rings = [ring for ring in rings if all(usable & set(state.node_backends.get(node, ())) for node in ring)]
    if not rings:
        raise NoPlacement(f"No cycle where every node supports a backend in {sorted(usable)}")
    leafy = [ring for ring in rings if any(len(state.neighbours(node)) <= 1 for node in ring)]
    return max(leafy or rings, key=lambda ring: (_downloaded(state, ring, card), _free(state, ring)))


def _cycles(state: State) -> Iterator[tuple[str, ...]]:
    """Every simple cycle of two nodes and more, once, beginning at its first node."""
    order = {node: number for number, node in enumerate(state.topology)}

    def grow(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for node in sorted(state.neighbours(path[-1]), key=order.__getitem__):
            if node == path[0] and len(path) > 1:
                yield path
            elif node not in path and order[node] > order[path[0]]:
                yield from grow((*path, node))

    for node in state.topology:
        yield from grow((node,))


def _free(state: State, ring: tuple[str, ...]) -> int:
    return sum(int(state.node_memory[node]["ram_available"]["in_bytes"]) for node in ring)


def _has_memory(state: State, ring: tuple[str, ...], card: Json) -> bool:
    known = all(node in state.node_memory for node in ring)
    return known and _free(state, ring) >= card["storage_size"]["in_bytes"]


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
