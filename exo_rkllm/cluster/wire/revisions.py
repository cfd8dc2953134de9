"""The revisions of exo that are supported: each module `exo_*` here is one, and the table in it all there is to it.

A revision may name the table of a later one and what that one has added (`WITHOUT`).
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from exo_rkllm.cluster import wire
from exo_rkllm.cluster.wire.checks import Checks, Mismatch
from exo_rkllm.cluster.wire.table import WireTable, parse


@dataclass(frozen=True, slots=True)
class Revision:
    """`exact` checks what exo itself writes and what we send; `accepted` is what an exo node lets pass.

    `versions` are the namespaces of exo nodes that nobody gave another one.
    """

    name: str
    commits: tuple[str, ...]
    versions: tuple[str, ...]
    table: WireTable
    exact: Checks = field(compare=False)
    accepted: Checks = field(compare=False)
    transport: str = "zenoh"

    def encode(self, topic: str, message: Mapping[str, Any]) -> bytes:
        """A message for this topic, completed with the defaults of the table.

        Everything that leaves this node comes from here: one bad message ends every exo process of a cluster
        (reference 2.9). Raises Mismatch if any exo node would refuse the message.
        """
        check = self.exact.topics.get(topic)
        if check is None:
            raise Mismatch(f"no topic {topic!r}")
        complete = self.table.shape(self.table.topics[topic], message)
        check(complete)
        try:
            return json.dumps(complete, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (UnicodeEncodeError, ValueError, TypeError) as error:
            raise Mismatch(str(error)) from error

    def shape(self, topic: str, message: Mapping[str, Any]) -> Any:
        """A message from this topic, spelled and completed as the table has it; unknown parts are kept."""
        return self.table.shape(self.table.topics[topic], message)


def load(module: ModuleType) -> Revision:
    table = parse(module.TABLE).without(getattr(module, "WITHOUT", ""))
    exact, accepted = Checks(table, complete=True), Checks(table, complete=False)
    transport = getattr(module, "TRANSPORT", "zenoh")
    return Revision(module.NAME, module.COMMITS, module.VERSIONS, table, exact, accepted, transport)


def supported() -> tuple[Revision, ...]:
    """Newest first."""
    names = sorted((entry.name for entry in pkgutil.iter_modules(wire.__path__)), reverse=True)
    return tuple(load(importlib.import_module(f"{wire.__name__}.{name}")) for name in names if name.startswith("exo_"))
