"""Whether the cluster speaks the revision that we speak: what differs in this session, and who was compared."""

from __future__ import annotations

from exo_rkllm.cluster.session.node_query import NodeAnswer
from exo_rkllm.cluster.wire import drift
from exo_rkllm.cluster.wire.revisions import Revision

# Differences and notes that are kept.
KEPT = 16


class Compatibility:
    """`drift` are differences that silence us, `notes` those in types that we never send."""

    def __init__(self, revision: Revision) -> None:
        self.revision = revision
        self.drift: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._compared: set[str] = set()  # nodes whose openapi.json is what we speak

    def restart(self) -> None:
        """Another session; its nodes are the same programs as before."""
        self.drift, self.notes = (), ()

    def needs_openapi(self, node: str) -> bool:
        return node not in self._compared

    def compare(self, answer: NodeAnswer) -> tuple[str, ...]:
        """All differences that a node's answer over HTTP shows."""
        differences = [] if answer.state is None else list(drift.state_keys(self.revision, answer.state))
        if answer.openapi is not None:
            differences += drift.openapi(self.revision, answer.openapi)
            if not differences:
                self._compared.add(answer.node_id)
        return tuple(differences)

    def add_drift(self, differences: tuple[str, ...]) -> None:
        self.drift = (*self.drift, *(one for one in differences if one not in self.drift))[:KEPT]

    def is_new_note(self, problem: str) -> bool:
        if problem in self.notes or len(self.notes) >= KEPT:
            return False
        self.notes = (*self.notes, problem)
        return True

    def sentence(self, differences: tuple[str, ...]) -> str:
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        return (
            f"The exo cluster speaks another revision than {self.revision.name}: {differences[0]}{more}."
            " Nothing is published to it."
        )
