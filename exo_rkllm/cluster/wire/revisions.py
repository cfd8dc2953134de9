"""The revisions of exo that are supported, as values; a new one is a module with its table and a line below."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from exo_rkllm.cluster.wire import exo_2026_06
from exo_rkllm.cluster.wire.table import Checks, Mismatch, WireTable, parse


@dataclass(frozen=True, slots=True)
class Revision:
    """`exact` checks what exo itself writes and what we send; `accepted` is what an exo node lets pass."""

    name: str
    commits: tuple[str, ...]
    versions: tuple[str, ...]
    table: WireTable
    exact: Checks = field(compare=False)
    accepted: Checks = field(compare=False)


def load(module: ModuleType) -> Revision:
    table = parse(module.TABLE)
    return Revision(
        module.NAME,
        module.COMMITS,
        module.VERSIONS,
        table,
        Checks(table, complete=True),
        Checks(table, complete=False),
    )


def supported() -> tuple[Revision, ...]:
    """Newest first."""
    return (load(exo_2026_06),)


def encoded(revision: Revision, topic: str, message: Mapping[str, Any]) -> bytes:
    """The one way to the wire: a message that any exo node could choke on raises `Mismatch` instead.

    One bad message ends every exo process of a cluster (reference 2.9).
    """
    check = revision.exact.topics.get(topic)
    if check is None:
        raise Mismatch(f"no topic {topic!r}")
    check(message)
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (UnicodeEncodeError, ValueError, TypeError) as error:
        raise Mismatch(str(error)) from error
