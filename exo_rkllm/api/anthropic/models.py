"""Models as Anthropic's API lists them, under the path that it shares with OpenAI's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from exo_rkllm.api.common_fields import modified_seconds
from exo_rkllm.catalogue.entry import Entry

# What tells Anthropic's clients apart there.
HEADER = "anthropic-version"


def anthropic_value(entry: Entry, name: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(int(modified_seconds(entry)), timezone.utc)
    return {
        "type": "model",
        "id": name,
        "display_name": entry.card.name or name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
    }


def anthropic_list(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All of them on one page."""
    return {
        "data": models,
        "has_more": False,
        "first_id": models[0]["id"] if models else None,
        "last_id": models[-1]["id"] if models else None,
    }
